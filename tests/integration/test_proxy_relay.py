"""What goes through lm-proxy comes out as it went in: bodies, heads, streams, in both directions; what
can't go through is refused at the door."""
# ctest: PROCESSORS 1

import concurrent.futures
import json
import pathlib
import re
import socket
import time

import httpx
import pytest
from proxy_fixtures import (CHAT, DONE, EVENT, chat, fakes, proxy, raw,  # noqa: F401
                            raw_request, serve, wait_until, wait_up)


def stream_bytes(name, count):
    return b"".join(EVENT % (name.encode(), i) for i in range(count)) + DONE


# ---- through ----


def test_bodies_are_byte_exact(proxy, fakes):
    agent = fakes("a", [proxy], behave="echo")
    wait_up(proxy, "a")
    body = ('{ "model" : "fake-model",\r\n\t"x":1e400, "n":12345678901234567890,"u":"\\u00e9\u00e9\\/",'
            '"dup":1,"dup":2 , "messages":[]}  \n').encode()
    answer = raw(proxy, raw_request(body, headers=["Content-Type: text/odd; a=b"]))
    assert agent.requests[0].body == body
    assert agent.requests[0].headers["content-type"] == "text/odd; a=b"
    assert answer.endswith(b"\r\n\r\n" + body)


def test_large_bodies(proxy, fakes):
    agent = fakes("a", [proxy], behave="echo")
    wait_up(proxy, "a")
    body = json.dumps(chat(padding="x" * (20 << 20))).encode()
    answer = httpx.post(proxy.url + CHAT, content=body, timeout=60)
    assert answer.content == body
    assert agent.requests[0].body == body


def test_a_chunked_upload(proxy, fakes):
    agent = fakes("a", [proxy], behave="echo")
    wait_up(proxy, "a")
    body = json.dumps(chat()).encode()

    def pieces():
        for i in range(0, len(body), 7):
            yield body[i:i + 7]
    answer = httpx.post(proxy.url + CHAT, content=pieces())
    assert answer.content == body
    assert agent.requests[0].headers["content-length"] == str(len(body))
    assert "transfer-encoding" not in agent.requests[0].headers


def test_expect_100_continue(proxy, fakes):
    fakes("a", [proxy], behave="echo")
    wait_up(proxy, "a")
    body = json.dumps(chat()).encode()
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as connection:
        connection.sendall(f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
                           "Expect: 100-continue\r\n\r\n".encode())
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body)
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_headers_both_ways(proxy, fakes):
    agent = fakes("a", [proxy])
    wait_up(proxy, "a")
    answer = proxy.post(CHAT, chat(), headers={
        "X-Stainless-Lang": "python", "Authorization": "Bearer k", "x-request-id": "mine-1",
        "x-lm-resume": "forged", "Connection": "keep-alive, x-private", "x-private": "1"})
    seen = agent.requests[0].headers
    assert seen["x-stainless-lang"] == "python"
    assert seen["authorization"] == "Bearer k"
    assert seen["x-request-id"] == "mine-1"
    assert seen["x-forwarded-for"] == "127.0.0.1"
    assert seen["host"] == f"127.0.0.1:{agent.port}"
    assert not {"x-lm-resume", "x-private"} & set(seen)
    assert answer.headers.get_list("x-request-id") == ["mine-1"]
    assert answer.headers["x-custom"] == "kept"
    assert answer.headers["x-lm-agent"] == "a"
    assert answer.headers["content-length"] == str(len(answer.content))


def test_every_answer_has_a_request_id(proxy, fakes):
    agent = fakes("a", [proxy])
    wait_up(proxy, "a")
    answer = proxy.post(CHAT, chat())
    assert answer.headers["x-request-id"].startswith("req_")
    assert agent.requests[0].headers["x-request-id"] == answer.headers["x-request-id"]
    assert proxy.get("/nope").headers["x-request-id"].startswith("req_")


