"""MODEL as the id of a hub repository: found in the cache, downloaded into it, refused clearly."""
# ctest: PROCESSORS 1

import os
import subprocess
import sys

import pytest
from conftest import program

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "fakes"))
from fake_hub import COMMIT, FakeHub  # noqa: E402

REPO = "someone/tiny-GGUF"


@pytest.fixture
def hub():
    hub = FakeHub()
    yield hub
    hub.close()


@pytest.fixture
def env(hub, tmp_path):
    return {"HF_ENDPOINT": hub.url, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HOME": str(tmp_path)}


def snapshot(tmp_path, repo=REPO):
    return tmp_path / "hub" / f"models--{repo.replace('/', '--')}" / "snapshots" / COMMIT


def refused(env, model, *arguments):
    """The one line that an agent says which can't have its model."""
    done = subprocess.run([program("lm-agent"), model, "--server-name", "127.0.0.1", "--server-port", "0",
                           *arguments], env={**os.environ, **env}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1, done.stderr
    return done.stderr.strip().splitlines()[-1]


def test_download_then_cache(start_agent, hub, env, tmp_path, model_path):
    hub.repositories[REPO] = {"tiny-Q4_1.gguf": model_path, "tiny-Q8_0.gguf": b"GGUF", "README.md": b"x"}
    hub.token = "hf_secret"
    env["HF_TOKEN"] = hub.token
    hub.cuts = [10_000_000, 20_000_000]  # twice in the middle of the file
    agent = start_agent(model=f"{REPO}:Q4_1", env=env)
    assert agent.get("/v1/models").json()["data"][0]["id"] == REPO
    chat = {"model": REPO, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
    assert agent.post("/v1/chat/completions", chat).json()["usage"]["completion_tokens"] == 2
    files = sorted(os.listdir(snapshot(tmp_path)))
    assert files == ["tiny-Q4_1.gguf"]
    assert os.path.getsize(snapshot(tmp_path) / files[0]) == os.path.getsize(model_path)
    ranges = [r for path, r in hub.requests if path.endswith("Q4_1.gguf")]
    assert ranges == [None, "bytes=10000000-", "bytes=30000000-"]  # none of it twice
    assert "hf_secret" not in agent.log
    asked = len(hub.requests)
    agent.stop()
    again = start_agent(model=f"{REPO}:Q4_1", env={**env, "HF_HUB_OFFLINE": "1"})
    assert again.get("/ready").status_code == 200
    assert len(hub.requests) == asked


def test_agents_that_start_together(starter, hub, env, tmp_path, model_path):
    """They share the cache: the file is fetched once, and whole."""
    hub.repositories[REPO] = {"tiny-Q4_1.gguf": model_path}
    agents = [starter.agent(REPO, env=env, ready=False) for _ in range(3)]
    for agent in agents:
        agent.wait_ready()
    assert [r for path, r in hub.requests if path.endswith("Q4_1.gguf")] == [None]
    assert os.path.getsize(snapshot(tmp_path) / "tiny-Q4_1.gguf") == os.path.getsize(model_path)


@pytest.mark.parametrize("name, kind, resumed", [
    ("model.safetensors", "sha256", False), ("model.safetensors", "sha256", True), ("config.json", "git hash", False)])
def test_damaged_file(hub, env, tmp_path, name, kind, resumed):
    """Refused by name and removed; the next start fetches it anew, and only it."""
    hub.repositories["a/b"] = {"model.safetensors": b"12345678" * 512, "config.json": b'{"architectures": 1}'}
    hub.damage[name] = 3
    hub.cuts = [1000] if resumed else []
    line = refused(env, "a/b")
    assert f"{name} of 'a/b' arrived damaged and was removed: its {kind} is " in line, line
    folder = snapshot(tmp_path, "a/b")
    assert not (folder / name).exists() and not (folder / f"{name}.incomplete").exists()
    assert not (folder.parent.parent / "refs").exists()
    hub.damage.clear()
    before = len(hub.requests)
    assert "arrived damaged" not in refused(env, "a/b")
    assert sorted(os.listdir(folder)) == ["config.json", "model.safetensors"]
    fetched = [path.split("/")[-1] for path, _ in hub.requests[before:] if "/resolve/" in path]
    assert name in fetched and fetched.count(name) == 1
    assert (folder / name).read_bytes() == hub.repositories["a/b"][name]


def test_hub_that_tells_no_hash(hub, env, tmp_path, monkeypatch):
    monkeypatch.setattr("fake_hub.listed", lambda name, data: {"rfilename": name, "size": len(data), "blobId": "?"})
    hub.repositories["a/b"] = {"model.safetensors": b"12345678", "config.json": b"{}"}
    hub.damage["model.safetensors"] = 3
    assert "arrived damaged" not in refused(env, "a/b")
    assert sorted(os.listdir(snapshot(tmp_path, "a/b"))) == ["config.json", "model.safetensors"]


def test_download_dir(hub, env, tmp_path):
    """What it takes of a repository with safetensors, and where to."""
    hub.repositories["a/b"] = {"config.json": b"{}", "model.safetensors": b"12345678", "tokenizer.json": b"{}",
                               "pytorch_model.bin": b"no", "onnx/model.safetensors": b"no", "../evil": b"no"}
    refused(env, "a/b", "--download-dir", str(tmp_path / "mine"))
    folder = tmp_path / "mine" / "models--a--b" / "snapshots" / COMMIT
    assert sorted(os.listdir(folder)) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert (tmp_path / "mine" / "models--a--b" / "refs" / "main").read_text() == COMMIT
    assert not (tmp_path / "hub").exists()


def test_parts_of_one_model(hub, env, tmp_path):
    names = [f"big-Q8_0-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    hub.repositories["a/b"] = {**{name: b"GGUF" for name in names}, "mmproj-big.gguf": b"GGUF",
                               "other-00001-of-00002.gguf": b"GGUF"}
    refused(env, "a/b:Q8_0")
    assert sorted(os.listdir(snapshot(tmp_path, "a/b"))) == names


@pytest.mark.parametrize("repositories, model, arguments, words", [
    ({}, "no/such", [], ["no repository 'no/such' with revision 'main'"]),
    ({"a/b": {"x.gguf": b""}}, "a/b", ["--revision", "v9"], ["'a/b' with revision 'v9'"]),
    ({"a/b": {"x.gguf": b"", "y.gguf": b""}}, "a/b", [], ["has 2 models", "a/b:Q4_K_M"]),
    ({"a/b": {"x.gguf": b""}}, "a/b:Q2_K", [], ["no model named Q2_K"]),
    ({"a/b": {"README.md": b""}}, "a/b", [], ["no model that can be served"]),
])
def test_refused(hub, env, repositories, model, arguments, words):
    hub.repositories.update(repositories)
    line = refused(env, model, *arguments)
    for word in words:
        assert word in line, line


def test_needs_a_token(hub, env):
    hub.repositories["a/b"] = {"x.gguf": b""}
    hub.token = "hf_secret"
    assert "needs HF_TOKEN" in refused(env, "a/b")


def test_nobody_there(hub, env):
    assert "HF_HUB_OFFLINE" in refused({**env, "HF_HUB_OFFLINE": "1"}, "a/b")
    line = refused({**env, "HF_ENDPOINT": "http://127.0.0.1:9"}, "a/b")
    assert "can't reach the hub at http://127.0.0.1:9" in line
    assert "No such file" in refused(env, "./a/b")
    assert "No such file" in refused(env, "a/b", "--revision", "../../x")
