"""Who belongs to the fleet: beats over HTTP, foreign nodes, operators, keys; LMDeploy's /nodes routes."""
# ctest: PROCESSORS 1

import contextlib
import socket
import time

import httpx
import pytest
from proxy_fixtures import (CHAT, Traffic, chat, fakes, models_of, proxy, raw_request,  # noqa: F401
                            status_of, serve, wait_until, wait_up)


def test_a_new_agent_takes_traffic_within_two_seconds(proxy, fakes):
    begin = time.monotonic()
    fakes("a", [proxy])
    wait_until(lambda: proxy.post(CHAT, chat()).status_code == 200, 2, "traffic")
    assert time.monotonic() - begin < 2


def test_status_has_lmdeploys_shape(proxy, fakes):
    agent = fakes("a", [proxy], models=["m1", "m2"])
    wait_up(proxy, "a")
    proxy.post(CHAT, chat("m1"))
    status = proxy.get("/nodes/status").json()
    assert list(status) == [agent.url]
    node = status[agent.url]
    assert node["models"] == ["m1", "m2"]
    assert node["unfinished"] == 0
    assert len(node["latency"]) == 1 and 0 < node["latency"][0] < 5
    assert node["speed"] is None
    assert node["state"] == "up" and node["capacity"] == 4 and not node["foreign"]


def test_unfinished_counts_what_runs(proxy, fakes):
    agent = fakes("a", [proxy], behave="slow")
    wait_up(proxy, "a")
    with Traffic(proxy.url + CHAT, chat(), clients=3) as traffic:
        wait_until(lambda: status_of(proxy)["a"]["unfinished"] == 3, 15, "three requests")
        agent.release.set()
    assert not traffic.failures
    assert status_of(proxy)["a"]["unfinished"] == 0


def test_the_dead_are_gone_within_six_seconds(proxy, fakes):
    """No traffic at all: the lease and a probe find out."""
    dead = fakes("dead", [proxy])
    fakes("other", [proxy], models=["other"])
    fakes("third", [proxy], models=["other"])
    fakes("fourth", [proxy], models=["other"])
    wait_up(proxy, "dead", "other", "third", "fourth")
    dead.die()
    took = wait_until(lambda: "dead" not in status_of(proxy), 6, "gone")
    assert took > 1
    assert models_of(proxy) == ["other"]
    wait_until(lambda: proxy.post(CHAT, chat()).status_code == 404, 6, "forgotten")


def test_a_hung_agent_is_gone_within_six_seconds(proxy, fakes):
    hung = fakes("hung", [proxy])
    fakes("other", [proxy])
    fakes("third", [proxy])
    fakes("fourth", [proxy])
    wait_up(proxy, "hung", "other", "third", "fourth")
    hung.proxies.clear()  # it beats no more, and what it is asked it answers with a failure
    hung.healthy = False
    wait_until(lambda: "hung" not in status_of(proxy), 6, "gone")


def test_an_agent_that_only_stops_beating_is_kept_for_a_while(proxy, fakes):
    agent = fakes("a", [proxy])
    wait_up(proxy, "a")
    agent.proxies.clear()
    for _ in range(60):
        assert proxy.post(CHAT, chat()).status_code == 200
        time.sleep(0.1)
    assert status_of(proxy)["a"]["state"] == "up"


def test_a_restarted_proxy_finds_its_fleet_within_two_seconds(serve, fakes):
    proxy = serve()
    agent = fakes("a", [proxy], beat_s=1)
    wait_up(proxy, "a")
    port = proxy.port
    proxy.kill()
    again = serve("--port", port)
    begin = time.monotonic()
    wait_until(lambda: again.post(CHAT, chat()).status_code == 200, 2, "traffic")
    assert time.monotonic() - begin < 2
    assert agent.url in again.get("/nodes/status").json()


def test_a_restarted_agent_with_the_same_id(proxy, fakes):
    first = fakes("a", [proxy])
    wait_up(proxy, "a")
    first.die()
    time.sleep(0.01)
    second = fakes("a", [proxy])
    wait_until(lambda: second.url in proxy.get("/nodes/status").json(), 2, "second at its url")
    assert list(proxy.get("/nodes/status").json()) == [second.url]  # which may be the first one's port again
    assert proxy.post(CHAT, chat()).status_code == 200
    assert len(second.requests) == 1


def test_a_duplicate_id_is_refused(proxy, fakes):
    newer = fakes("a", [proxy])
    wait_up(proxy, "a")
    older = fakes("a")
    older.start_ms = newer.start_ms - 1000
    assert older.beat(proxy.url) == 409
    assert list(proxy.get("/nodes/status").json()) == [newer.url]


# ---- what is posted to /nodes/add ----


def add(proxy, body, **headers):
    return httpx.post(proxy.url + "/nodes/add", json=body, headers=headers, timeout=10)


