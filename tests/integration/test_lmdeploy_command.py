"""scripts/lmdeploy: what becomes of every option of LMDeploy, its commands against real programs, its conversations
at a terminal."""
# ctest: PROCESSORS 1

import os
import pathlib
import re
import shutil
import signal
import subprocess

import lmdeploy_client
import pytest
from conftest import ROOT, program, wait_until
from fake_openai import FakeOpenai
from lm_process import ProcessError, Server
from test_client_terminal import CTRL_C, CTRL_D, Terminal

SCRIPT = pathlib.Path(ROOT, "scripts/lmdeploy")
PROMPT = ">>> "
SMALL = ["--session-len", "512", "--max-batch-size", "2", "--cache-max-tokens", "1024"]

# Options of `lmdeploy serve api_server` of the releases 0.6.5, 0.9.2 and 0.16.0, with how many values they take.
API_SERVER = {
    "server-name": "1", "server-port": "1", "allow-origins": "n", "allow-credentials": "0", "allow-methods": "n",
    "allow-headers": "n", "proxy-url": "1", "max-concurrent-requests": "1", "backend": "1", "log-level": "1",
    "api-keys": "n", "ssl": "0", "model-name": "1", "max-log-len": "1", "disable-fastapi-docs": "0",
    "allow-terminate-by-client": "0", "enable-abort-handling": "0", "chat-template": "1", "tool-call-parser": "1",
    "reasoning-parser": "1", "revision": "1", "download-dir": "1", "generation-config": "1",
    "trust-remote-code": "0", "allowed-media-domains": "n", "tp": "1", "dp": "1", "ep": "1", "cp": "1",
    "nnodes": "1", "node-rank": "1", "dist-init-addr": "1", "session-len": "1", "max-batch-size": "1",
    "cache-max-entry-count": "1", "cache-block-seq-len": "1", "enable-prefix-caching": "0",
    "max-prefill-token-num": "1", "num-tokens-per-iter": "1", "max-prefill-iters": "1", "quant-policy": "1",
    "rope-scaling-factor": "1", "model-format": "1", "dtype": "1", "adapters": "n", "device": "1", "eager-mode": "0",
    "vision-max-batch-size": "1", "communicator": "1", "hf-overrides": "1", "enable-metrics": "0",
    "disable-metrics": "0", "role": "1", "migration-backend": "1", "enable-microbatch": "0", "enable-eplb": "0",
    "logprobs-mode": "1", "dllm-block-length": "1", "dllm-unmasking-strategy": "1", "dllm-denoising-steps": "1",
    "dllm-confidence-threshold": "1", "enable-return-routed-experts": "0", "distributed-executor-backend": "1",
    "kernel-block-size": "1", "prefix-cache-state-budget": "1", "prefix-cache-decode-state-interval": "1",
    "language-model-only": "0", "async": "1", "cudagraph-capture-batch-sizes": "n", "speculative-algorithm": "1",
    "speculative-draft-model": "1", "speculative-num-draft-tokens": "1", "disable-vision-encoder": "0",
}
PROXY = {
    "server-name": "1", "server-port": "1", "strategy": "1", "routing-strategy": "1", "api-keys": "n", "ssl": "0",
    "log-level": "1", "serving-strategy": "1", "dummy-prefill": "0", "disable-cache-status": "0",
    "migration-protocol": "1", "link-type": "1", "disable-gdr": "0",
}
API_CLIENT = {"api-key": "1", "session-id": "1"}


def table(name):
    """name -> (values, fate, text) of a table of the script."""
    rows = re.search(rf"^read -rd '' {name} <<'EOT' \|\| true\n(.*?)^EOT$", SCRIPT.read_text(), re.S | re.M).group(1)
    return {row[0]: (row[1], row[2], row[3] if len(row) > 3 else "")
            for row in (line.split(None, 3) for line in rows.splitlines())}


def own_options(program_name):
    """name -> values, as --help-markdown has them."""
    done = subprocess.run([program(program_name), "--help-markdown"], capture_output=True, text=True, check=True)
    found = re.findall(r"^\| `--(?:\[no-\])?([a-z0-9-]+)(?: ([^`]+))?`.*$", done.stdout, re.M)
    names = {name: "n" if value.endswith("...") else "1" if value else "0" for name, value in found}
    for name, alias in re.findall(r"^\| `--([a-z0-9-]+).*also `--([a-z0-9-]+)`", done.stdout, re.M):
        names[alias] = names[name]
    return names


