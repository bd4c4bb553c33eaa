"""The launcher: several supervised agents from one command, here on CPU."""
# ctest: PROCESSORS 1

import os
import re
import signal
import socket
import subprocess
import threading

import httpx
import pytest

from conftest import free_port, program, wait_until
from lm_process import Process
from proxy_fixtures import serve, status_of, wait_up  # noqa: F401

CHAT = "/v1/chat/completions"
SMALL = ["--model-name", "smollm2", "--session-len", 512, "--max-batch-size", 2, "--cache-max-tokens", 1024]
START = r"replica starts replica=(\S+) port=(\d+) process=(\d+)"


def free_ports(count):
    ports = set()
    while len(ports) < count:
        ports.add(free_port())
    return list(ports)


class Launcher(Process):
    def __init__(self, model, *arguments, replicas=2, **kwargs):
        self.ports = free_ports(replicas)
        super().__init__(program("lm-agent"), model, "--server-name", "127.0.0.1", "--replicas", replicas,
                         "--ports", ",".join(map(str, self.ports)), *SMALL, *arguments, name="launcher",
                         **kwargs)

    def wait_all_ready(self, count=1):
        self.wait_log(r"launcher: all replicas are ready replicas=\d+ ports=[\d,]+", count=count)
        return self

    def process_of(self, name, count=1):
        """Process id of its `count`-th start."""
        pattern = START.replace(r"(\S+)", re.escape(name))
        return int(self.wait_log(pattern, count=count).group(2))

    def ask(self, number, **more):
        return httpx.post(f"http://127.0.0.1:{self.ports[number]}" + CHAT, timeout=120, json={
            "model": "smollm2", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4, **more})

    def children(self):
        return {int(pid) for _, _, pid in re.findall(START, self.log)}


@pytest.fixture
def launch(starter, model_path):
    """launch(*flags, replicas=2, ready=True, model=None) -> Launcher"""
    def start(*arguments, ready=True, model=None, **kwargs):
        launcher = Launcher(model or model_path, *arguments, **kwargs)
        starter.started.append(launcher)
        return launcher.wait_all_ready() if ready else launcher
    yield start
    for launcher in starter.started:  # no orphans, however it ended
        if isinstance(launcher, Launcher):
            launcher.stop(60)
            assert not any(map(is_alive, launcher.children()))


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def loads(port):
    try:
        return httpx.get(f"http://127.0.0.1:{port}/ready").json() == {"status": "loading"}
    except httpx.ConnectError:
        return False


def run_launcher(*arguments, env=None):
    return subprocess.run([program("lm-agent"), *map(str, arguments)], capture_output=True, text=True,
                          timeout=60, check=False, env={**os.environ, **(env or {})})


def test_fleet_behind_a_proxy(launch, serve):  # noqa: F811
    """Both serve, each under a name of its own; one that is killed comes back under its name."""
    proxy = serve()
    launcher = launch("--proxy-url", proxy.url, "--agent-id", "node-1", "--restart-delay", 0.2)
    wait_up(proxy, "node-1-cpu0", "node-1-cpu1", timeout=15)
    nodes = {url: node["id"] for url, node in proxy.get("/nodes/status").json().items()}
    assert nodes == {f"http://127.0.0.1:{port}": f"node-1-cpu{i}" for i, port in enumerate(launcher.ports)}
    with httpx.Client(timeout=120) as client:
        for _ in range(6):
            answer = client.post(proxy.url + CHAT, json={
                "model": "smollm2", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2})
            assert answer.status_code == 200, answer.text
    assert [launcher.ask(number).status_code for number in (0, 1)] == [200, 200]

    os.kill(launcher.process_of("cpu1"), signal.SIGKILL)
    launcher.wait_log(r"replica ended, starting it anew replica=cpu1 status=0 signal=9 .* pause_s=0.20 in_a_row=1")
    launcher.wait_all_ready(count=2)
    assert launcher.process_of("cpu1", count=2) != launcher.process_of("cpu1")
    wait_up(proxy, "node-1-cpu0", "node-1-cpu1", timeout=15)
    assert launcher.ask(1).status_code == 200
    launcher.stop()  # and its status is 0
    wait_until(lambda: not status_of(proxy), 10, "both gone from the fleet")


def test_order_and_prefixes(launch):
    """The first loads alone; each line of an agent says whose it is."""
    log = launch(replicas=3).log
    first_ready = log.index("launcher: replica is ready replica=cpu0")
    for name in ("cpu1", "cpu2"):
        assert first_ready < log.index(f"replica starts replica={name} ")
        assert len(re.findall(rf"^\[{name}\] \S+ INFO  lm-agent agent: ready url=", log, re.M)) == 1
    for line in log.splitlines():
        assert re.match(r"\[cpu[0-2]\] 20|20\S+ INFO  lm-agent launcher: ", line), line


