"""lm-client without a terminal: pipes, commands, exit codes, one line for every error."""

import os
import pathlib
import signal
import socket
import subprocess
import time

import pytest
from fake_openai import FakeOpenai

CLIENT = pathlib.Path(os.environ.get("LM_BIN_DIR", "build/check/bin")) / "lm-client"


def run(*arguments, stdin="", timeout=30):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LM_CLIENT_")}
    return subprocess.run([CLIENT, *arguments], input=stdin.encode() if isinstance(stdin, str) else stdin,
                          capture_output=True, timeout=timeout, env=environment, check=False)


@pytest.fixture
def server():
    with FakeOpenai() as fake:
        yield fake


def assert_one_error(result, code, *words):
    """One line on stderr that holds the words, nothing on stdout, that exit code."""
    text = result.stderr.decode()
    assert result.returncode == code, text
    assert text.startswith("lm-client: ") and text.count("\n") == 1, text
    for word in words:
        assert word in text
    assert result.stdout == b""


# ---- asking ----


def test_a_pipe_gives_the_answer_and_nothing_else(server):
    result = run(server.url, stdin="tell me more\n")
    assert (result.returncode, result.stdout, result.stderr) == (0, b"tell me more\n", b"")
    assert server.requests[0] == {"model": "fake-model", "stream": True, "messages": [
        {"role": "user", "content": "tell me more"}]}


def test_all_of_stdin_is_one_message(server):
    result = run(server.url, stdin="first line\n\nthird  line\n\n")
    assert result.stdout == b"first line\n\nthird  line\n"
    assert len(server.requests) == 1