def run(*arguments, path=None, stdin="", env=None, timeout=60):
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("LM_AGENT_", "LM_CLIENT_", "LM_PROXY_"))}
    return subprocess.run([path or program("lmdeploy"), *map(str, arguments)], input=stdin, capture_output=True,
                          text=True, timeout=timeout, env={**environment, **(env or {})}, check=False)


# ---- the tables ----


@pytest.mark.parametrize("name, known", [("agent_flags", API_SERVER), ("proxy_flags", PROXY),
                                         ("client_flags", API_CLIENT)])
def test_no_option_is_forgotten(name, known):
    rows = table(name)
    assert {option: values for option, (values, _, _) in rows.items()} == known
    for option, (_, fate, text) in rows.items():
        kind = fate.split(":")[0]
        assert kind in ("pass", "as", "ignore", "only", "refuse"), option
        assert bool(text) == (kind in ("ignore", "only", "refuse") or fate.startswith("pass:")), option


@pytest.mark.parametrize("name, program_name", [("agent_flags", "lm-agent"), ("proxy_flags", "lm-proxy"),
                                                ("client_flags", "lm-client")])
def test_what_goes_on_is_what_the_program_takes(name, program_name):
    """And what is dropped or refused whole it has no option for. One that it doesn't have (yet) it refuses itself."""
    own = own_options(program_name)
    compared = 0
    for option, (values, fate, _) in table(name).items():
        if fate in ("ignore", "refuse"):
            assert option not in own, option
        elif option in own:
            # LMDeploy's --proxy-url and --strategy stand alone; a list of ours that repeats the flag takes one, too
            assert own[option] == values, option
            compared += 1
    assert compared >= 2


@pytest.fixture(scope="module")
def echo(tmp_path_factory):
    """echo(command...) -> (arguments that the program got, stderr, status): the script beside programs that only say
    what they were given."""
    folder = tmp_path_factory.mktemp("echo")
    shutil.copy(SCRIPT, folder / "lmdeploy")
    for name in ("lm-agent", "lm-proxy", "lm-client"):
        (folder / name).write_text(
            f"#!/bin/bash\nif [[ $1 == --help-markdown ]]; then exec '{program(name)}' \"$@\"; fi\n"
            f"printf '%s\\0' {name} \"$@\" >\"$0.arguments\"\n")
        (folder / name).chmod(0o755)

    def call(*arguments, env=None):
        for old in folder.glob("*.arguments"):
            old.unlink()
        done = run(*arguments, path=folder / "lmdeploy", env=env)
        got = [path.read_text().split("\0")[:-1] for path in folder.glob("*.arguments")]
        return (got[0] if got else None), done.stderr, done.returncode
    return call


SERVE = ("serve", "api_server", "org/model")