def test_cores_are_divided(launch):
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        pytest.skip("one core can't be divided")
    log = launch("--cpu-list", f"{cores[0]},{cores[1]}").log
    assert len(re.findall(r"^\[cpu[01]\] .*model loaded .*, 1 thread\"", log, re.M)) == 2


def test_replicas_of_several_ranks(launch):
    """--tp goes to each agent, whose ranks share its cores."""
    launcher = launch("--tp", 2, replicas=2)
    answers = {launcher.ask(number, temperature=0).json()["choices"][0]["message"]["content"] for number in (0, 1)}
    assert len(answers) == 1
    assert len(re.findall(r"^\[cpu[01]\] .*model loaded .*\b2 ranks\b", launcher.log, re.M)) == 2


def test_drain(launch):
    """SIGTERM: what runs is finished, then all end by themselves. A service manager may send it to the agents, too."""
    launcher = launch()
    got = {}

    def read():
        got["answer"] = launcher.ask(1, max_tokens=150, ignore_eos=True)

    thread = threading.Thread(target=read)
    thread.start()
    url = f"http://127.0.0.1:{launcher.ports[1]}/metrics"
    wait_until(lambda: "\nlm_agent_running 1" in httpx.get(url).text, 30, "a running request")
    launcher.signal()
    launcher.wait_log("launcher: draining all replicas signal=Terminated")
    launcher.wait_log(r"\[cpu1\] .*draining")
    os.kill(launcher.process_of("cpu1"), signal.SIGTERM)
    thread.join()
    assert got["answer"].json()["usage"]["completion_tokens"] == 150
    assert launcher.wait(30) == 0
    assert "all replicas have ended status=0" in launcher.log


def test_ctrl_c_comes_once(launch):
    """A terminal sends SIGINT to all processes of its foreground: a second one would cut the drain short."""
    launcher = launch()
    assert all(os.getsid(pid) == pid for pid in launcher.children())
    launcher.signal(signal.SIGINT)
    assert launcher.wait(30) == 0


def test_second_signal_kills(launch):
    launcher = launch()
    launcher.expect_status = None
    with httpx.stream("POST", f"http://127.0.0.1:{launcher.ports[0]}" + CHAT, timeout=60, json={
            "model": "smollm2", "messages": [{"role": "user", "content": "Hi"}], "stream": True,
            "ignore_eos": True, "max_tokens": 400}) as answer:
        next(answer.iter_raw())
        launcher.signal()
        launcher.wait_log(r"\[cpu0\] .*draining")
        launcher.signal()
        assert launcher.wait(20) == 128 + signal.SIGTERM


def test_no_orphans(launch):
    """However the launcher dies, its agents die with it, also one that is loading."""
    launcher = launch()
    children = launcher.children()
    assert len(children) == 2 and all(map(is_alive, children))
    launcher.kill()
    wait_until(lambda: not any(map(is_alive, children)), 5, "the end of all agents")


@pytest.mark.parametrize("early", [True, False])
def test_no_orphan_while_loading(launch, tmp_path, early):
    os.mkfifo(tmp_path / "slow.gguf")  # that nobody fills: a very slow disk
    launcher = launch(model=tmp_path / "slow.gguf", ready=False)
    child = launcher.process_of("cpu0")
    if not early:
        wait_until(lambda: loads(launcher.ports[0]), 20, "an agent that loads")
    launcher.kill()
    wait_until(lambda: not is_alive(child), 5, "the end of the agent")


def test_a_replica_that_was_told_to_end_comes_back(launch):
    launcher = launch("--restart-delay", 0.1)
    os.kill(launcher.process_of("cpu0"), signal.SIGTERM)
    launcher.wait_log(r"replica ended, starting it anew replica=cpu0 status=0 signal=0")
    launcher.wait_all_ready(count=2)


def test_a_replica_that_hangs_is_replaced(launch):
    launcher = launch("--health-timeout", 3, "--restart-delay", 0.1)
    os.kill(launcher.process_of("cpu1"), signal.SIGSTOP)
    launcher.wait_log(r'replica is unhealthy, killing it replica=cpu1 reason=".*no (answer|response) within 1000 ms"', 20)
    launcher.wait_log(r"starting it anew replica=cpu1 status=0 signal=9", 10)
    launcher.wait_all_ready(count=2)
    assert launcher.ask(1).status_code == 200
    assert "unhealthy, killing it replica=cpu0" not in launcher.log


