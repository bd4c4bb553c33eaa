"""Keys at the proxy, where they come from, and one request's id from the client to the agent's log."""
# ctest: PROCESSORS 1

import json
import signal

import httpx
import pytest
from conftest import wait_until
from proxy_fixtures import CHAT, chat, fakes, serve, wait_up  # noqa: F401

WRONG = "sk-do-not-log-me"


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


def test_anthropics_header_counts_and_stays_here(serve, fakes):
    proxy = serve("--api-keys", "sk-a")
    agent = fakes("a", [proxy])
    wait_up(proxy, "a")
    for headers in ({"x-api-key": "sk-a"}, bearer("sk-a"), {"X-Api-Key": "sk-a", "Authorization": "Basic c2s="}):
        assert proxy.post(CHAT, chat(), headers=headers).status_code == 200
    assert proxy.post(CHAT, chat(), headers={"x-api-key": "sk-b"}).status_code == 401
    assert len(agent.requests) == 3
    for request in agent.requests:
        names = {name.lower() for name in request.headers}
        assert not names & {"authorization", "x-api-key"}


@pytest.mark.parametrize("headers, query, says", [
    ({}, "", "You didn't provide"), (bearer(WRONG), "", "Incorrect API key"),
    ({"api-key": WRONG}, "", "header 'api-key'"), ({"Authorization": WRONG}, "", "no 'Bearer '"),
    ({"Authorization": "Basic c2stYQ=="}, "", "Basic authorization"), ({}, f"?api_key={WRONG}", "in the URL")])
def test_refusals(serve, tmp_path, headers, query, says):
    log = tmp_path / "access"
    proxy = serve("--api-keys", "sk-a", "--access-log", log, "--log-level", "trace")
    answer = proxy.post(CHAT + query, chat(), headers=headers)
    assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
    body = answer.json()
    assert body["error"] == body["detail"]["error"] and says in body["error"]["message"]
    assert body["error"]["message"].endswith("Please request with valid api key!")
    assert WRONG not in answer.text
    wait_until(lambda: log.exists() and log.read_text(), 60, "the access log")
    assert json.loads(log.read_text())["error"] == "invalid_api_key"
    assert WRONG not in proxy.log + log.read_text()


def test_a_file_of_plain_keys(serve, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("# one a line\nsk-1\n")
    proxy = serve("--api-key-file", keys)
    assert [proxy.get("/v1/models", headers=bearer(k)).status_code for k in ("sk-1", "sk-2")] == [200, 401]
    keys.write_text("sk-2\n")
    proxy.signal(signal.SIGHUP)
    proxy.wait_log("reloaded")
    assert [proxy.get("/v1/models", headers=bearer(k)).status_code for k in ("sk-1", "sk-2")] == [401, 200]
    keys.write_text("sk-3\nsk 4\n")
    proxy.signal(signal.SIGHUP)
    proxy.wait_log("reload refused, nothing has changed .*line 2")
    assert [proxy.get("/v1/models", headers=bearer(k)).status_code for k in ("sk-2", "sk-3")] == [200, 401]


@pytest.mark.parametrize("given, kept", [("mine-1", True), ("x" * 10000, False), ("a\tb", False), ("a b", False)])
def test_one_id_from_client_to_agent(start_proxy, start_agent, tmp_path, given, kept):
    log = tmp_path / "access"
    proxy = start_proxy("--access-log", log)
    agent = start_agent("--model-name", "m", "--log-level", "debug", "--proxy-url", proxy.url)
    wait_until(lambda: '"m"' in proxy.get("/v1/models").text, 60, "the agent behind the proxy")
    answer = proxy.post(CHAT, chat("m", max_tokens=1), headers={"x-request-id": given})
    assert answer.status_code == 200
    id = answer.headers["x-request-id"]
    assert (id == given) is kept
    agent.wait_log(rf"request begins id={answer.json()['id']} request={id} ")
    wait_until(lambda: log.exists() and log.read_text(), 60, "the access log")
    assert json.loads(log.read_text())["request_id"] == id
    assert kept or given not in agent.log + log.read_text()


def test_cors_of_agents_and_proxies(server):
    asked = {"Origin": "https://web.example", "Access-Control-Request-Method": "POST",
             "Access-Control-Request-Headers": "authorization, content-type, x-api-key"}
    answer = httpx.options(server.url + CHAT, headers=asked)
    assert answer.status_code == 200 and answer.text == "OK"
    assert answer.headers["access-control-allow-headers"] == asked["Access-Control-Request-Headers"]
    assert answer.headers["access-control-allow-origin"] in ("*", asked["Origin"])
    got = server.get("/v1/models", headers={"Origin": asked["Origin"]})
    assert got.headers["access-control-allow-origin"] == "*"
    assert {"x-request-id", "retry-after", "x-lm-session-id"} <= set(got.headers["access-control-expose-headers"].split(", "))
