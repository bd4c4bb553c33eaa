"""docs/from-lmdeploy.md: every command block on it is run, with a local model in place of the hub's and free ports.

What this machine has no use for (docker, kubectl, cmake's build) is a stand-in in PATH that checks what it is told against
the files of the tree, and runs what a container would run with --dry-run. A block that no rule here knows fails."""
# ctest: PROCESSORS 1

import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

import kubernetes_validate
import lmdeploy_client
import pytest
import yaml
from conftest import ROOT, program, wait_until
from lm_process import Server
from test_launcher import free_ports
from test_lmdeploy_command import API_SERVER, PROXY, own_options

PAGE = pathlib.Path(ROOT, "docs/from-lmdeploy.md")
MODEL = "internlm/internlm2_5-7b-chat"
# Small and quick by environment, so that the commands stay as they stand.
SMALL = {"LM_AGENT_SESSION_LEN": "160", "LM_AGENT_MAX_BATCH_SIZE": "2", "LM_AGENT_CACHE_MAX_TOKENS": "1024",
         "LM_AGENT_THREADS": "1"}


def page_blocks():
    """(line, language, text) of the fenced blocks and of the indented ones."""
    text = PAGE.read_text()
    found = []
    for match in re.finditer(r"^```(\w+)\n(.*?)^```$|^((?: {4}[^\n]*\n)+)", text, re.S | re.M):
        line = text.count("\n", 0, match.start()) + 1
        found.append((line, match.group(1) or "shell", match.group(2) or re.sub(r"^ {4}", "", match.group(3), flags=re.M)))
    # What is indented inside a fence isn't a block of its own: finditer has passed it.
    return found


BLOCKS = page_blocks()


def commands_of(text):
    """The lines of a shell block: backslashes and quoted line breaks joined."""
    commands, pending = [], ""
    for line in text.splitlines():
        pending += ("\n" if pending else "") + line
        joined = pending.replace("\\\n", "")
        if joined.endswith("\\") or joined.count("'") % 2:
            continue
        commands.append(joined)
        pending = ""
    assert not pending, pending
    return [c for c in commands if c.strip() and not c.startswith("#")]


COMMANDS = [(line, c) for line, language, text in BLOCKS if language == "shell" for c in commands_of(text)]

# ---- the page as this machine can run it ----


class Place:
    """Where the page's commands run: ports, the model, the stand-ins."""

    def __init__(self, folder, model):
        self.folder, self.model = folder, model
        self.agent_port, self.proxy_port, *self.node_ports = free_ports(4)
        stand_ins = folder / "stand-ins"
        stand_ins.mkdir()
        for name in ("docker", "kubectl", "cmake"):
            path = stand_ins / name
            path.write_text(f"#!/bin/sh\nexec {sys.executable} {ROOT}/tests/integration/stand_in.py {name} \"$@\"\n")
            path.chmod(0o755)
        own = {k: v for k, v in os.environ.items() if not k.startswith(("LM_AGENT_", "LM_PROXY_", "LM_CLIENT_"))}
        self.environment = {**own, **SMALL, "LM_STAND_IN_ROOT": str(ROOT), "LM_STAND_IN_PREFIX": str(folder / "prefix"),
                            "LM_STAND_IN_BUILD": os.path.dirname(os.path.dirname(program("lm-agent"))),
                            "PATH": f"{stand_ins}:{os.path.dirname(program('lmdeploy'))}:{os.environ['PATH']}"}

    def here(self, text, node_ports=False):
        ports = {"23333": self.node_ports[0] if node_ports else self.agent_port, "23343": self.node_ports[1],
                 "8000": self.proxy_port}
        if "docker" not in text.split()[0]:
            text = re.sub(r"\b(23333|23343|8000)\b", lambda m: str(ports[m.group()]), text)
        return text.replace(MODEL, self.model).replace("~/.cache", "/nonexistent/.cache")

    def run(self, command, timeout=240):
        done = subprocess.run(["bash", "-c", "set -o pipefail; " + command], cwd=self.folder, env=self.environment,
                              capture_output=True, text=True, timeout=timeout, check=False)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        return done.stdout

    def start(self, starter, command):
        server = Server("/bin/bash", "-c", command, name="page", env=self.environment)
        starter.started.append(server)
        return server


