"""lm-proxy as an operator sees it: phases, reload, the state file, the admin port, threads, /lm/status."""
# ctest: PROCESSORS 1

import http.client
import json
import os
import signal
import threading
import time

import httpx
import pytest
from proxy_fixtures import (CHAT, Traffic, chat, fakes, models_of, raw, status_of, serve,  # noqa: F401
                            wait_refused, wait_until, wait_up)


def key(secret):
    return {"Authorization": f"Bearer {secret}"}


def with_key(proxy, secret, **more):
    return proxy.post(CHAT, chat(**more), headers=key(secret))


# ---- phases ----


def test_the_phases_of_a_life(serve, fakes):
    """Starting: serves, not ready. Ready. Leaving: serves, not ready. Draining: takes nothing new."""
    proxy = serve("--drain-delay", 5)
    assert proxy.get("/health").status_code == 200  # from the first moment on
    assert proxy.get("/ready").json()["status"] in ("starting", "ready")
    agent = fakes("a", [proxy])
    agent.events, agent.event_gap_s = 200, 0.05
    wait_up(proxy, "a")
    proxy.wait_log(r"\bready url=")
    assert proxy.get("/ready").status_code == 200 and proxy.get("/health").json()["status"] == "ready"
    with proxy.stream(CHAT, chat(stream=True), {}) as stream:
        lines = stream.iter_lines()
        next(lines)
        proxy.signal()
        proxy.wait_log(r"signal name=SIGTERM")
        wait_until(lambda: proxy.get("/ready").status_code == 503, 3, "leaving")
        assert proxy.get("/ready").json()["status"] == "draining"
        assert proxy.get("/health").status_code == 200
        assert proxy.post(CHAT, chat()).status_code == 200  # whoever hasn't heard of it is served
        proxy.wait_log(r"\bdraining connections=", 10)
        wait_refused(proxy, 3)
        assert proxy.is_running()
        text = list(lines)
    assert text[-2:] == ["data: [DONE]", ""] or "data: [DONE]" in text
    assert proxy.wait(20) == 0


def test_kept_connections_survive_the_beginning_of_a_drain(serve, fakes):
    """A request that meets the drain on a connection kept open is served, and told to connect anew."""
    proxy = serve()
    agent = fakes("a", [proxy])
    agent.events, agent.event_gap_s = 100, 0.06
    wait_up(proxy, "a")
    kept = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=20)
    headers = {"Content-Type": "application/json"}
    kept.request("POST", CHAT, json.dumps(chat()), headers)
    first = kept.getresponse()
    first.read()
    assert first.getheader("connection") is None
    with proxy.stream(CHAT, chat(stream=True), {}) as stream:
        proxy.signal()
        wait_refused(proxy)
        kept.request("POST", CHAT, json.dumps(chat()), headers)
        second = kept.getresponse()
        assert second.status == 200 and second.getheader("connection") == "close"
        assert second.read()
        assert "data: [DONE]" in list(stream.iter_lines())
    assert proxy.wait(20) == 0


def test_a_drain_that_takes_too_long_is_cut_and_says_so(serve, fakes):
    proxy = serve("--drain-timeout", 1)
    agent = fakes("a", [proxy])
    agent.events, agent.event_gap_s = 1000, 0.05
    wait_up(proxy, "a")
    with proxy.stream(CHAT, chat(stream=True), {}) as stream:
        lines = stream.iter_lines()
        next(lines)
        proxy.signal()
        text = "\n".join(lines)
    assert '"upstream_lost"' in text and "[DONE]" not in text
    assert proxy.wait(20) == 0


# ---- SIGHUP ----


def write_keys(path, *keys):
    path.write_text(json.dumps([{"id": name, "key": secret, **more} for name, secret, more in keys]))


def reload(proxy, pattern):
    count = proxy.log.count(" main: reload")
    proxy.signal(signal.SIGHUP)
    wait_until(lambda: proxy.log.count(" main: reload") > count, 10, "reload")
    lines = [line for line in proxy.log.splitlines() if " main: reload" in line]
    assert pattern in lines[-1], lines


