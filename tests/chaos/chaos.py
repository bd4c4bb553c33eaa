#!/usr/bin/env python3
"""Chaos: a cluster under constant load while each of its parts is killed and frozen in turn; run it as
scripts/chaos. Every answer is compared with what an undisturbed agent says."""

import argparse
import asyncio
import contextlib
import os
import shutil
import sys
import tempfile
import time

from cluster import Cluster
from faults import Faults
from verdict import Memory, Verdict
from workload import Cases, Client, Tally


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(
        prog="scripts/chaos", description="2 proxies, 3 agents and Redis under constant load, while each part is "
        "killed and frozen in turn. Exit status 0: nothing failed beyond what couldn't be helped, no token was lost or "
        "said twice, and nothing leaked.")
    add = parser.add_argument
    add("--minutes", type=float, default=10, help="how long faults go on [10]")
    add("--streams", type=int, default=200, help="concurrent clients [200]")
    add("--seed", type=int, default=1, help="of requests and faults [1]")
    add("--distinct", type=int, default=24, help="different requests of each kind [24]")
    add("--agents", type=int, default=3, help="lm-agents [3]")
    add("--threads", type=int, default=1, help="compute threads of an agent [1]")
    add("--longest-freeze", type=float, default=20, metavar="SECONDS", help="longest SIGSTOP; the shortest is 2 [20]")
    add("--only", default="", metavar="REGEX", help="only faults whose name matches, as in 'kill (agent|proxy)'")
    add("--membership", choices=["both", "redis", "http"], default="both",
        help="how proxies learn of agents [both]; http: without Redis, conversations then die with their agent")
    add("--bin-dir", default=os.environ.get("LM_BIN_DIR") or "build/release/bin",
        help="folder of lm-agent and lm-proxy [LM_BIN_DIR, else build/release/bin]")
    add("--model", default=os.environ.get("LM_MODEL"), help="a GGUF file [LM_MODEL, else scripts/fetch-model's]")
    add("--report", metavar="FILE", help="also write the report there")
    add("--keep", metavar="FOLDER", help="logs of all programs stay there; else a new folder, removed if all is well")
    given = parser.parse_args(arguments)
    if not given.model or not os.path.isfile(given.model):
        parser.error(f"there is no model '{given.model}': give --model, or run scripts/fetch-model")
    for name in ("lm-agent", "lm-proxy"):
        if not os.access(os.path.join(given.bin_dir, name), os.X_OK):
            parser.error(f"there is no {name} in '{given.bin_dir}': build it, or give --bin-dir")
    if not shutil.which("redis-server"):
        parser.error("there is no redis-server: scripts/install-deps")
    for name, least in (("streams", 4), ("distinct", 2), ("agents", 2), ("threads", 1)):
        if getattr(given, name) < least:
            parser.error(f"--{name} wants at least {least}")
    if given.minutes <= 0 or given.longest_freeze < 2:
        parser.error("--minutes wants more than 0, --longest-freeze at least 2")
    return given


def say(text):
    print(f"chaos: {text}", file=sys.stderr, flush=True)


async def watch(cluster, memory, tally, faults):
    """Every second: who died, how much memory; now and then a line for whoever waits."""
    shown = time.monotonic()
    while True:
        for part in cluster.parts:
            part.check_alive()
            memory.note(part, cluster.now())
        if time.monotonic() - shown >= 15:
            shown = time.monotonic()
            doing = faults.done[-1].name if faults.done else "warming up"
            say(f"{cluster.now():.0f} s: {sum(tally.right.values())} right, {len(tally.failed)} failed, "
                f"{len(tally.wrong)} wrong, {len(tally.impossible)} impossible; {doing}")
        await asyncio.sleep(1)


async def run_load(cluster, given, cases, verdict):
    tally = verdict.tally
    clients = [Client(n, cluster, cases, tally, given.seed) for n in range(given.streams)]
    faults = verdict.faults = Faults(cluster, given.seed, given.longest_freeze, given.only)
    cluster.began = time.monotonic()
    verdict.began = cluster.now()
    running = [asyncio.ensure_future(client.run()) for client in clients]
    watching = asyncio.ensure_future(watch(cluster, verdict.memory, tally, faults))
    inflicting = asyncio.ensure_future(faults.run())
    try:
        done, _ = await asyncio.wait([inflicting, *running], timeout=given.minutes * 60,
                                     return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()  # ours ended by an exception: say so now
        faults.stopping.set()
        await inflicting
        for client in clients:
            client.stopping = True
        _, stuck = await asyncio.wait(running, timeout=180)
        verdict.stuck = len(stuck)
    finally:
        for task in (watching, inflicting, *running):
            task.cancel()
        await asyncio.gather(watching, inflicting, *running, return_exceptions=True)
    verdict.ended = cluster.now()


async def chaos(given, folder):
    cluster = Cluster(folder, given.bin_dir, given.model, given.agents, membership=given.membership,
                      threads=given.threads)
    verdict = Verdict(given, cluster, Tally(), Memory())
    try:
        say(f"starting; logs in {folder}")
        await cluster.start()
        cases = Cases(given.distinct, given.seed)
        begin = time.monotonic()
        await cases.ask_references(cluster.agents[0].port)
        say(f"reference answers took {time.monotonic() - begin:.1f} s; {given.streams} streams for {given.minutes:g} min")
        await run_load(cluster, given, cases, verdict)
        await verdict.read_books()
    finally:
        verdict.endings = cluster.stop()
    verdict.complaints = [f"{part.name}: {line}" for part in cluster.parts for line in part.complaints()]
    return verdict


def main():
    given = parse_arguments()
    folder = given.keep or tempfile.mkdtemp(prefix="lm-chaos-")
    os.makedirs(folder, exist_ok=True)
    try:
        verdict = asyncio.run(chaos(given, folder))
    except RuntimeError as failure:
        say(f"FAILED: {failure}")
        return 1
    except KeyboardInterrupt:
        return 130
    text = verdict.report()
    verdict.write_outcomes(os.path.join(folder, "outcomes.txt"))
    print(text, flush=True)
    if given.report:
        with open(given.report, "w") as file:
            file.write(text + "\n")
    if verdict.is_good and not given.keep:
        with contextlib.suppress(OSError):
            shutil.rmtree(folder)
    return 0 if verdict.is_good else 1


if __name__ == "__main__":
    sys.exit(main())
