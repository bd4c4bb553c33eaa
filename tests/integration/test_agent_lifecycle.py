"""Starting, failing to start, draining, ending."""
# ctest: PROCESSORS 1

import os
import re
import signal
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from conftest import free_port, program, wait_until

CHAT = "/v1/chat/completions"


def question(**more):
    return {"model": "smollm2", "messages": [{"role": "user", "content": "Why is the sky blue?"}],
            "temperature": 0, "ignore_eos": True, **more}


def run_agent(*arguments, timeout=60):
    return subprocess.run([program("lm-agent"), *map(str, arguments)], capture_output=True, text=True,
                          timeout=timeout, check=False)


def expect_one_line(done, status, *words):
    assert done.returncode == status, (done.returncode, done.stderr)
    lines = [line for line in done.stderr.splitlines() if line]
    assert len(lines) == 1 and lines[0].startswith("lm-agent: "), done.stderr
    for word in words:
        assert word in lines[0], lines[0]


def test_ready_line(start_agent):
    agent = start_agent("--model-name", "m-1")
    line = agent.wait_log(r"ready url=(\S+) model=(\S+) backend=\"(.+)\" context=(\d+)")
    assert line.group(1) == agent.url and line.group(2) == "m-1"
    assert "cpu" in line.group(3) and int(line.group(4)) >= 2048
    assert agent.get("/v1/models").json()["data"][0]["id"] == "m-1"
    assert agent.get("/ready").json() == {"status": "ready"}
    assert agent.get("/health").json() == {"status": "healthy"}


def test_name_from_file(start_agent, model_path):
    agent = start_agent()
    name = os.path.basename(model_path).removesuffix(".gguf")
    assert agent.get("/v1/models").json()["data"][0]["id"] == name


def test_answers_while_loading(start_agent, tmp_path):
    """The port answers before the model is there. A pipe that nobody fills is a very slow disk."""
    slow = tmp_path / "slow.gguf"
    os.mkfifo(slow)
    port = free_port()
    agent = start_agent("--server-port", port, model=slow, ready=False)
    agent.port = port
    try:
        wait_until(lambda: can_connect(port), 20)
    except AssertionError:
        pytest.fail(agent.log)
    if agent.is_running():  # a loader may also refuse what isn't a plain file, which ends the agent
        ready = agent.get("/ready")
        assert ready.status_code == 503 and ready.json() == {"status": "loading"}
        assert agent.get("/health").status_code == 200
        answer = agent.post(CHAT, question())
        assert answer.status_code == 503 and answer.headers["retry-after"] == "1"
    agent.expect_status = None


def can_connect(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    except OSError:
        return False


def test_usage_errors():
    expect_one_line(run_agent(), 2, "no model given")
    expect_one_line(run_agent("m.gguf", "--sevrer-port", "1"), 2, "server-port")
    expect_one_line(run_agent("m.gguf", "--server-port", "port"), 2, "--server-port")
    expect_one_line(run_agent("m.gguf", "--dtype", "int1"), 2, "dtype")
    expect_one_line(run_agent("m.gguf", "extra"), 2, "extra")
    expect_one_line(run_agent("m.gguf", "--advertise", "0.0.0.0"), 2, "--advertise")
    expect_one_line(run_agent("m.gguf", "--proxy-url", "nonsense://x"), 2, "--proxy-url")
    expect_one_line(run_agent("m.gguf", "--server-port", "0", "--redis-url", "http://x"), 2, "redis")


def test_help_and_version():
    done = run_agent("--help")
    assert done.returncode == 0 and "--server-port" in done.stdout and not done.stderr
    done = run_agent("--version")
    assert done.returncode == 0 and re.search(r"\d+\.\d+\.\d+", done.stdout)


def test_cannot_start(tmp_path, model_path):
    expect_one_line(run_agent(tmp_path / "absent.gguf", "--server-port", 0), 1, "absent.gguf")
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"this is not a model")
    expect_one_line(run_agent(bad, "--server-port", 0), 1, "bad.gguf")
    with open(model_path, "rb") as model:
        bad.write_bytes(model.read(2_000_000))
    expect_one_line(run_agent(bad, "--server-port", 0), 1)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run_agent(model_path, "--server-name", "127.0.0.1", "--server-port", port)
        expect_one_line(done, 1, str(port), "in use")


def test_environment_and_file(start_agent, tmp_path):
    config = tmp_path / "agent.conf"
    config.write_text("model-name = from-file\nmax-batch-size = 3\n")
    agent = start_agent("--config", config, env={"LM_AGENT_MODEL_NAME": "from-environment"})
    assert agent.get("/v1/models").json()["data"][0]["id"] == "from-environment"
    assert "batch=3" in agent.log


def test_session_len(start_agent):
    agent = start_agent("--model-name", "smollm2", "--session-len", "64")
    assert agent.get("/v1/models").json()["data"][0]["max_model_len"] == 64
    answer = agent.post(CHAT, question()).json()
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["total_tokens"] == 64
    answer = agent.post(CHAT, question(messages=[{"role": "user", "content": "word " * 80}]))
    assert answer.status_code == 400
    message = answer.json()["error"]["message"]
    assert re.fullmatch(r"This model's maximum context length is 64 tokens\. However, your messages "
                        r"resulted in \d+ tokens\. Please reduce the length of the messages\.", message)