def test_reload_of_keys_validates_then_swaps(serve, fakes, tmp_path):
    path = tmp_path / "keys.json"
    write_keys(path, ("one", "sk-one", {}), ("two", "sk-two", {}))
    proxy = serve("--api-key-file", path)
    fakes("a", [proxy])
    wait_up(proxy, "a")
    assert with_key(proxy, "sk-one").status_code == 200
    assert with_key(proxy, "sk-three").status_code == 401

    write_keys(path, ("one", "sk-one", {}), ("three", "sk-three", {}))
    reload(proxy, "reloaded")
    assert with_key(proxy, "sk-three").status_code == 200
    assert with_key(proxy, "sk-two").status_code == 401

    for text, reason in (("[{", "JSON"), ('[{"id":"x"}]', "sha256"), ('[{"id":"x","key":"k","rpm":-1}]', "rpm")):
        path.write_text(text)
        reload(proxy, "refused")
        assert reason in [line for line in proxy.log.splitlines() if "reload refused" in line][-1]
        assert with_key(proxy, "sk-three").status_code == 200  # as before
        assert with_key(proxy, "sk-two").status_code == 401
    path.unlink()
    reload(proxy, "refused")
    assert with_key(proxy, "sk-one").status_code == 200


def test_reload_under_traffic_refuses_nobody(serve, fakes, tmp_path):
    path = tmp_path / "keys.json"
    write_keys(path, ("one", "sk-one", {}))
    proxy = serve("--api-key-file", path, "--threads", 2)
    fakes("a", [proxy], capacity=64)
    wait_up(proxy, "a")
    statuses, stopping = [], threading.Event()

    def ask():
        with httpx.Client(timeout=30, headers=key("sk-one")) as client:
            while not stopping.is_set():
                statuses.append(client.post(proxy.url + CHAT, json=chat()).status_code)

    clients = [threading.Thread(target=ask) for _ in range(4)]
    for client in clients:
        client.start()
    for n in range(10):
        write_keys(path, ("one", "sk-one", {}), *((f"k{i}", f"sk-{n}-{i}", {}) for i in range(200)))
        count = len(statuses) + 5
        reload(proxy, "reloaded")
        wait_until(lambda: len(statuses) >= count, 30, "traffic under the new keys")  # noqa: B023
    stopping.set()
    for client in clients:
        client.join(30)
    assert set(statuses) == {200}


def test_reload_reads_limits_and_the_log_level(serve, fakes, tmp_path):
    keys, settings = tmp_path / "keys.json", tmp_path / "settings"
    write_keys(keys, ("one", "sk-one", {"rpm": 1}))
    settings.write_text("log-level = info\n")
    proxy = serve("--config", settings, "--api-key-file", keys)
    fakes("a", [proxy])
    wait_up(proxy, "a")
    assert [with_key(proxy, "sk-one").status_code for _ in range(2)] == [200, 429]
    write_keys(keys, ("one", "sk-one", {"rpm": 6000}))
    settings.write_text("log-level = debug\n")
    reload(proxy, "reloaded")
    wait_until(lambda: with_key(proxy, "sk-one").status_code == 200, 5, "the new limit")
    proxy.wait_log(" DEBUG ")
    settings.write_text("log-level = loud\n")
    reload(proxy, "refused")
    assert "loud" in proxy.log.splitlines()[-1]


# ---- the state file ----


def written(path):
    return json.loads(path.read_text()) if path.exists() else {"agents": [], "nodes": []}


def test_a_start_without_redis_from_the_state_file(serve, fakes, start_redis, tmp_path):
    """Agents that only Redis knew are there after a restart of the proxy while Redis is down; proved by
    a probe, so that a dead one isn't among them."""
    redis = start_redis()
    path = tmp_path / "state.json"
    proxy = serve("--redis-url", redis.url, "--state-file", path)
    fakes("alive", redis_port=redis.port, models=["one"])
    dead = fakes("dead", redis_port=redis.port, models=["two"])
    wait_up(proxy, "alive", "dead")
    wait_until(lambda: len(written(path)["agents"]) == 2, 10, "state file")
    assert os.stat(path).st_mode & 0o077 == 0 or oct(os.stat(path).st_mode & 0o777) in ("0o600", "0o640")
    proxy.kill()
    redis.kill()
    dead.die()
    again = serve("--redis-url", redis.url, "--state-file", path)
    wait_until(lambda: status_of(again).get("alive", {}).get("state") == "up", 10, "alive, proved")
    assert again.post(CHAT, chat("one")).status_code == 200
    wait_until(lambda: "dead" not in status_of(again), 10, "the dead one gone")
    assert again.post(CHAT, chat("two")).status_code in (404, 503)


