"""A node of LMDeploy: its api_server's own registration code, unmodified, against lm-proxy.

The code that runs is the `startup` handler of lmdeploy/serve/openai/api_server.py of release 0.6.5 with what it
calls, cut out of the file as it stands; of the rest of the package, which wants CUDA, nothing is needed."""

import ast
import asyncio
import types

import lmdeploy_client
import pytest
import requests
from fake_openai import FakeOpenai
from proxy_fixtures import CHAT, Traffic, fakes, models_of, serve, wait_until, wait_up  # noqa: F401

PARTS = ("VariableInterface", "get_model_list", "startup_event")


class HTTPException(Exception):
    """FastAPI's."""

    def __init__(self, status_code, detail):
        super().__init__(f"{status_code}: {detail}")


class Router:
    """FastAPI's, as far as the handler's decorator goes."""

    def on_event(self, name):
        assert name == "startup"
        return lambda handler: handler


@pytest.fixture(scope="module")
def api_server_source():
    return lmdeploy_client.fetch("lmdeploy/serve/openai/api_server.py").read_text()


@pytest.fixture
def register(api_server_source, capsys):
    """register(proxy_url, node_url, models) -> what it printed: LMDeploy only says how it went."""
    def run(proxy_url, node_url, models):
        tree = ast.parse(api_server_source)
        cut = [node for node in tree.body if getattr(node, "name", None) in PARTS]
        assert [node.name for node in cut] == ["VariableInterface", "get_model_list", "startup_event"]
        names = {"router": Router(), "HTTPException": HTTPException, "AsyncEngine": object,
                 **{name: __import__("typing").__dict__[name] for name in ("Optional", "List")}}
        exec(compile(ast.Module(cut, []), "api_server.py", "exec"), names)
        variables = names["VariableInterface"]
        variables.async_engine = types.SimpleNamespace(
            model_name=models[0], backend_config=types.SimpleNamespace(adapters=list(models[1:])))
        variables.proxy_url, variables.api_server_url = proxy_url, node_url
        capsys.readouterr()
        asyncio.run(names["startup_event"]())
        return capsys.readouterr().out.strip()
    return run


def ask(proxy, model, text="repeat after me", **more):
    return proxy.post(CHAT, {"model": model, "messages": [{"role": "user", "content": text}], **more})


def test_a_node_joins_is_routed_to_and_leaves(serve, fakes, register):
    proxy = serve()
    ours = fakes("ours", [proxy])
    wait_up(proxy, "ours")
    with FakeOpenai(models=["internlm2", "lora-a"]) as node:
        assert register(proxy.url, node.url, node.models) == '"Added successfully"'
        status = proxy.get("/nodes/status").json()
        assert set(status) == {node.url, ours.url}
        entry = status[node.url]
        assert entry["models"] == ["internlm2", "lora-a"] and entry["unfinished"] == 0
        assert entry["latency"] == [] and "speed" in entry  # LMDeploy's four members
        assert models_of(proxy) == ["fake-model", "internlm2", "lora-a"]

        answer = ask(proxy, "internlm2")
        assert answer.json()["choices"][0]["message"]["content"] == "repeat after me"
        assert "x-lm-agent" not in answer.headers  # whose id would be an address of the inside
        stream = ask(proxy, "lora-a", stream=True).text
        assert stream.count("data: ") == 5 and stream.endswith("data: [DONE]\n\n")
        assert len(node.requests) == 2 and not ours.requests
        assert len(proxy.get("/nodes/status").json()[node.url]["latency"]) == 2

        removed = requests.post(f"{proxy.url}/nodes/remove", params={"node_url": node.url}, timeout=10)
        assert removed.status_code == 200 and removed.json() == "Deleted successfully"  # 0.6.5's form
        assert set(proxy.get("/nodes/status").json()) == {ours.url}
        assert ask(proxy, "internlm2").status_code == 404
        again = requests.post(f"{proxy.url}/nodes/remove", json={"url": node.url}, timeout=10)  # main's form
        assert again.status_code == 404 and again.json().startswith("Failed to delete")