@pytest.fixture(scope="module")
def place(tmp_path_factory, model_path):
    # As a file of the user's would be: in a folder of its own, by a name without surprises for a shell.
    folder = tmp_path_factory.mktemp("page")
    (folder / "model.gguf").symlink_to(os.path.abspath(model_path))
    return Place(folder, str(folder / "model.gguf"))


@pytest.fixture(scope="module")
def server(place):
    """The page's own first server."""
    from conftest import Starter
    starter = Starter()
    (command,) = [c for _, c in COMMANDS if c.startswith("lmdeploy serve api_server")]
    yield place.start(starter, place.here(command)).wait_ready()
    starter.stop()


# ---- what each command must have as its result ----
#
# Answers are drawn, as the page's commands leave it: any text will do, an empty one too.


def is_models(place, out):
    assert json.loads(out)["data"][0]["id"] == place.model


def is_chat(place, out):
    answer = json.loads(out)
    assert answer["model"] == place.model and isinstance(answer["choices"][0]["message"]["content"], str)
    assert answer["choices"][0]["finish_reason"] in ("stop", "length")


def is_text(place, out):
    assert json.loads(out)["object"] == "text_completion" and json.loads(out)["usage"]["completion_tokens"] > 0


def is_interactive(place, out):
    answer = json.loads(out)
    assert answer["tokens"] > 0 and answer["history_tokens"] == 0


def is_said(place, out):
    assert "WARNING" not in out and (not out or out.endswith("\n"))


def is_four_agents(place, out):
    lines = out.splitlines()
    assert len(lines) == 4 and "CUDA_VISIBLE_DEVICES=6,7" in lines[3]


def is_names(place, out):
    assert "\ninternlm2\n" in out


def is_environment(place, out):
    assert out.startswith("lm-cluster")


def is_installed(place, out):
    folder = place.folder / "prefix/bin"
    assert {p.name for p in folder.iterdir()} >= {"lmdeploy", "lm-agent", "lm-proxy", "lm-client"}
    environment = {**os.environ, "PATH": "/usr/bin:/bin"}
    for arguments in (["--version"], ["list"]):
        subprocess.run([folder / "lmdeploy", *arguments], env=environment, check=True, capture_output=True)


def is_container(place, out):
    assert "context " in out and "KV cache" in out  # of --dry-run


def is_fine(place, out):
    pass  # the stand-in has looked at it


# A command's beginning, and the check of what it prints. `server`: it talks to the page's first server.
RULES = [
    (r"cmake --preset release && cmake --build --preset release$", is_fine),
    (r"cmake --install build/release --prefix /usr/local$", is_installed),
    (r"docker build ", is_fine),
    (r"docker run -v ~/.cache/", is_container),
    (r"LM_MODEL=\S+ .*docker compose ", is_fine),
    (r"kubectl ", is_fine),
    (r"printf .*lmdeploy serve api_client ", is_said),
    (r"printf .*lmdeploy chat ", is_said),
    (r"curl http://\S+/v1/models$", is_models),
    (r"curl http://\S+/v1/chat/completions ", is_chat),
    (r"curl http://\S+/v1/completions ", is_text),
    (r"curl http://\S+/v1/chat/interactive ", is_interactive),
    (r"lm-agent .*--dry-run$", is_four_agents),
    (r"lmdeploy list$", is_names),
    (r"lmdeploy check_env$", is_environment),
]
# Run elsewhere below.
SERVER = r"lmdeploy serve api_server \S+ --server-port 23333$"
OPENAPI = r"curl --fail -o openapi.json |docker run .*openapi-generator"
FLEET = r"lmdeploy serve proxy |CUDA_VISIBLE_DEVICES=\d lmdeploy serve api_server |curl --fail http://127.0.0.1:8000/"


def rule_of(command):
    return [check for pattern, check in RULES if re.match(pattern, command)]


SINGLE = [(line, c) for line, c in COMMANDS if not re.match(f"{SERVER}|{OPENAPI}|{FLEET}", c)]