def test_foreign_nodes_are_remembered_and_removed_ones_are_not(serve, fakes, tmp_path):
    path = tmp_path / "state.json"
    proxy = serve("--state-file", path)
    kept, removed = fakes("kept", models=["kept"]), fakes("removed", models=["removed"])
    for node in (kept, removed):
        added = proxy.post("/nodes/add", {"url": node.url, "status": {"models": node.models, "speed": 2}})
        assert added.status_code == 200
    wait_until(lambda: len(written(path)["nodes"]) == 2, 10, "both written")
    assert proxy.post("/nodes/remove", {"url": removed.url}).status_code == 200
    wait_until(lambda: len(written(path)["nodes"]) == 1, 10, "removal written")
    proxy.stop()
    again = serve("--state-file", path)
    wait_until(lambda: again.post(CHAT, chat("kept")).status_code == 200, 10, "kept")
    status = again.get("/nodes/status").json()
    assert list(status) == [kept.url] and status[kept.url]["speed"] == 2
    assert again.post(CHAT, chat("removed")).status_code == 404


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version":99}', '{"version":1,"agents":7,"nodes":[7,{}]}',
                                  "\0" * 100])
def test_a_corrupt_state_file_is_no_reason_not_to_start(serve, fakes, tmp_path, text):
    path = tmp_path / "state.json"
    path.write_text(text)
    proxy = serve("--state-file", path)
    fakes("a", [proxy])
    wait_up(proxy, "a")
    assert "state.json" in proxy.log, proxy.log
    assert " WARN " in proxy.log or " ERROR " in proxy.log
    assert proxy.post(CHAT, chat()).status_code == 200
    wait_until(lambda: path.read_text() != text and len(written(path)["agents"]) == 1, 10, "written anew")


def test_a_state_file_that_cannot_be_written_is_said_once(serve, fakes, tmp_path):
    proxy = serve("--state-file", tmp_path / "no" / "such" / "folder")
    fakes("a", [proxy])
    wait_up(proxy, "a")

    def complaints():
        return [line for line in proxy.log.splitlines() if "state" in line and (" ERROR " in line or " WARN " in line)]
    wait_until(complaints, 20, "a complaint")
    time.sleep(5)
    assert len(complaints()) <= 3, complaints()
    assert proxy.post(CHAT, chat()).status_code == 200


# ---- the admin port ----


def admin_port(proxy):
    return int(proxy.wait_log(r"\badmin .*\bport=(\d+)").group(1))


def test_the_admin_port(serve, fakes):
    proxy = serve("--admin-port", 0, "--api-keys", "sk-client")
    agent = fakes("a", [proxy])
    wait_up(proxy, "a")
    url = f"http://127.0.0.1:{admin_port(proxy)}"
    for path in ("/health", "/metrics", "/nodes/status", "/lm/status"):
        assert httpx.get(url + path).status_code == 200, path
    assert httpx.post(url + CHAT, json=chat(), headers=key("sk-client")).status_code == 404  # no inference there
    rebound = {"Host": "proxy.example.com:9000"}  # a browser that was told that this name is 127.0.0.1
    browsers = [{**rebound, "Origin": "http://proxy.example.com:9000"}, {**rebound, "Sec-Fetch-Site": "same-origin"},
                {"Origin": "http://evil.example.com"}, {"X-Forwarded-For": "8.8.8.8"}]
    for headers in browsers:
        for path in ("/nodes/remove", "/nodes/terminate", "/nodes/terminate_all"):
            refused = httpx.post(url + path, json={"url": agent.url}, headers=headers)
            assert refused.status_code == 403 and refused.json()["error"]["code"] == "admin_only", (path, headers)
        added = httpx.post(url + "/nodes/add", json={"url": agent.url, "status": {"models": ["x"]}}, headers=headers)
        assert added.status_code == 403, headers
    # GET terminate_all changes the fleet: never for what an address bar could send
    assert httpx.get(url + "/nodes/terminate_all", headers=rebound).status_code == 403
    assert status_of(proxy)["a"]["state"] == "up"
    # another machine reaches it by a name of its own, as in Kubernetes
    assert httpx.post(url + "/nodes/remove", json={"url": agent.url}, headers=rebound).json() == "Deleted successfully"
    assert "a" not in status_of(proxy)


def test_join_without_a_key_is_for_this_machine_once_clients_need_keys(serve, fakes):
    """Else anybody could register a node and read what others ask."""
    proxy = serve("--api-keys", "sk-client", "--admin-key", "boss")
    node = fakes("node", models=["m"])
    body = {"url": node.url, "status": {"models": ["m"]}}
    for headers in ({"X-Forwarded-For": "10.1.2.3"}, {"Origin": "http://x"}, {"Host": "llm.example.com"}, key("sk-client")):
        refused = proxy.post("/nodes/add", body, headers=headers)
        if headers == key("sk-client"):
            assert refused.status_code == 200  # this machine, whatever it shows
            assert proxy.post("/nodes/remove", {"url": node.url}).status_code == 200
            continue
        assert refused.status_code == 403, headers
        assert refused.json()["error"]["code"] == "join_key_needed"
        assert "--join-key" in refused.json()["error"]["message"]
    assert proxy.get("/nodes/status").json() == {}
    shown = proxy.post("/nodes/add", body, headers={"X-Forwarded-For": "10.1.2.3", **key("boss")})
    assert shown.status_code == 200 and shown.json() == "Added successfully"
    assert list(proxy.get("/nodes/status").json()) == [node.url]