def test_a_node_that_joins_again_keeps_its_books(serve, register):
    """LMDeploy's proxy sets its counter to zero then, and it goes below zero with the next answer."""
    proxy = serve()
    with FakeOpenai(models=["m"]) as node:
        register(proxy.url, node.url, ["m"])
        with Traffic(proxy.url + CHAT, {"model": "m", "messages": [{"role": "user", "content": "hi"}]}) as traffic:
            for _ in range(20):
                assert register(proxy.url, node.url, ["m"]) == '"Added successfully"'
            wait_until(lambda: len(traffic.statuses) > 50, 20, "requests")
        assert not traffic.failures
        entry = proxy.get("/nodes/status").json()[node.url]
        assert entry["unfinished"] == 0 and len(entry["latency"]) == 15


def test_a_node_that_is_lost_and_comes_back(serve, fakes, register):
    proxy = serve()
    node = fakes("node", models=["m"])
    register(proxy.url, node.url, ["m"])
    assert ask(proxy, "m").status_code == 200
    node.die()
    assert ask(proxy, "m").status_code in (502, 503)
    wait_until(lambda: proxy.get("/nodes/status").json()[node.url]["state"] == "down", 15, "down")
    with FakeOpenai(models=["m"]) as second:  # as a node that was started anew
        assert register(proxy.url, second.url, ["m"]) == '"Added successfully"'
        wait_until(lambda: ask(proxy, "m").status_code == 200, 5, "traffic")


def test_what_registration_is_told_when_it_is_refused(serve, register):
    """The node goes on without a proxy; its log says so."""
    with FakeOpenai(models=["m"]) as node:
        proxy = serve("--join-key", "secret")
        assert "Service registration failed" in register(proxy.url, node.url, ["m"])
        assert proxy.get("/nodes/status").json() == {}
        proxy = serve("--api-keys", "sk-client")  # this machine may still
        assert register(proxy.url, node.url, ["m"]) == '"Added successfully"'
    assert "Service registration failed" in register("http://127.0.0.1:1", "http://127.0.0.1:2", ["m"])


def test_a_node_on_all_addresses_is_where_it_came_from(serve, register):
    """--server-name 0.0.0.0 is registered literally."""
    proxy = serve()
    with FakeOpenai(models=["m"]) as node:
        port = node.url.rsplit(":", 1)[1]
        register(proxy.url, f"http://0.0.0.0:{port}", ["m"])
        assert list(proxy.get("/nodes/status").json()) == [f"http://127.0.0.1:{port}"]
        assert ask(proxy, "m").status_code == 200


def test_terminate(serve, fakes, register):
    """A node of 0.6.5 knows no /terminate: it stays. One that does is gone."""
    proxy = serve()
    with FakeOpenai(models=["m"]) as node:
        register(proxy.url, node.url, ["m"])
        refused = proxy.post("/nodes/terminate", {"url": node.url})
        assert refused.status_code == 502 and refused.json() == f"Failed to terminate node {node.url}"
        assert node.url in proxy.get("/nodes/status").json()
        unknown = proxy.post("/nodes/terminate", {"url": "http://127.0.0.1:9"})
        assert unknown.status_code == 502 and unknown.json().startswith("Failed to terminate node")
        willing = fakes("w", models=["w"])  # answers 200 to every GET
        register(proxy.url, willing.url, ["w"])
        assert proxy.post("/nodes/terminate", {"url": willing.url}).json() == "Terminated successfully"
        assert list(proxy.get("/nodes/status").json()) == [node.url]
        all_of_them = requests.get(f"{proxy.url}/nodes/terminate_all", timeout=20,
                                   headers={"Content-Type": "application/json"})
        assert all_of_them.status_code == 502 and all_of_them.json() == "Failed to terminate all nodes"
        proxy.post("/nodes/remove", {"url": node.url})
        register(proxy.url, willing.url, ["w"])
        assert proxy.get("/nodes/terminate_all").json() == "All nodes terminated successfully"
        assert proxy.get("/nodes/status").json() == {}