@pytest.mark.parametrize("given, passed", [
    (["--server-port", "1", "--tp=2"], ["--server-port", "1", "--tp=2"]),
    (["--server_port", "1", "--session_len=7"], ["--server_port", "1", "--session_len=7"]),
    (["--api-keys", "a", "b b", "--allow-origins", "x", "*"], ["--api-keys", "a", "b b", "--allow-origins", "x", "*"]),
    (["--model-name", "a name with  blanks"], ["--model-name", "a name with  blanks"]),
    (["--chat-template", "/a folder/b.json"], ["--chat-template", "/a folder/b.json"]),
    (["--backend", "turbomind", "--tp", "1"], ["--tp", "1"]),
    (["--backend=pytorch", "--eager-mode", "--trust_remote_code", "--tp", "1"], ["--tp", "1"]),
    (["--cudagraph-capture-batch-sizes", "1", "2", "4", "--tp", "1"], ["--tp", "1"]),
    (["--kernel-block-size", "-1", "--tp", "1"], ["--tp", "1"]),
    (["--dp", "1", "--nnodes=1", "--node-rank", "0", "--rope-scaling-factor", "0.0", "--role", "Hybrid"], []),
    (["--quant-policy", "int8"], ["--quant-policy", "8"]),
    (["--quant-policy=none"], ["--quant-policy", "0"]),
    (["--quant-policy", "8"], ["--quant-policy", "8"]),
    (["--cache-max-entry-count", "0.5"], ["--cache-max-entry-count", "0.5"]),
    (["--cache-max-entry-count", "1"], ["--cache-max-entry-count", "1"]),
    (["--generation-config", "auto", "--device", "cuda", "--model-format", "awq"],
     ["--generation-config", "auto", "--device", "cuda", "--model-format", "awq"]),
    (["--redis-url", "redis://h", "--dry-run", "--gpus", "0-7"], ["--redis-url", "redis://h", "--dry-run", "--gpus", "0-7"]),
    (["--no-such-thing", "x"], ["--no-such-thing", "x"]),  # lm-agent's to judge
    (["--=x", "--$(touch /nonexistent)", "--a]b", "--@"], ["--=x", "--$(touch /nonexistent)", "--a]b", "--@"]),
    (["--ssl", "--max-log-len", "10", "--reasoning-parser", "deepseek-r1"],
     ["--ssl", "--max-log-len", "10", "--reasoning-parser", "deepseek-r1"]),
])
def test_options_on_their_way(echo, given, passed):
    got, _, status = echo(*SERVE, *given)
    assert (got, status) == (["lm-agent", "org/model", *passed], 0)


@pytest.mark.parametrize("given, words", [
    (["--adapters", "a=/x"], ["--adapters", "merge"]),
    (["--dp", "2"], ["--dp 2", "--gpus 0-7"]),
    (["--nnodes=4"], ["--nnodes 4", "--proxy-url"]),
    (["--ep", "8"], ["--ep 8", "--tp"]),
    (["--rope-scaling-factor", "2.0"], ["--rope-scaling-factor 2.0", "config.json"]),
    (["--hf-overrides", '{"a": 1}'], ["--hf-overrides", "config.json"]),
    (["--hf-overrides.rope_scaling.factor=2"], ["--hf-overrides", "config.json"]),
    (["--speculative-algorithm", "eagle"], ["--speculative-algorithm", "leave it out"]),
    (["--cache-max-entry-count", "512"], ["--cache-max-entry-count 512", "--cache-max-tokens"]),
    (["--generation-config", "lmdeploy"], ["--generation-config lmdeploy", "none"]),
    (["--device", "ascend"], ["--device ascend", "cuda"]),
    (["--model-format", "llama"], ["--model-format llama", "Hugging Face"]),
    (["--role", "Prefill"], ["--role Prefill"]),
    (["--logprobs-mode", "raw_logits"], ["--logprobs-mode raw_logits"]),
    (["--dllm-block-length", "4"], ["diffusion"]),
    (["--backend"], ["--backend wants a value"]),
    (["--tp", "--backend", "pytorch"], ["--tp wants a value"]),
])
def test_what_would_change_results_is_an_error(echo, given, words):
    got, errors, status = echo(*SERVE, *given)
    assert (got, status) == (None, 2)
    assert errors.startswith("lmdeploy: ") and errors.count("\n") == 1
    for word in words:
        assert word in errors


def test_what_has_no_meaning_is_said_once(echo):
    _, errors, status = echo(*SERVE, "--backend", "pytorch", "--backend=turbomind", "--eager-mode", "--tp", "1")
    assert status == 0
    lines = errors.splitlines()
    assert [line.split(" is ignored: ")[0] for line in lines] == ["lmdeploy: --backend", "lmdeploy: --eager-mode"]
    assert echo(*SERVE, "--dp", "1", "--tp", "1")[1] == ""  # what happens anyway needs no word


def test_a_path_is_served_by_the_name_that_was_typed(echo, tmp_path):
    model = tmp_path / "a model.gguf"
    model.touch()
    assert echo("serve", "api_server", str(model))[0] == ["lm-agent", "--model-name", str(model), str(model)]
    for own in (["--model-name", "x"], ["--model_name=x"]):
        assert echo("serve", "api_server", str(model), *own)[0] == ["lm-agent", str(model), *own]
    assert echo("serve", "api_server", "--threads", "2", str(model))[0][1:3] == ["--model-name", str(model)]
    assert echo("serve", "api_server", str(model), env={"LM_AGENT_MODEL_NAME": "x"})[0] == ["lm-agent", str(model)]
    conf = tmp_path / "a.conf"
    conf.touch()
    assert echo("serve", "api_server", "--config", str(conf), str(model))[0] == \
        ["lm-agent", "--config", str(conf), str(model)]
    long = tmp_path / ("x" * 150)
    long.touch()
    assert echo("serve", "api_server", str(long))[0] == ["lm-agent", str(long)]