def test_idle_end(start_agent):
    agent = start_agent()
    agent.signal()
    assert agent.wait(20) == 0
    assert "draining" in agent.log and "stopped" in agent.log


def test_drain(start_agent):
    """SIGTERM: what runs is finished, what comes is sent elsewhere, then the process ends with 0."""
    agent = start_agent("--model-name", "smollm2")
    got = {}

    def read():
        with httpx.stream("POST", agent.url + CHAT, timeout=120,
                          json=question(stream=True, max_tokens=200)) as answer:
            got["text"] = answer.read().decode()

    def ask_whole():
        got["whole"] = agent.post(CHAT, question(max_tokens=200))

    threads = [threading.Thread(target=read), threading.Thread(target=ask_whole)]
    for thread in threads:
        thread.start()
    agent.wait_metric("running", lambda n: n == 2, 60)
    with httpx.Client(base_url=agent.url, timeout=30) as kept:
        assert kept.get("/ready").status_code == 200
        agent.signal()
        agent.wait_log("draining")
        ready = kept.get("/ready")
        assert ready.status_code == 503 and ready.json() == {"status": "draining"}
        refused = kept.post(CHAT, json=question())
        assert refused.status_code == 503 and int(refused.headers["retry-after"]) >= 1
        assert refused.json()["error"]["code"] == "service_unavailable"
        assert kept.get("/health").status_code == 200
    for thread in threads:
        thread.join()
    assert got["text"].endswith("data: [DONE]\n\n")
    assert got["text"].count("data: ") > 100
    assert got["whole"].status_code == 200
    assert got["whole"].json()["usage"]["completion_tokens"] == 200
    assert agent.wait(20) == 0


def test_drain_timeout(start_agent):
    agent = start_agent("--model-name", "smollm2", "--drain-timeout", 1, "--max-batch-size", 1)
    body = question(stream=True, max_tokens=100_000)
    with httpx.stream("POST", agent.url + CHAT, json=body, timeout=60) as answer:
        agent.wait_metric("running", lambda n: n == 1, 60)
        begin = time.monotonic()
        agent.signal()
        text = answer.read().decode()
    assert "[DONE]" not in text
    assert '"type":"server_error"' in text.strip().split("\n\n")[-1]
    assert agent.wait(20) == 0
    assert time.monotonic() - begin < 15


def test_request_timeout(start_agent):
    """Of what runs, whole and streamed, and of what still waits."""
    agent = start_agent("--model-name", "smollm2", "--request-timeout", 1, "--max-batch-size", 2)
    long = {"max_tokens": 100_000}
    with ThreadPoolExecutor() as pool:
        asked = [pool.submit(agent.post, CHAT, question(stream=stream, **long))
                 for stream in (True, False, False, False)]
        stream, *whole = (answer.result() for answer in asked)
    assert stream.status_code == 200 and "[DONE]" not in stream.text
    assert '"code":"request_timeout"' in stream.text.strip().split("\n\n")[-1]
    for answer in whole:
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "request_timeout"
        assert int(answer.headers["retry-after"]) >= 1
    # Its second is for the next one, too, which a slow machine may need several of to do a token.
    wait_until(lambda: agent.post(CHAT, question(max_tokens=1)).status_code == 200, 60, "an answer")


def test_second_signal_ends_at_once(start_agent):
    agent = start_agent("--model-name", "smollm2")
    agent.expect_status = None
    with httpx.stream("POST", agent.url + CHAT, json=question(stream=True, max_tokens=100_000),
                      timeout=60):
        agent.wait_metric("running", lambda n: n == 1, 60)
        agent.signal()
        agent.wait_log("draining")
        agent.signal(signal.SIGINT)
        assert agent.wait(10) == 128 + signal.SIGINT


def test_idle_costs_nothing(agent):
    """An agent with nothing to do doesn't spin: threads sleep."""
    agent.wait_metric("running", lambda n: n == 0)
    ticks = os.sysconf("SC_CLK_TCK")

    def cpu_s():
        with open(f"/proc/{agent.popen.pid}/stat") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / ticks

    time.sleep(0.2)
    before = cpu_s()
    time.sleep(2)
    assert cpu_s() - before < 0.1


def test_dry_run(start_agent, model_path):
    """What is printed is what a start takes, and no port is opened for it."""
    done = run_agent("--dry-run", "--max-batch-size", 4, "--session-len", 1024, model_path)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    said = dict(re.match(r"(KV cache|\S+)\s+(.*)", line).groups() for line in done.stdout.splitlines())
    assert said["family"] == "llama" and said["format"] == "gguf, floats as they are" and said["parameters"] == "134.5 million"
    assert re.fullmatch(r"f16, 23040 bytes for a token; 4096 tokens fit, 90\.0 MiB", said["KV cache"])
    agent = start_agent("--max-batch-size", 4, "--session-len", 1024)
    line = agent.wait_log(r"model loaded .* kv_tokens=4096 weights_mib=(\d+) activations_mib=(\d+)")
    for what, mib in zip(("weights", "activations"), line.groups()):
        assert abs(float(said[what].split()[0]) - int(mib)) <= 2  # whole huge pages