def test_hangup_is_passed_on(launch, tmp_path):
    config = tmp_path / "agent.conf"
    config.write_text("log-level = info\n")
    launcher = launch("--config", config)
    config.write_text("log-level = debug\n")
    launcher.signal(signal.SIGHUP)
    for name in ("cpu0", "cpu1"):
        launcher.wait_log(rf"^\[{name}\] .*config: reloaded log_level=debug", 10)
    config.write_text("log-level = loud\n")
    launcher.signal(signal.SIGHUP)
    launcher.wait_log(r"^\[cpu1\] .*reload refused, nothing has changed reason=.*'loud'", 10)
    assert launcher.ask(0).status_code == 200


class TakenPort:
    def __init__(self, port):
        self.socket = socket.socket()
        self.socket.bind(("127.0.0.1", port))
        self.socket.listen()


def test_first_cannot_start(model_path):
    """A mistake in the settings: told at once, nothing is tried again."""
    port, other = free_ports(2)
    taken = TakenPort(port)
    done = run_launcher(model_path, "--server-name", "127.0.0.1", "--replicas", 2, "--ports", f"{port},{other}")
    taken.socket.close()
    assert done.returncode == 1
    assert re.search(rf"^\[cpu0\] lm-agent: .*{port}.*in use", done.stderr, re.M), done.stderr
    assert re.search(r'launcher: giving up replica=cpu0 reason="it cannot start"', done.stderr)
    assert done.stderr.index("in use") < done.stderr.index("giving up") and "cpu1" not in done.stderr
    done = run_launcher("absent.gguf", "--replicas", 2)
    assert done.returncode == 1 and "absent.gguf" in done.stderr


def test_another_cannot_start(launch, model_path):
    """The settings are good, so it is tried again; then the launcher gives up, and the others drain."""
    ports = free_ports(2)
    taken = TakenPort(ports[1])
    launcher = launch("--ports", f"{ports[0]},{ports[1]}", "--restarts", 2, "--restart-delay", 0.05, ready=False)
    launcher.expect_status = 1
    assert launcher.wait(60) == 1
    taken.socket.close()
    pauses = re.findall(r"starting it anew replica=cpu1 status=1 .* pause_s=(\S+)", launcher.log)
    assert pauses == ["0.05", "0.10"]
    assert len(re.findall(r"^\[cpu1\] lm-agent: .*in use", launcher.log, re.M)) == 3
    assert re.search(r"giving up replica=cpu1 reason=\"it ends again and again", launcher.log)
    assert re.search(r"^\[cpu0\] .*agent: stopped", launcher.log, re.M)


def test_a_crash_at_the_start_is_no_mistake_in_the_settings(launch, tmp_path):
    """A signal, such as the kernel's when memory runs out: others have their turn, then it is tried again."""
    os.mkfifo(tmp_path / "slow.gguf")
    launcher = launch("--restart-delay", 0.1, model=tmp_path / "slow.gguf", ready=False)
    os.kill(launcher.process_of("cpu0"), signal.SIGKILL)
    launcher.wait_log(r"starting it anew replica=cpu0 status=0 signal=9")
    os.kill(launcher.process_of("cpu1"), signal.SIGKILL)
    launcher.process_of("cpu0", count=2)


def test_options_that_agents_refuse(model_path):
    done = run_launcher(model_path, "--replicas", 2, "--redis-url", "http://x", "--restarts", 0)
    assert done.returncode == 2 and "it does not take its options" in done.stderr, done.stderr


def expect_refusal(word, *arguments):
    done = run_launcher("m.gguf", *arguments)
    lines = done.stderr.splitlines()
    assert done.returncode == 2 and len(lines) == 1 and lines[0].startswith("lm-agent: "), done.stderr
    assert word in lines[0], lines[0]


def test_options_that_make_no_sense_together():
    expect_refusal("--replicas 3 of --tp 2", "--gpus", "0-7", "--tp", 2, "--replicas", 3)
    expect_refusal("--ports names 1", "--replicas", 2, "--ports", 5)
    expect_refusal("--ports are for several agents", "--ports", "5,6")
    expect_refusal("twice", "--gpus", "1,1")
    expect_refusal("65535", "--gpus", "0-7", "--server-port", 65530)


def test_dry_run_prints_the_plan():
    done = run_launcher("m.gguf", "--gpus", "0-7", "--tp", 2, "--replicas", 4, "--join-key", "secret", "--dry-run",
                        env={"CUDA_VISIBLE_DEVICES": "7,6,5,4,3,2,1,GPU-0", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"})
    assert done.returncode == 0 and not done.stderr
    rows = [re.match(r"(\S+) +port (\d+) +(.*)", line).groups() for line in done.stdout.splitlines()]
    assert [row[:2] for row in rows] == [("gpu0", "23333"), ("gpu2", "23353"), ("gpu4", "23373"), ("gpu6", "23393")]
    assert [row[2].split()[0] for row in rows] == [
        f"CUDA_VISIBLE_DEVICES={pair}" for pair in ("7,6", "5,4", "3,2", "1,GPU-0")]
    assert "secret" not in done.stdout