def test_proxy_options(echo):
    assert echo("serve", "proxy")[0] == ["lm-proxy"]
    got, errors, _ = echo("serve", "proxy", "--server-name", "::", "--server-port", "1", "--strategy", "random",
                          "--api-keys", "a", "b", "--serving-strategy", "Hybrid", "--disable-gdr", "--link-type", "RoCE")
    assert got == ["lm-proxy", "--server-name", "::", "--server-port", "1", "--strategy", "random", "--api-keys", "a", "b"]
    assert "--disable-gdr is ignored" in errors and "--link-type is ignored" in errors
    assert echo("serve", "proxy", "--serving-strategy", "DistServe")[::2] == (None, 2)
    assert echo("serve", "proxy", "--dummy-prefill")[::2] == (None, 2)


def test_client_options(echo):
    got, errors, status = echo("serve", "api_client", "http://h:1", "--api-key", "k", "--session-id", "3")
    assert (got, errors, status) == (["lm-client", "interactive", "http://h:1", "--api-key", "k", "--session-id", "3"], "", 0)
    got, errors, _ = echo("serve", "api_client", "h:1")
    assert got == ["lm-client", "interactive", "h:1"] and "WARNING: h:1 does not begin with http://" in errors
    assert echo("serve", "api_client", "--session_id=3")[::2] == (None, 2)


@pytest.mark.parametrize("level", ["CRITICAL", "FATAL", "ERROR", "WARN", "WARNING", "INFO", "DEBUG", "NOTSET"])
def test_log_levels_are_known(level):
    for name, more in (("lm-agent", ["/nonexistent/model", "--dry-run"]), ("lm-proxy", ["--help"])):
        done = subprocess.run([program(name), "--log-level", level, *more], capture_output=True, text=True, check=False)
        assert "--log-level" not in done.stderr


# ---- commands ----