def test_malformed_registrations(proxy, fakes):
    record = fakes("a").record()
    bad = [[], {}, {"url": 7}, {"url": "ftp://x"}, {"url": "https://"}, {"url": "http://x y"},
           {"url": "http://x", "status": {"models": "m"}}, {"url": "http://x", "status": {"models": [7]}},
           {"url": "http://x", "status": {"models": ["m"], "speed": 0}},
           {"url": "http://x", "status": {"models": ["m"], "speed": -1}},
           {"url": "http://x", "status": {"models": ["m" * 200]}},
           {"lm": 7}, {"lm": {}}, {"lm": {**record["lm"], "id": "a b"}},
           {"lm": {**record["lm"], "id": "x" * 100}}, {"lm": {**record["lm"], "url": "nowhere"}},
           {"lm": {**record["lm"], "models": ["m"] * 100}},
           {"lm": {**record["lm"], "load": {"running": -1}}}]
    for body in bad:
        answer = add(proxy, body)
        assert answer.status_code == 400, body
        assert answer.json()["error"]["message"]
    assert httpx.post(proxy.url + "/nodes/add", content=b"{").status_code == 400
    assert httpx.post(proxy.url + "/nodes/add", content=b"x" * 1000000).status_code == 413
    assert proxy.get("/nodes/status").json() == {}
    assert proxy.metrics()["beats_refused_total"] == len(bad) + 2


def test_the_join_key(serve, fakes):
    proxy = serve("--join-key", "open sesame")
    stranger = fakes("a", [proxy])
    wrong = fakes("b", [proxy], join_key="open sesamE")
    wait_until(lambda: stranger.beat_statuses and wrong.beat_statuses, 5, "beats")
    assert {*stranger.beat_statuses, *wrong.beat_statuses} == {401}
    fakes("c", [proxy], join_key="open sesame")
    wait_up(proxy, "c")
    assert set(status_of(proxy)) == {"c"}
    answer = add(proxy, {"url": stranger.url, "status": {"models": ["m"]}})
    assert answer.status_code == 401 and answer.json()["error"]["code"] == "invalid_join_key"
    assert "sesame" not in proxy.log


# ---- foreign nodes ----


def test_a_foreign_node_by_lmdeploys_registration(proxy, fakes):
    node = fakes("foreign", models=["lm-1"])
    answer = add(proxy, {"url": f"http://0.0.0.0:{node.port}", "status": {"models": ["lm-1"]}})
    assert (answer.status_code, answer.json()) == (200, "Added successfully")
    wait_until(lambda: proxy.get("/nodes/status").json()[node.url]["state"] == "up", 10, "up")
    assert models_of(proxy) == ["lm-1"]
    answer = proxy.post(CHAT, chat("lm-1"))
    assert answer.json()["agent"] == "foreign"
    assert "x-lm-agent" not in answer.headers  # its id is an address of the inside


def test_a_foreign_node_is_asked_for_its_models(proxy, fakes):
    node = fakes("foreign", models=["lm-1", "lm-2"])
    assert add(proxy, {"url": node.url}).json() == "Added successfully"
    assert models_of(proxy) == ["lm-1", "lm-2"]
    node.models = ["lm-3"]
    wait_until(lambda: models_of(proxy) == ["lm-3"], 10, "new models")


def test_a_node_that_does_not_answer_is_not_added(proxy, fakes):
    node = fakes("foreign")
    node.die()
    answer = add(proxy, {"url": node.url})
    assert answer.status_code == 502
    assert answer.json() == {"error_code": 10402,
                             "text": "Failed to get response after a period of time"}
    assert proxy.get("/nodes/status").json() == {}


def test_a_proxy_among_its_own_nodes(proxy, fakes):
    agent = fakes("a", [proxy])
    wait_up(proxy, "a")
    assert proxy.post("/nodes/add", {"url": proxy.url}).status_code == 200
    wait_up(proxy, proxy.url)
    for _ in range(10):
        assert proxy.post(CHAT, chat()).json()["agent"] == "a"
    assert proxy.metrics()["dispatches_total"] <= 30  # a is asked, or the proxy, its own agent in vain
    agent.die()
    wait_until(lambda: "a" not in status_of(proxy), 6, "gone")
    answer = proxy.post(CHAT, chat())
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "request_loop")


def test_many_registrations_do_not_keep_the_proxy_from_probing(proxy, fakes):
    node = fakes("f")
    assert proxy.post("/nodes/add", {"url": node.url, "status": {"models": ["fake-model"]}}).status_code == 200
    wait_until(lambda: status_of(proxy)[node.url]["state"] == "up", 5, "the node up")
    with contextlib.ExitStack() as stack:
        silent = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=512))
        request = raw_request(b'{"url":"http://127.0.0.1:%d"}' % silent.getsockname()[1], "/nodes/add", close=False)
        askers = [stack.enter_context(socket.create_connection(("127.0.0.1", proxy.port))) for _ in range(300)]
        for asker in askers:
            asker.sendall(request * 4)
        assert askers[-1].recv(100).startswith(b"HTTP/1.1 503 ")
        node.die()
        wait_until(lambda: status_of(proxy)[node.url]["state"] == "down", 4, "the dead node down")