def test_options_reach_the_request(server):
    run("--model", "other", "--system", "be brief", "--temperature", "0", "--max-tokens", "7",
        server.url, stdin="hi")
    assert server.requests[0] == {
        "model": "other-model", "stream": True, "temperature": 0, "max_tokens": 7, "messages": [
            {"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]}


@pytest.mark.parametrize("spelling", ["{}", "{}/", "{}/v1", "{}/v1/"])
def test_spellings_of_the_url(server, spelling):
    assert run(spelling.format(server.url), stdin="hi").stdout == b"hi\n"
    assert run(spelling.format(server.url.removeprefix("http://")), stdin="hi").stdout == b"hi\n"


def test_no_stream_asks_for_the_whole(server):
    assert run("--no-stream", server.url, stdin="at once").stdout == b"at once\n"
    assert server.requests[0]["stream"] is False


def test_a_server_may_answer_in_one_piece(server):
    assert run(server.url, stdin="whole").stdout == b"in one piece\n"


def test_unicode_and_escapes_pass_a_pipe_unchanged(server):
    text = "grüße 你好 🙂 \"quoted\" \\n"
    assert run(server.url, stdin=text).stdout.decode() == text + "\n"
    assert "\x1b[31m" in run(server.url, stdin="escape").stdout.decode()


def test_an_answer_cut_by_length_is_an_answer(server):
    result = run(server.url, stdin="length")
    assert (result.returncode, result.stdout, result.stderr) == (0, b"too long\n", b"")


def test_api_key_by_flag_and_environment():
    with FakeOpenai(api_key="secret") as fake:
        assert run("--api-key", "secret", fake.url, stdin="hi").stdout == b"hi\n"
        done = subprocess.run([CLIENT, fake.url], input=b"hi", capture_output=True, check=True,
                              env={**os.environ, "LM_CLIENT_API_KEY": "secret"})
        assert done.stdout == b"hi\n"
        assert_one_error(run(fake.url, stdin="hi"), 1, "401", "wrong API key")


# ---- commands ----


def test_models(server):
    result = run("models", server.url)
    assert (result.returncode, result.stdout) == (0, b"fake-model\nother-model\n")


def test_names_of_models_do_not_drive_the_terminal():
    with FakeOpenai(models=("a\x1b]0;title\x07", "two\nlines")) as fake:
        result = run("models", fake.url)
    assert result.returncode == 0
    assert result.stdout == b"a^[]0;title^G\ntwo lines\n"


def test_status_of_a_fleet():
    nodes = {"http://127.0.0.1:1": {"models": ["m"], "unfinished": 3, "latency": [0.25], "speed": 12,
                                    "state": "live", "running": 2, "waiting": 1, "kv_used_share": 0.5},
             "http://127.0.0.1:2": {"models": ["m", "n"], "unfinished": 0, "latency": [], "speed": None}}
    with FakeOpenai(nodes=nodes) as fake:
        lines = run("status", fake.url).stdout.decode().splitlines()
    assert lines[0].split() == ["AGENT", "STATE", "UNFINISHED", "RUNNING", "WAITING", "KV", "LATENCY",
                                "SPEED", "MODELS"]
    assert lines[1].split() == ["http://127.0.0.1:1", "live", "3", "2", "1", "50", "%", "0.250", "s", "12", "m"]
    assert lines[2].split() == ["http://127.0.0.1:2", "-", "0", "-", "-", "-", "-", "-", "m,", "n"]
    assert lines[3] == "2 agents"


def test_status_of_a_lone_agent(server):
    lines = run("status", server.url).stdout.decode().splitlines()
    assert lines[0].split() == ["AGENT", "HEALTHY", "READY", "MODELS"]
    assert lines[1].split() == [server.url, "yes", "no", "fake-model,", "other-model"]


# ---- what goes wrong ----


def test_unreachable_server():
    with socket.socket() as s:  # bound, never listening: connecting is refused
        s.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{s.getsockname()[1]}"
        for arguments in ([url], ["models", url], ["status", url]):
            assert_one_error(run(*arguments, stdin="hi"), 1, "refused")


def test_a_port_that_speaks_no_http():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        s.settimeout(20)
        process = subprocess.Popen([CLIENT, "models", f"127.0.0.1:{s.getsockname()[1]}"],
                                   stderr=subprocess.PIPE, stdout=subprocess.PIPE)
        peer, _ = s.accept()
        peer.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
        out, err = process.communicate(timeout=20)
        peer.close()
    assert process.returncode == 1 and out == b""
    assert err.startswith(b"lm-client: ") and err.count(b"\n") == 1


@pytest.mark.parametrize("message, words", [
    ("refuse", ["answered 400", "I will not say that"]),
    ("html", ["answered 502", "Bad Gateway"]),
    ("garbage", ["not JSON"]),
])
def test_answers_that_are_errors(server, message, words):
    assert_one_error(run(server.url, stdin=message), 1, *words)


@pytest.mark.parametrize("message, words", [
    ("cut", "cut off"),
    ("unfinished", "before it was complete"),
    ("failing", "the engine lost a device"),
])
def test_answers_that_break_off_fail(server, message, words):
    result = run(server.url, stdin=message)
    assert result.returncode == 1
    assert words in result.stderr.decode()
    assert result.stderr.count(b"\n") == 1


def test_unknown_model_and_no_model(server):
    assert_one_error(run("--model", "nope", server.url, stdin="x"), 1, "'nope'")
    with FakeOpenai(models=()) as empty:
        assert_one_error(run(empty.url, stdin="x"), 1, "no model")


@pytest.mark.parametrize("arguments", [
    [], ["models"], ["nonsense", "http://127.0.0.1:1"], ["http://127.0.0.1:1", "--bogus"],
    ["https://"], ["http://"], ["http://127.0.0.1:99999"], ["ftp://x"],
    ["--temperature", "9", "http://127.0.0.1:1"],
])
def test_usage_errors(arguments):
    assert_one_error(run(*arguments, stdin="x"), 2)


@pytest.mark.parametrize("stdin, word", [
    ("", "empty"), ("\n \n", "empty"), (b"\xff\xfe", "UTF-8"), (b"a\0b", "UTF-8")])
def test_stdin_that_is_no_message(server, stdin, word):
    assert_one_error(run(server.url, stdin=stdin), 2, word)
    assert server.requests == []


def test_help_and_version():
    assert b"lm-client status URL" in run("--help").stdout
    assert run("--version").stdout.startswith(b"lm-client ")


# ---- signals and readers that leave ----


def start_endless(server):
    process = subprocess.Popen([CLIENT, server.url], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE)
    process.stdin.write(b"forever")
    process.stdin.close()
    assert process.stdout.read(6) == b"and on"
    return process


def test_ctrl_c_ends_the_answer_and_tells_the_server(server):
    process = start_endless(server)
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 130
    assert process.stderr.read() == b""
    assert server.client_left.wait(10)


def test_a_reader_that_leaves_ends_the_answer(server):
    process = start_endless(server)
    process.stdout.close()
    assert process.wait(10) == 1
    assert server.client_left.wait(10)


def test_the_answer_comes_as_it_is_written(server):
    started = time.monotonic()
    process = start_endless(server)
    assert time.monotonic() - started < 20  # the whole takes 40 s
    process.kill()
    process.wait(10)