@pytest.mark.parametrize("arguments, words", [
    ([], ["serve api_server", "check_env"]),
    (["--help"], ["serve api_server", "check_env"]),
    (["serve"], ["serve proxy", "serve api_client"]),
    (["serve", "-h"], ["serve proxy", "serve api_client"]),
    (["serve", "api_server", "-h"], ["lmdeploy serve api_server MODEL", "--backend", "there is one engine", "--adapters",
                                     "--session-len TOKENS"]),
    (["serve", "api_server", "org/model", "--tp", "2", "--help"], ["--session-len TOKENS"]),
    (["serve", "proxy", "--help"], ["lmdeploy serve proxy", "--dummy-prefill", "--routing-strategy"]),
    (["serve", "api_client", "--help"], ["lmdeploy serve api_client", "--session-id"]),
    (["chat", "--help"], ["lmdeploy chat MODEL", "--session-len TOKENS"]),
    (["check_env", "--help"], ["--redis-url", "--dump-file"]),
    (["-v"], ["0."]), (["--version"], ["0."]),
    (["list"], ["\ninternlm2\n", "\nqwen\n", "\nllama3_1\n"]),
])
def test_help_version_and_list(arguments, words):
    done = run(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    for word in words:
        assert word in done.stdout


@pytest.mark.parametrize("arguments, words", [
    (["sevre"], ["'sevre'", "lmdeploy serve'"]),
    (["serve", "api_sever"], ["'api_sever'", "lmdeploy serve api_server'"]),
    (["serve", "poxy"], ["lmdeploy serve proxy'"]),
    (["checkenv"], ["lmdeploy check_env'"]),
    (["something"], ["lmdeploy --help"]),
    (["serve", "gradio", "x"], ["api_server"]),
    (["convert", "a", "b"], ["as they are"]),
    (["lite", "auto_awq", "x"], ["AWQ"]),
    (["serve", "api_server"], ["no model"]),
    (["serve", "api_server", "--tp", "2"], ["no model"]),
    (["serve", "api_client"], ["no URL"]),
    (["chat"], ["no model"]),
    (["chat", "x", "--proxy-url", "http://h"], ["--proxy-url", "serve api_server"]),
    (["check_env", "--nonsense"], ["--nonsense"]),
    (["check_env", "--redis-url"], ["wants a value"]),
])
def test_usage_errors(arguments, words):
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("lmdeploy: ") and done.stderr.count("\n") == 1
    for word in words:
        assert word in done.stderr


def test_the_programs_judge_the_rest():
    done = run(*SERVE, "--sesion-len", "4")
    assert done.returncode == 2 and "did you mean '--session-len'" in done.stderr
    done = run(*SERVE, "--quant-policy", "4")
    assert done.returncode == 2 and "use 8" in done.stderr
    done = run("serve", "proxy", "--strategy", "nonsense")
    assert done.returncode == 2 and done.stderr.startswith("lm-proxy: ")


def test_list_is_what_the_option_knows(model_path):
    names = run("list").stdout.splitlines()[1:]
    assert len(names) > 20
    done = run("serve", "api_server", model_path, "--chat-template", "nonsense", "--dry-run", *SMALL)
    assert done.returncode == 1
    for name in names:
        assert name in done.stderr


def test_programs_are_looked_for_beside_the_script_in_the_build_and_in_path(tmp_path):
    alone = tmp_path / "alone"
    (alone / "bin").mkdir(parents=True)
    shutil.copy(SCRIPT, alone / "bin/lmdeploy")
    done = run("list", path=alone / "bin/lmdeploy", env={"PATH": "/usr/bin:/bin"})
    assert (done.returncode, done.stdout) == (1, "") and "there is no lm-agent" in done.stderr
    folder = os.path.dirname(program("lm-agent"))
    assert "internlm2" in run("list", path=alone / "bin/lmdeploy", env={"PATH": f"/usr/bin:/bin:{folder}"}).stdout
    link = tmp_path / "lmdeploy"  # as a package manager puts it into another folder
    link.symlink_to(program("lmdeploy"))
    assert "internlm2" in run("list", path=link, env={"PATH": "/usr/bin:/bin"}).stdout


def test_check_env(redis_url, tmp_path):
    secret = redis_url.replace("redis://", "redis://:a-password@")
    done = run("check_env", "--redis-url", redis_url, env={"HF_TOKEN": "hf_secret"})
    assert (done.returncode, done.stderr) == (0, "")
    rows = dict(line.split(None, 1) for line in done.stdout.splitlines() if line and not line.startswith(" "))
    assert program("lm-agent") in done.stdout and "libuv.so" in done.stdout and "CUDA module" in done.stdout
    assert {"lm-cluster", "system", "CPU", "memory", "GPU", "libraries", "environment", "Redis"} <= set(rows)
    assert re.search(r" answers, version \d", rows["Redis"])
    assert "HF_TOKEN" in rows["environment"] and "hf_secret" not in done.stdout
    done = run("check_env", f"--redis-url={secret}")
    assert "answers: ERR" in done.stdout and "a-password" not in done.stdout
    done = run("check_env", env={"LM_AGENT_REDIS_URL": "redis://127.0.0.1:1/0"})
    assert "127.0.0.1:1 does not answer" in done.stdout
    done = run("check_env", "--dump-file", tmp_path / "env.txt")
    assert done.stdout == "" and "lm-cluster" in (tmp_path / "env.txt").read_text()


# ---- servers ----


class Command(Server):
    """A server that was started by the script."""

    def __init__(self, *arguments, **kwargs):
        super().__init__(program("lmdeploy"), *arguments, **kwargs)


@pytest.fixture
def start(starter):
    def begin(*arguments, ready=True, **kwargs):
        server = Command(*arguments, **kwargs)
        starter.started.append(server)
        return server.wait_ready() if ready else server
    return begin


SHORT = ["--max-tokens", "8"]
LOCAL = ["--server-name", "127.0.0.1", "--server-port", "0"]


def test_a_server_for_lmdeploys_client(start, model_path):
    server = start("serve", "api_server", model_path, *LOCAL, "--backend", "turbomind", "--tp", "1", "--session_len=512",
                   "--cache-max-entry-count", "0.1", "--max-batch-size", "2", "--log-level", "INFO")
    assert pathlib.Path(f"/proc/{server.popen.pid}/comm").read_text() == "lm-agent\n"
    client = lmdeploy_client.load().APIClient(server.url)
    assert client.available_models == [model_path]
    messages = [{"role": "user", "content": "Say this is a test!"}]
    (answer,) = client.chat_completions_v1(model=model_path, messages=messages, max_tokens=5, temperature=0, stream=False)
    assert answer["choices"][0]["message"]["content"] and answer["model"] == model_path
    pieces = list(client.chat_completions_v1(model=model_path, messages=messages, max_tokens=5, temperature=0, stream=True))
    assert len(pieces) > 2
    (answer,) = client.completions_v1(model=model_path, prompt="hi", max_tokens=3, temperature=0)
    assert answer["choices"][0]["text"]
    texts = [text for text, _, _ in client.chat("Hello!", 5, request_output_len=5, top_k=1, stream=True)]
    assert "".join(texts)
    client.end_session(5)
    ids, length = client.encode("hello world")
    assert length == len(ids) > 0


def test_proxy_and_nodes_as_the_torchrun_script_starts_them(start, model_path):
    proxy = start("serve", "proxy", *LOCAL, "--strategy", "min_expected_latency")
    assert pathlib.Path(f"/proc/{proxy.popen.pid}/comm").read_text() == "lm-proxy\n"
    node = start("serve", "api_server", model_path, *LOCAL, "--tp", "1", "--proxy-url", proxy.url, "--backend", "turbomind",
                 *SMALL, env={"CUDA_VISIBLE_DEVICES": "0"})
    wait_until(lambda: model_path in proxy.get("/v1/models").text, 60, "the node at the proxy")
    assert list(proxy.get("/nodes/status").json()) == [node.url]
    answer = proxy.post("/v1/chat/completions", {"model": model_path, "max_tokens": 3,
                                                 "messages": [{"role": "user", "content": "hi"}]})
    assert answer.status_code == 200


@pytest.mark.parametrize("end, status", [(signal.SIGTERM, 0), (signal.SIGINT, 0), (signal.SIGKILL, -signal.SIGKILL)])
def test_signals_and_status_are_the_servers(start, model_path, end, status):
    server = start("serve", "api_server", model_path, *LOCAL, *SMALL)
    server.expect_status = status
    server.signal(end)
    assert server.wait() == status


def test_a_model_that_is_not_there(start):
    server = start("serve", "api_server", "/nonexistent/model.gguf", *LOCAL, ready=False)
    server.expect_status = 1
    with pytest.raises(ProcessError):
        server.wait_ready()
    assert server.wait() == 1 and "/nonexistent/model.gguf" in server.log


def test_where_the_page_is_is_printed_once(model_path):
    def hint(*arguments):
        return run("serve", "api_server", "/nonexistent/x.gguf", *arguments).stdout
    assert hint() == "HINT:    Please open http://0.0.0.0:23333 in a browser for detailed api usage!!!\n"
    assert "http://127.0.0.1:4000 " in hint("--server-name=127.0.0.1", "--server_port", "4000")
    assert hint("--server-port", "0") == ""  # nobody knows yet
    assert "HINT" not in hint("--gpus", "0,1", "--dry-run") + hint("--dry-run")


# ---- conversations ----


@pytest.fixture
def fake():
    with FakeOpenai() as server:
        yield server


def sessions(agent):
    return {s["session_id"]: s for s in agent.get("/v1/sessions").json()["data"]}


@pytest.fixture
def terminal(tmp_path):
    """terminal(command...): the script at a terminal."""
    opened = []

    def start_at_terminal(*arguments):
        opened.append(Terminal(*map(str, arguments), home=tmp_path, program=program("lmdeploy")))
        return opened[-1]
    yield start_at_terminal
    for t in opened:
        t.close()


def say(t, *lines, timeout=60):
    """Type a message, end it by an empty line; what is printed until the next prompt."""
    t.send("\r".join(lines) + "\r\r")
    return t.expect(PROMPT, timeout)


def test_api_client(terminal, agent):
    t = terminal("serve", "api_client", agent.url, *SHORT, "--session-id", 41)
    t.expect("double enter to end input " + PROMPT)
    say(t, "Name a colour.")
    assert sessions(agent)[41]["turns"] == 1
    say(t, "Name another,", "in one word.")
    assert sessions(agent)[41]["turns"] == 2
    t.send("\r")  # nothing to say
    t.expect(PROMPT)
    assert sessions(agent)[41]["turns"] == 2
    say(t, "end")
    assert 41 not in sessions(agent)
    say(t, "Hi.")
    assert sessions(agent)[41]["turns"] == 1
    t.send("exit\r\r")
    assert t.wait() == 0
    assert 41 not in sessions(agent)


@pytest.mark.parametrize("leave", [CTRL_D, CTRL_C])
def test_leaving_the_client_ends_the_session(terminal, agent, leave):
    t = terminal("serve", "api_client", agent.url, *SHORT, "--session-id", 42)
    t.expect(PROMPT)
    say(t, "Hi.")
    assert 42 in sessions(agent)
    t.send(leave)
    assert t.wait() == 0
    assert 42 not in sessions(agent)


def test_a_full_session_is_warned_of(terminal, agent):
    t = terminal("serve", "api_client", agent.url, *SHORT, "--session-id", 43)
    t.expect(PROMPT)
    shown = say(t, *["many words of a long story " * 8] * 30)
    assert "WARNING: exceed session max length. Please end the session." in shown
    say(t, "end")
    assert "WARNING" not in say(t, "Hi.")
    t.send("exit\r\r")
    assert t.wait() == 0


def test_through_pipes(agent):
    done = run("serve", "api_client", agent.url, *SHORT, "--temperature", 0, "--session-id", 44, stdin="Name a colour.\n\nAnother.\n\nexit\n\n")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) >= 2 and PROMPT not in done.stdout
    assert 44 not in sessions(agent)
    done = run("serve", "api_client", agent.url, *SHORT, "--temperature", 0, "--session-id", 44, stdin="Without an empty line at its end")
    assert done.returncode == 0 and done.stdout.strip()
    done = run("serve", "api_client", agent.url, *SHORT, "--model", "nonsense", stdin="hi\n\nexit\n\n")
    assert done.returncode == 1 and done.stdout == "" and "nonsense" in done.stderr
    done = run("serve", "api_client", "http://127.0.0.1:1", stdin="hi\n\n")
    assert done.returncode == 1 and "refused" in done.stderr