def test_join_from_another_address_is_refused_once_clients_need_keys(start_proxy, fakes):
    """The same from an address that isn't loopback, where this machine has one."""
    addresses = list(other_addresses())
    if not addresses:
        pytest.skip("this machine has no address but loopback")
    proxy = start_proxy("--server-name", "0.0.0.0", "--api-keys", "sk-client", ready=False)
    port = int(proxy.wait_log(r"\bserving .*\bport=(\d+)").group(1))
    node = fakes("node", models=["m"])
    refused = httpx.post(f"http://{addresses[0]}:{port}/nodes/add", json={"url": node.url, "status": {"models": ["m"]}})
    assert refused.status_code == 403 and refused.json()["error"]["code"] == "join_key_needed"


def other_addresses():
    import fcntl
    import socket
    import struct
    for _, name in socket.if_nameindex():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                answer = fcntl.ioctl(probe, 0x8915, struct.pack("256s", name.encode()))  # SIOCGIFADDR
            except OSError:
                continue
        address = socket.inet_ntoa(answer[20:24])
        if not address.startswith("127."):
            yield address


# ---- threads ----


def test_four_threads_serve_as_one(serve, fakes):
    """Requests of all threads reach all agents, and the metrics are those of the process."""
    proxy = serve("--threads", 4)
    agents = [fakes(name, [proxy], capacity=16) for name in ("a", "b", "c")]
    wait_up(proxy, "a", "b", "c")
    with Traffic(proxy.url + CHAT, chat(), clients=16) as traffic:
        wait_until(lambda: len(traffic.statuses) > 600, 60, "requests")
    assert not traffic.failures
    done = len(traffic.statuses)
    metrics = proxy.metrics()
    assert metrics["requests_total"] == metrics["responses_passed_total"] == done
    assert metrics["dispatches_total"] == sum(len(a.requests) for a in agents) == done
    assert metrics["request_seconds_count"] == metrics["first_byte_seconds_count"] == done
    wait_until(lambda: proxy.metrics()["ledger_entries"] == 0, 5, "ledgers")
    assert all(a.requests for a in agents)
    status = proxy.get("/lm/status").json()
    assert status["threads"] == 4 and status["requests"]["total"] == done
    assert sum(a["dispatches"] for a in status["agents"]) == done
    assert not any(status["requests"]["running"].values())


def test_four_threads_wait_for_the_same_slots(serve, fakes):
    """A slot that one thread frees is found by those that wait in the others."""
    proxy = serve("--threads", 4)
    agent = fakes("a", [proxy], capacity=2)
    agent.behave = "slow"
    wait_up(proxy, "a")
    with Traffic(proxy.url + CHAT, chat(), clients=12) as traffic:
        wait_until(lambda: proxy.metrics()["queue_waiting"] == 10, 10, "ten wait")
        waiting = proxy.get("/lm/status").json()["requests"]
        assert waiting["waiting"] == {"system": 0, "interactive": 0, "default": 10, "bulk": 0}
        assert sum(waiting["running"].values()) == 2
        agent.behave = "answer"
        agent.release.set()
        wait_until(lambda: len(traffic.statuses) > 100, 30, "all of them")
    assert not traffic.failures
    assert agent.most_running <= 2 + 3  # threads that see a free slot at the same moment may all take it
    assert proxy.metrics()["queue_waiting"] == 0


# ---- models, /lm/status ----


def test_models_of_several_kinds_go_where_they_are(serve, fakes):
    proxy = serve()
    chats, both = fakes("chats", [proxy], models=["chat-model"]), fakes("both", [proxy], models=["chat-model", "lora"])
    embedder = fakes("embedder", models=["embed-model"])
    assert proxy.post("/nodes/add", {"url": embedder.url}).status_code == 200  # asked for its models
    wait_up(proxy, "chats", "both")
    assert models_of(proxy) == ["chat-model", "embed-model", "lora"]
    for _ in range(4):
        assert proxy.post(CHAT, chat("lora")).json()["agent"] == "both"
        answer = proxy.post("/v1/embeddings", {"model": "embed-model", "input": "x"})
        assert answer.json()["agent"] == "embedder"
    asked = set()
    for _ in range(200):
        asked.add(proxy.post(CHAT, chat("chat-model")).json()["agent"])
        if len(asked) == 2:
            break
    assert asked == {"chats", "both"}
    unknown = proxy.post(CHAT, chat("nobody-has-this"))
    assert unknown.status_code == 404 and unknown.json()["error"]["code"] == "model_not_found"
    assert not chats.requests or all(r.json()["model"] == "chat-model" for r in chats.requests)
    assert all(r.json()["model"] in ("chat-model", "lora") for r in both.requests)