def test_a_foreign_node_stays_listed_and_comes_back(serve, fakes):
    node = fakes("foreign", models=["lm-1"])
    proxy = serve("--node", node.url)
    wait_until(lambda: models_of(proxy) == ["lm-1"], 10, "model")
    node.die()
    wait_until(lambda: proxy.get("/nodes/status").json()[node.url]["state"] == "down", 15, "down")
    assert models_of(proxy) == []
    fakes("foreign", models=["lm-1"], port=node.port)
    wait_until(lambda: proxy.post(CHAT, chat("lm-1")).status_code == 200, 15, "back")


# ---- operators ----


@pytest.mark.parametrize("form", ["query", "body"])
def test_remove(proxy, fakes, form):
    agent = fakes("a", [proxy])
    node = fakes("foreign")
    add(proxy, {"url": node.url})
    wait_up(proxy, "a")

    def remove(url):
        if form == "query":
            return httpx.post(proxy.url + "/nodes/remove", params={"node_url": url})
        return httpx.post(proxy.url + "/nodes/remove", json={"url": url})
    for url in (agent.url, node.url):
        answer = remove(url)
        assert (answer.status_code, answer.json()) == (200, "Deleted successfully")
        answer = remove(url)
        assert (answer.status_code, answer.json()) == (
            404, "Failed to delete, please check the input url.")
    time.sleep(1.2)
    assert proxy.get("/nodes/status").json() == {}  # though the agent goes on beating
    assert httpx.post(proxy.url + "/nodes/remove").status_code == 400


def test_terminate(proxy, fakes):
    agents = [fakes(f"n{i}", [proxy]) for i in range(3)]
    wait_up(proxy, "n0", "n1", "n2")
    answer = httpx.post(proxy.url + "/nodes/terminate", json={"url": agents[0].url})
    assert (answer.status_code, answer.json()) == (200, "Terminated successfully")
    assert "n0" not in status_of(proxy)
    agents[1].healthy = False  # answers 503 to /terminate too
    answer = httpx.post(proxy.url + "/nodes/terminate", json={"url": agents[1].url})
    assert (answer.status_code, answer.json()) == (502, f"Failed to terminate node {agents[1].url}")
    answer = httpx.get(proxy.url + "/nodes/terminate_all", headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()) == (502, "Failed to terminate all nodes")
    agents[1].healthy = True
    answer = httpx.get(proxy.url + "/nodes/terminate_all", headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()) == (200, "All nodes terminated successfully")
    assert proxy.get("/nodes/status").json() == {}


def test_who_may_change_the_fleet(serve, fakes):
    proxy = serve("--admin-key", "secret")
    fakes("a", [proxy])
    wait_up(proxy, "a")
    for path in ("/nodes/remove", "/nodes/terminate", "/nodes/terminate_all"):
        # A page in a browser on this machine, or a reverse proxy, isn't an operator on this machine.
        for headers in ({"Origin": "http://evil"}, {"X-Forwarded-For": "1.2.3.4"},
                        {"Origin": "null", "Authorization": "Bearer wrong"},
                        {"Host": "evil.example"}, {"Host": "evil.example:8000"}, {"Host": "127.0.0.1.evil"},
                        {"Sec-Fetch-Site": "cross-site", "x-lm-admin-key": "secreT"}):
            answer = httpx.post(proxy.url + path, json={"url": "http://x"}, headers=headers)
            assert answer.status_code == 403
            assert answer.json()["error"]["code"] == "admin_only"
    for headers in ({"Origin": "http://good", "Authorization": "Bearer secret"},
                    {"X-Forwarded-For": "1.2.3.4", "x-lm-admin-key": "secret"}):
        answer = httpx.post(proxy.url + "/nodes/remove", json={"url": "http://x"}, headers=headers)
        assert answer.status_code == 404
    for host in ("localhost", f"localhost:{proxy.port}", "127.0.0.1", "[::1]:8000", "proxy"):
        answer = httpx.post(proxy.url + "/nodes/remove", json={"url": "http://x"}, headers={"Host": host})
        assert answer.status_code == 404
    assert "a" in status_of(proxy)


# ---- starting ----


@pytest.mark.parametrize(("arguments", "status", "word"), [
    (["--port", "70000"], 2, "--port"), (["--prot", "1"], 2, "did you mean '--port'"),
    (["extra"], 2, "extra"), (["--routing-strategy", "best"], 2, "least_load"),
    (["--node", "x"], 2, "--node"), (["--log-level", "loud"], 2, "--log-level"),
    (["--redis-url", "http://x"], 2, "redis://"), (["--server-name", "256.0.0.1"], 1, "listen"),
])
def test_bad_flags(starter, arguments, status, word):
    from conftest import program
    from lm_process import Process
    process = Process(program("lm-proxy"), *arguments)
    process.expect_status = status
    starter.started.append(process)
    assert process.wait(10) == status
    assert process.log.count("\n") == 1 and process.log.startswith("lm-proxy: ")
    assert word in process.log


def test_port_in_use(starter, proxy):
    from conftest import program
    from lm_process import Process
    process = Process(program("lm-proxy"), "--server-name", "127.0.0.1", "--port", proxy.port)
    process.expect_status = 1
    starter.started.append(process)
    assert process.wait(10) == 1
    assert "address already in use" in process.log and process.log.count("\n") == 1