def test_api_client_shows_its_key(start_agent):
    agent = start_agent("--api-keys", "sk-right", *SMALL)
    assert run("serve", "api_client", agent.url, *SHORT, "--api-key", "sk-right", stdin="hi\n\n").returncode == 0
    done = run("serve", "api_client", agent.url, stdin="hi\n\n")
    assert done.returncode == 1 and "key" in done.stderr


# Against a server that misbehaves on purpose.


def test_what_a_turn_sends(fake):
    done = run("serve", "api_client", fake.url, stdin="first line\nsecond  line\n\nend\n\nmore\n\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, "first line\nsecond  line\nmore\n", "")
    turn = {"session_id": 1, "interactive_mode": True, "request_output_len": 512, "stream": True}
    end = {"prompt": "", "session_id": 1, "interactive_mode": False, "request_output_len": 0, "stream": False}
    assert fake.requests == [{"prompt": "first line\nsecond  line", **turn}, end, {"prompt": "more", **turn}, end]


def test_options_of_a_turn(fake):
    done = run("serve", "api_client", fake.url, "--session-id", 9, "--max-tokens", 7, "--temperature", 0, "--no-stream",
               "--model", "m", stdin="hi\n\n")
    assert (done.returncode, done.stdout) == (0, "hi\n")
    assert fake.requests[0] == {"model": "m", "prompt": "hi", "session_id": 9, "interactive_mode": True, "temperature": 0,
                                "request_output_len": 7, "stream": False}


@pytest.mark.parametrize("word, status, out, error", [
    ("full", 0, "", "WARNING: exceed session max length. Please end the session."),
    ("length", 0, "too lo\n", ""),
    ("torn", 0, "in two pieces\n", ""),
    ("failing", 1, "so far\n", "the engine lost a device"),
    ("unfinished", 1, "half an ans\n", "before it was complete"),
    ("garbage", 1, "", "not JSON"),
])
def test_how_turns_end(fake, word, status, out, error):
    done = run("serve", "api_client", fake.url, stdin=f"{word}\n\n")
    assert (done.returncode, done.stdout) == (status, out)
    assert error in done.stderr and bool(done.stderr) == bool(error)


def test_what_is_no_message(fake):
    for text, status, word in (("a\0b\n\n", 2, "not UTF-8"), ("long " * (4 << 20) + "\n\nexit\n\n", 1, "16 MiB")):
        done = run("serve", "api_client", fake.url, stdin=text)
        assert done.returncode == status and word in done.stderr
    assert fake.requests == []


def test_an_answer_is_stopped_by_ctrl_c(terminal, fake):
    t = terminal("serve", "api_client", fake.url)
    t.expect(PROMPT)
    t.send("forever\r\r")
    t.expect("and on and on")
    t.send(CTRL_C)
    t.expect("[stopped")
    t.expect(PROMPT)
    assert fake.client_left.wait(60)
    assert "hello" in say(t, "hello")
    assert "lost a device" in say(t, "failing")  # which ends no conversation
    assert "token limit" in say(t, "length")
    shown = say(t, "escape")
    assert "^[[31m" in shown and "\x1b[31m" not in shown
    t.send("never mind")
    t.expect("never mind")
    t.send(CTRL_C)
    t.expect(PROMPT)
    t.send("exit\r\r")
    assert t.wait() == 0
    assert [r["prompt"] for r in fake.requests] == ["forever", "hello", "failing", "length", "escape", ""]


def agent_below(pid):
    """Process id of the agent that a process started."""
    children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    (child,) = [c for c in children if pathlib.Path(f"/proc/{c}/comm").read_text() == "lm-agent\n"]
    return int(child)


def is_gone(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


@pytest.fixture
def chat(terminal, model_path):
    t = terminal("chat", model_path, "--backend", "turbomind", *SMALL)
    t.expect("double enter to end input " + PROMPT, 90)
    t.agent = agent_below(t.pid)
    yield t
    wait_until(lambda: is_gone(t.agent), 60, "the end of the agent")


def test_chat(chat):
    assert "--backend is ignored" in chat.text
    given = pathlib.Path(f"/proc/{chat.agent}/cmdline").read_text().split("\0")
    assert given[1:5] == ["--server-name", "127.0.0.1", "--server-port", "0"]  # nobody else's, and no port of anybody's
    assert say(chat, "Name a colour.").strip()
    say(chat, "end")
    assert not is_gone(chat.agent)
    chat.send("exit\r\r")
    assert chat.wait() == 0


def test_the_agent_of_a_chat_ends_with_it_however_it_ends(chat):
    say(chat, "Name a colour.")
    os.kill(chat.pid, signal.SIGKILL)
    assert chat.wait() == -signal.SIGKILL


def test_ctrl_c_in_a_chat_stops_the_answer_not_the_agent(chat):
    chat.send(CTRL_C)  # with nothing typed: leaves
    assert chat.wait() == 0


def test_a_chat_that_cannot_begin(model_path, tmp_path):
    done = run("chat", "/nonexistent/model.gguf")
    assert done.returncode == 1 and "/nonexistent/model.gguf" in done.stderr
    done = run("chat", model_path, "--no-such-thing")
    assert done.returncode == 2 and "--no-such-thing" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_chat_is_private(model_path, tmp_path):
    """Settings of a fleet in the environment are not for it."""
    done = run("chat", model_path, *SMALL, stdin="Name a colour.\n\nexit\n\n", timeout=120, env={
        "LM_AGENT_REDIS_URL": "redis://127.0.0.1:1/0", "LM_AGENT_PROXY_URL": "http://127.0.0.1:1",
        "LM_AGENT_API_KEYS": "sk-x", "LM_AGENT_LOG_LEVEL": "error", "TMPDIR": str(tmp_path)})
    assert (done.returncode, done.stderr) == (0, "")
    assert not list(tmp_path.iterdir())