def test_the_page_is_read_whole():
    fences = PAGE.read_text().count("\n```")
    assert fences == 2 * len([b for b in BLOCKS if b[1] != "shell" or "cmake" not in b[2]])
    assert len(SINGLE) >= 15
    for pattern in (SERVER, OPENAPI, FLEET):
        assert any(re.match(pattern, c) for _, c in COMMANDS), pattern
    for pattern, _ in RULES:
        assert sum(bool(re.match(pattern, c)) for _, c in SINGLE) >= 1, pattern
    assert {language for _, language, _ in BLOCKS} == {"shell", "python", "yaml"}


@pytest.mark.parametrize("line, command", SINGLE, ids=[str(line) for line, _ in SINGLE])
def test_a_command(place, server, line, command):
    (check,) = rule_of(command)
    check(place, place.run(place.here(command)))


@pytest.fixture(scope="module")
def lmdeploy_package(tmp_path_factory):
    """A folder with as much of the package lmdeploy as its client wants."""
    source = lmdeploy_client.fetch()
    folder = tmp_path_factory.mktemp("package")
    openai = folder / "lmdeploy/serve/openai"
    openai.mkdir(parents=True)
    (openai / "api_client.py").write_bytes(source.read_bytes())
    (folder / "lmdeploy/utils.py").write_text("from logging import getLogger as get_logger\n")
    return folder


@pytest.mark.parametrize("line, text", [(line, text) for line, language, text in BLOCKS if language == "python"])
def test_a_program(request, place, server, line, text):
    path = str(request.getfixturevalue("lmdeploy_package")) if "lmdeploy" in text else ""
    done = subprocess.run([sys.executable, "-c", place.here(text)], env={**place.environment, "PYTHONPATH": path},
                          capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0 and done.stdout.strip(), done.stderr
    assert place.model in done.stdout


def test_a_manifest(place):
    (text,) = [text for _, language, text in BLOCKS if language == "yaml"]
    manifest = yaml.safe_load(text)
    kubernetes_validate.validate(manifest, "1.32.0", strict=True)
    (container,) = manifest["spec"]["template"]["spec"]["containers"]
    assert pathlib.Path(ROOT, "compose/Dockerfile.agent-cuda").is_file() and container["image"] == "lm-agent-cuda"
    (command,) = container["args"]
    is_container(place, place.run(shlex.join([*container["command"], place.here(command) + " --dry-run"])))


def test_openapi(place, server):
    """The document is written by the server; the generator itself is an image that isn't had here."""
    commands = [place.here(c) for _, c in COMMANDS if re.match(OPENAPI, c)]
    assert len(commands) == 2
    if server.get("/openapi.json").status_code == 404 and "disable-fastapi-docs" not in own_options("lm-agent"):
        pytest.skip("this lm-agent has no /openapi.json")
    for command in commands:
        place.run(command)


def test_several_servers(place, starter):
    """Proxy first, then the nodes, in the order of the page."""
    asked = 0
    for _, command in [(line, c) for line, c in COMMANDS if re.match(FLEET, c)]:
        command = place.here(command, node_ports=True)
        if "serve proxy" in command:
            proxy = place.start(starter, command).wait_ready()
        elif "serve api_server" in command:
            place.start(starter, command).wait_ready()
            wait_until(lambda: place.model in proxy.get("/v1/models").text, 60, "the node at the proxy")
        else:
            wait_until(lambda: len(proxy.get("/nodes/status").json()) == 2, 60, "both nodes")
            out = json.loads(place.run(command))
            if "data" in out:
                assert [card["id"] for card in out["data"]] == [place.model]
            else:
                assert sorted(out) == sorted(f"http://127.0.0.1:{port}" for port in place.node_ports)
            asked += 1
    assert asked == 2


OTHERS = {"name", "port", "proxy-url", "nproc-per-node", "install", "speculative-*", "dllm-*"}  # of torchrun, the script, groups


def test_options_that_the_page_names_exist():
    known = {*API_SERVER, *PROXY, *own_options("lm-agent"), *own_options("lm-proxy"), *own_options("lm-client"), *OTHERS}
    named = {name.replace("_", "-") for name in re.findall(r"`--([a-z_*-]+)", PAGE.read_text())}
    assert len(named) > 20 and named <= known, named - known