def test_the_query_string_passes(proxy, fakes):
    agent = fakes("a", [proxy])
    wait_up(proxy, "a")
    proxy.post(CHAT + "?api-version=1&x=%2F", chat())
    assert agent.requests[0].target == CHAT + "?api-version=1&x=%2F"


def test_cors_headers_stand_once(proxy, fakes):
    fakes("a", [proxy])
    wait_up(proxy, "a")
    answer = proxy.post(CHAT, chat(), headers={"Origin": "http://page"})
    assert answer.headers.get_list("access-control-allow-origin") == ["*"]
    assert answer.headers.get_list("access-control-allow-credentials") == ["true"]
    preflight = httpx.options(proxy.url + CHAT, headers={
        "Origin": "http://page", "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,x-stainless-lang"})
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == "http://page"
    assert preflight.headers["access-control-allow-headers"] == "authorization,x-stainless-lang"


@pytest.mark.parametrize(("behave", "status"), [("broken500", 500), ("bad400", 400),
                                                ("no_content", 204)])
def test_statuses_pass(proxy, fakes, behave, status):
    agent = fakes("a", [proxy], behave=behave)
    fakes("b", [proxy], behave=behave)
    wait_up(proxy, "a", "b")
    answer = proxy.post(CHAT, chat())
    assert answer.status_code == status
    if status != 204:
        assert "error" in answer.json()
    assert len(agent.requests) <= 1  # and nothing was tried twice
    assert proxy.metrics()["dispatches_total"] == 1


def test_streams_are_byte_exact(proxy, fakes):
    fakes("a", [proxy])
    wait_up(proxy, "a")
    answer = proxy.post(CHAT, chat(stream=True))
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.content == stream_bytes("a", 20)


def test_streams_in_any_pieces(proxy, fakes):
    agent = fakes("a", [proxy], behave="scripted")
    wait_up(proxy, "a")
    whole = (b": comment\n\ndata: one\ndata: two lines\nid: 7\nevent: x\n\n\r\n\r\n"
             + b"data: " + "\u4e2d\u6587\U0001f600".encode() + b"\n\ndata: " + b"y" * (1 << 20) + b"\n\n")
    for size in (1, 3, 1000, 100000):
        head = whole[:200] if size < 1000 else whole
        agent.pieces = [head[i:i + size] for i in range(0, len(head), size)]
        assert proxy.post(CHAT, chat(stream=True)).content == head


def test_the_first_event_comes_at_once(proxy, fakes):
    agent = fakes("a", [proxy], behave="hang_in_stream")
    wait_up(proxy, "a")
    with httpx.stream("POST", proxy.url + CHAT, json=chat(stream=True), timeout=10) as answer:
        begin = time.monotonic()
        assert next(answer.iter_bytes()).startswith(b"data: ")
        assert time.monotonic() - begin < 5  # the stream itself never ends
    assert agent.client_left.wait(10)


def test_many_streams_stay_apart(proxy, fakes):
    for name in ("a", "b", "c"):
        fakes(name, [proxy])
    wait_up(proxy, "a", "b", "c")

    def ask(number):
        answer = httpx.post(proxy.url + CHAT, json=chat(stream=True, number=number), timeout=60)
        return answer.content == stream_bytes(answer.headers["x-lm-agent"], 20)
    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        assert all(pool.map(ask, range(128)))


def test_connections_to_agents_are_reused(proxy, fakes):
    agent = fakes("a", [proxy])
    wait_up(proxy, "a")
    before = agent.accepted
    with httpx.Client() as client:
        for _ in range(50):
            assert client.post(proxy.url + CHAT, json=chat()).status_code == 200
    assert agent.accepted - before == 1


