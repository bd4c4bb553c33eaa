"""lm-agent --tp N: the same answers from several ranks, what they take, and a rank that stops answering."""
# ctest: PROCESSORS 1

import ctypes
import os
import re
import subprocess
import time

import pytest

from conftest import program

CHAT = "/v1/chat/completions"
PTRACE_ATTACH, PTRACE_DETACH = 16, 17
WALL = 0x40000000  # of waitpid: threads too


def question(text, **more):
    return {"model": "smollm2", "messages": [{"role": "user", "content": text}], "temperature": 0,
            "max_tokens": 24, "logprobs": True, "top_logprobs": 3, "seed": 1, **more}


def answer(agent, text, **more):
    reply = agent.post(CHAT, question(text, **more))
    assert reply.status_code == 200, reply.text
    return reply.json()["choices"][0]


@pytest.mark.parametrize("ranks", [2, 4])
def test_answers_of_several_ranks(agent, start_agent, ranks):
    """Bit for bit: texts, and the log-probabilities that print them to the last digit."""
    several = start_agent("--tp", ranks, "--model-name", "smollm2", "--max-prefill-token-num", 64)
    several.wait_log(rf"model loaded .*backend=\"{ranks} ranks of cpu")
    several.wait_log(r"rank loaded rank=\d+ weights_mib=\d+", count=ranks)
    for text in ["Why is the sky blue?", "Name three colours. " * 12]:
        assert answer(several, text) == answer(agent, text)
    sampled = {"temperature": 0.9, "seed": 7}
    assert answer(several, "Tell me a story.", **sampled) == answer(agent, "Tell me a story.", **sampled)


def test_dry_run(model_path):
    done = subprocess.run([program("lm-agent"), "--dry-run", "--tp", "2", "--threads", "2", model_path],
                          capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert re.search(r"^backend +2 ranks of cpu", done.stdout, re.M)
    ranks = re.findall(r"^rank (\d) +weights ([\d.]+) MiB, .* KV cache (\d+) bytes for a token", done.stdout, re.M)
    assert [(rank, kv) for rank, _, kv in ranks] == [("0", "15360"), ("1", "7680")]  # 6 and 3 heads of 9
    assert all(40 < float(mib) < 60 for _, mib, _ in ranks)


def test_too_many_ranks(model_path):
    done = subprocess.run([program("lm-agent"), "--server-port", "0", "--tp", "10", model_path], capture_output=True,
                          text=True, timeout=60, check=False)
    assert done.returncode == 1 and "9 heads that share 3 are too few for 10 ranks" in done.stderr, done.stderr


def thread_called(pid, name):
    for tid in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{tid}/comm") as file:
            if file.read().strip() == name:
                return int(tid)
    raise AssertionError(f"no thread {name}")


class StoppedThread:
    """One thread of another process stands still, as one that hangs in a driver would. Left, it goes on."""

    def __init__(self, tid):
        self.tid = tid
        self.libc = ctypes.CDLL(None, use_errno=True)
        if self.libc.ptrace(PTRACE_ATTACH, tid, None, None) < 0:
            pytest.skip(f"ptrace is not allowed here: {os.strerror(ctypes.get_errno())}")
        os.waitpid(tid, WALL)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        """Also where the test fails: who is traced isn't gone before its tracer lets go, and nobody could wait for
        its process."""
        self.libc.ptrace(PTRACE_DETACH, self.tid, None, None)

    def reap(self):
        """The process ends: its thread is gone when its tracer has heard of it."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                tid, status = os.waitpid(self.tid, WALL | os.WNOHANG)
            except ChildProcessError:
                return
            if tid and (os.WIFEXITED(status) or os.WIFSIGNALED(status)):
                return
            time.sleep(0.05)


def test_a_rank_that_hangs_ends_the_agent(start_agent, start_proxy):
    """Quickly, with a reason, an answer for whoever waits, and no longer in the fleet."""
    proxy = start_proxy()
    agent = start_agent("--tp", 2, "--tp-timeout", 1, "--model-name", "smollm2", "--proxy-url", proxy.url)
    agent.expect_status = 1
    agent.wait_log("registered proxy=")
    assert answer(proxy, "Hello?")["finish_reason"]
    began = time.monotonic()
    with StoppedThread(thread_called(agent.popen.pid, "lm-rank-1")) as stopped:
        reply = agent.post(CHAT, question("Are you there?"))
        assert reply.status_code == 500 and "rank 1 did not answer" in reply.text, reply.text
        agent.wait_log(r"engine failed code=E_DEVICE error=\"rank 1 did not answer the other ranks for 1 s\"")
        agent.wait_log("leaving, as the engine has failed")
        stopped.reap()
    assert agent.wait(30) == 1
    assert time.monotonic() - began < 25
    deadline = time.monotonic() + 5
    while proxy.get("/v1/models").json()["data"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