def test_no_agent_at_all_is_503_and_says_when_to_come_back(serve):
    proxy = serve()
    answer = proxy.post(CHAT, chat())
    assert answer.status_code == 503 and int(answer.headers["retry-after"]) >= 1
    assert answer.json()["error"]["code"] == "service_unavailable"


def test_status_tells_what_happens(serve, fakes):
    proxy = serve()
    agent, other = fakes("a", [proxy], capacity=8), fakes("other", models=["other"])
    agent.load = {"running": 1, "waiting": 0, "kv_used_share": 0.25, "prefill_tokens_per_s": 1000,
                  "inter_token_s": 0.02, 
                  "proxies": {"00000000000000aa": {"high": 1, "gaps": [], "active": 1}}}
    wait_up(proxy, "a")
    wait_until(lambda: status_of(proxy)["a"]["kv_used_share"] == 0.25, 5, "its report")
    proxy.post("/nodes/add", {"url": other.url, "status": {"models": ["other"]}})
    agent.behave = "slow"
    with Traffic(proxy.url + CHAT, chat(), clients=3):
        wait_until(lambda: agent.running == 3, 10, "three requests")
        status = proxy.get("/lm/status").json()
        agent.behave = "answer"
        agent.release.set()
    assert status["phase"] == "ready" or status["phase"] == "starting"
    assert len(status["id"]) == 16 and status["version"] and status["threads"] == 1
    assert status["redis"] == "none" and status["routing"] == "least_load" and status["uptime_s"] > 0
    assert status["requests"]["running"] == {"system": 0, "interactive": 0, "default": 3, "bulk": 0}
    agents = {a["id"]: a for a in status["agents"]}
    a = agents["a"]
    assert a["url"] == agent.url and a["state"] == "up" and a["breaker"] == "closed" and not a["foreign"]
    assert a["in_flight"] == 3 and a["others_in_flight"] == 1 and a["dispatches"] == 3
    assert a["kv_used_share"] == 0.25 and a["prefill_tokens_per_s"] == 1000 and a["inter_token_s"] == 0.02
    assert 0.5 < a["score_s"] < 60  # 512 tokens at 1000/s, young and loaded
    foreign = agents[other.url]
    assert foreign["foreign"] and foreign["models"] == ["other"] and "kv_used_share" not in foreign


def test_status_shows_an_open_breaker_and_failures(serve, fakes):
    proxy = serve()
    bad, good = fakes("bad", [proxy], behave="reset_before_head"), fakes("good", [proxy])
    wait_up(proxy, "bad", "good")
    for _ in range(300):
        assert proxy.post(CHAT, chat()).status_code == 200
        status = proxy.get("/lm/status").json()
        agents = {a["id"]: a for a in status["agents"]}
        if agents["bad"]["breaker"] != "closed" and good.requests:
            break
    assert agents["bad"]["breaker"] != "closed" and agents["bad"]["failures"] >= 3
    assert agents["bad"]["failure_rate"] > 0.1 and agents["good"]["failure_rate"] == 0
    assert agents["bad"]["score_s"] > agents["good"]["score_s"]
    assert status["retries"]["lost"] + status["retries"]["stale"] >= 3
    assert good.requests and bad.requests


def test_redis_in_the_status(serve, start_redis):
    redis = start_redis()
    proxy = serve("--redis-url", redis.url)
    wait_until(lambda: proxy.get("/lm/status").json()["redis"] == "connected", 10, "connected")
    redis.kill()
    wait_until(lambda: proxy.get("/lm/status").json()["redis"] == "away", 10, "away")


def test_a_port_that_is_taken_is_said(serve, start_proxy):
    first = serve()
    for arguments, words in ((("--port", first.port), "lm-proxy: cannot listen on 127.0.0.1:"),
                             (("--port", first.port, "--threads", 2), "lm-proxy: cannot listen on 127.0.0.1:"),
                             (("--admin-port", first.port), "lm-proxy: --admin-port: cannot listen on 127.0.0.1:")):
        second = start_proxy(*arguments, ready=False)
        second.expect_status = 1
        assert second.wait() == 1
        assert words in second.log