def test_pipelined_requests_are_answered_in_order(proxy, fakes):
    fakes("a", [proxy], behave="echo")
    wait_up(proxy, "a")
    bodies = [json.dumps(chat(number=i)).encode() for i in range(5)]
    requests = b"".join(raw_request(body, close=i == 4) for i, body in enumerate(bodies))
    answer = raw(proxy, requests)
    positions = [answer.index(body) for body in bodies]
    assert positions == sorted(positions)


def test_http_1_0_clients(proxy, fakes):
    fakes("a", [proxy])
    wait_up(proxy, "a")
    body = json.dumps(chat(stream=True)).encode()
    answer = raw(proxy, f"POST {CHAT} HTTP/1.0\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
    assert answer.endswith(stream_bytes("a", 20))
    assert b"transfer-encoding" not in answer.lower()


# ---- back-pressure and loss of clients ----


def test_a_slow_reader_holds_the_agent_back(proxy, fakes):
    agent = fakes("a", [proxy], behave="endless")
    wait_up(proxy, "a")
    body = json.dumps(chat(stream=True)).encode()
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
        connection.connect(("127.0.0.1", proxy.port))
        connection.sendall(raw_request(body))
        connection.recv(1000)
        proxy.wait_metric("client_pauses_total", lambda n: n >= 1, 30)
        last = -1
        while last != agent.endless_bytes:  # until nothing moves any more
            last = agent.endless_bytes
            assert last < 16 << 20  # socket buffers and the proxy's bounded one
            time.sleep(0.5)
        for _ in range(200):  # and on it goes when the client reads
            connection.recv(1 << 20)
        wait_until(lambda: agent.endless_bytes > last, 20, "more bytes")
    assert agent.client_left.wait(10)


@pytest.mark.parametrize("behave", ["slow", "hang_in_stream", "head_then_hang"])
def test_a_client_that_leaves_frees_the_agent_at_once(proxy, fakes, behave):
    agent = fakes("a", [proxy], behave=behave)
    wait_up(proxy, "a")
    connection = socket.create_connection(("127.0.0.1", proxy.port))
    connection.sendall(raw_request(json.dumps(chat(stream=True)).encode()))
    wait_until(lambda: agent.running == 1, 5, "request at the agent")
    time.sleep(0.1)
    left = time.monotonic()
    connection.close()
    assert agent.client_left.wait(10)
    assert agent.left_at - left < 0.5  # generous on a busy machine; it is under 10 ms
    assert proxy.metrics()["clients_gone_total"] == 1


# ---- refused at the door ----


def assert_refused(answer, status, code=None, text=""):
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == code
    assert text in error["message"]
    assert answer.json()["object"] == "error" and answer.json()["code"] == status


MALFORMED = [
    (b"", "byte 0"), (b"hello", "byte 0"), (b'{"model": "fake-model"', "byte 22"),
    (b'{"model": "fake-model", "x": "\xff"}', "UTF-8"), (b'{"model": "fake-model\\u0000"}', "\\u0000"),
    (b'[{"model": "fake-model"}]', "object"), (b"{}", "you must provide a model parameter"),
    (b'{"model": 7}', "a number"), (b'{"model": "fake-model", "model": "x"}', "twice"),
    (b'{"model": "fake-model", "x": NaN}', "byte"), (b'{"model":' * 100, "an object"),
]


def test_malformed_bodies(proxy, fakes):
    agent = fakes("a", [proxy])
    wait_up(proxy, "a")
    for body, text in MALFORMED:
        for path in (CHAT, "/v1/completions"):
            answer = httpx.post(proxy.url + path, content=body)
            assert answer.status_code == 400
            assert text in answer.json()["error"]["message"]
            assert answer.json()["error"]["type"] == "invalid_request_error"
    assert agent.requests == []
    assert proxy.metrics()["requests_invalid_total"] == 2 * len(MALFORMED)


def test_unknown_model(proxy, fakes):
    fakes("a", [proxy])
    wait_up(proxy, "a")
    assert_refused(proxy.post(CHAT, chat("other")), 404, "model_not_found", "`other` does not exist")
    assert_refused(proxy.post(CHAT, chat("x" * 100000)), 404, "model_not_found")
    assert_refused(proxy.get("/v1/models/other"), 404, "model_not_found", "other")


def test_no_agent_at_all(proxy):
    answer = proxy.post(CHAT, chat())
    assert_refused(answer, 503, "service_unavailable", "retry")
    assert int(answer.headers["retry-after"]) >= 1
    assert proxy.get("/v1/models").json() == {"object": "list", "data": []}


def test_unknown_paths_and_methods(proxy):
    assert_refused(proxy.get("/v1/nope"), 404, "unknown_url")
    answer = proxy.get(CHAT)
    assert_refused(answer, 405, "method_not_supported")
    assert "POST" in answer.headers["allow"]


def test_too_large(serve, fakes):
    proxy = serve("--max-body", "1M")
    agent = fakes("a", [proxy])
    wait_up(proxy, "a")
    assert httpx.post(proxy.url + CHAT, content=b"x" * (1 << 20) + b"x").status_code == 413
    assert agent.requests == []


FRAMING_ATTACKS = [
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    b"GET / HTTP/1.1\nHost: x\n\n", b"GET / HTTP/1.1\r\nA: b\r\n c: d\r\n\r\n",
]


def test_framing_attacks_are_refused_and_cut(proxy):
    for attack in FRAMING_ATTACKS:
        answer = raw(proxy, attack)
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b'{"error":{"message":' in answer
        assert answer.count(b"HTTP/1.1") == 1


# ---- the proxy's own pages ----


def test_models_are_listed_once(proxy, fakes):
    fakes("a", [proxy], models=["m1", "org/m2"])
    fakes("b", [proxy], models=["m1", "m3"])
    wait_up(proxy, "a", "b")
    listed = proxy.get("/v1/models").json()
    assert [m["id"] for m in listed["data"]] == ["m1", "m3", "org/m2"]
    assert all({"id", "object", "created", "owned_by"} <= set(m) for m in listed["data"])
    one = proxy.get("/v1/models/org%2Fm2").json()
    assert one == listed["data"][2]
    assert proxy.post(CHAT, chat("org/m2")).json()["agent"] == "a"
    assert proxy.post(CHAT, chat("m3")).json()["agent"] == "b"


def test_health_ready_metrics(proxy, fakes):
    fakes("a", [proxy])
    wait_up(proxy, "a")
    assert proxy.get("/health").status_code == 200
    wait_until(lambda: proxy.get("/ready").status_code == 200, 10, "ready")
    assert proxy.get("/ready").json() == {"status": "ready", "agents": 1}
    proxy.post(CHAT, chat())
    text = proxy.get("/metrics").text
    assert "# TYPE lm_proxy_requests_total counter\nlm_proxy_requests_total 1\n" in text
    assert 'lm_proxy_agent_dispatches_total{agent="a"} 1\n' in text
    assert "lm_proxy_first_byte_seconds_count 1\n" in text
    assert proxy.metrics()["agents_up"] == 1


def test_metrics_are_documented(proxy, fakes):
    fakes("a", [proxy])
    wait_up(proxy, "a")
    path = pathlib.Path(__file__).parents[2] / "docs" / "operations.md"
    table = path.read_text().split("<!-- metrics:lm-proxy -->")[1].split("<!-- /metrics -->")[0]
    documented = {(name.split("{")[0], kind, text) for name, kind, text in
                  re.findall(r"^\| `(\S+)` \| (\w+) \| (.*) \|$", table, re.MULTILINE)}
    text = proxy.get("/metrics").text
    kinds = dict(re.findall(r"^# TYPE (\S+) (\w+)$", text, re.MULTILINE))
    exposed = {(name, kinds[name], words) for name, words in
               re.findall(r"^# HELP (\S+) (.*)$", text, re.MULTILINE)}
    assert exposed == documented
