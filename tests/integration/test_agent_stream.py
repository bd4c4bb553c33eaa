"""The bytes of a stream: framing, order, ids, what happens to clients that leave or read slowly."""
# ctest: PROCESSORS 1

import json
import random
import socket
import struct
import threading
import time

import httpx
import pytest

SKY = {"model": "smollm2", "messages": [{"role": "user", "content": "Why is the sky blue?"}]}


def raw_stream(agent, path, body):
    """The response's head and its body as the server framed it."""
    text = json.dumps(body).encode()
    with socket.create_connection(("127.0.0.1", agent.port)) as s:
        s.sendall(b"POST %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" %
                  (path.encode(), len(text), text))
        data = b""
        while piece := s.recv(65536):
            data += piece
    head, rest = data.split(b"\r\n\r\n", 1)
    return head.decode(), rest


def chunks_of(rest):
    """HTTP chunks, in the pieces in which they were written."""
    pieces = []
    while True:
        size, rest = rest.split(b"\r\n", 1)
        size = int(size, 16)
        if size == 0:
            assert rest == b"\r\n"
            return pieces
        pieces.append(rest[:size])
        rest = rest[size + 2:]


def events_of(agent, path, body):
    head, rest = raw_stream(agent, path, body)
    assert head.startswith("HTTP/1.1 200 ")
    assert "content-type: text/event-stream" in head.lower()
    assert "content-length" not in head.lower()
    text = b"".join(chunks_of(rest)).decode()
    assert text.endswith("data: [DONE]\n\n") and "\r" not in text
    lines = text.split("\n\n")[:-2]
    assert all(line.startswith("data: ") and "\n" not in line for line in lines)
    return [json.loads(line[6:]) for line in lines]


def test_chat_events(agent):
    events = events_of(agent, "/v1/chat/completions", {**SKY, "stream": True, "max_tokens": 4})
    first, *middle, last = events
    fixed = {key: first[key] for key in ("id", "object", "created", "model", "system_fingerprint")}
    assert first == {**fixed, "choices": [{
        "index": 0, "delta": {"role": "assistant", "content": "", "refusal": None},
        "logprobs": None, "finish_reason": None}]}
    assert fixed["object"] == "chat.completion.chunk"
    for event in middle:
        [choice] = event["choices"]
        assert event == {**fixed, "choices": [{
            "index": 0, "delta": {"content": choice["delta"]["content"]}, "logprobs": None,
            "finish_reason": None}]}
        assert choice["delta"]["content"] != ""
    assert last == {**fixed, "choices": [{"index": 0, "delta": {"content": ""}, "logprobs": None,
                                          "finish_reason": "length"}]}


def test_usage_event(agent):
    body = {**SKY, "stream": True, "max_tokens": 4, "stream_options": {"include_usage": True}}
    *events, last = events_of(agent, "/v1/chat/completions", body)
    assert all(event["usage"] is None and event["choices"] for event in events)
    assert last["choices"] == []
    usage = last["usage"]
    assert usage["completion_tokens"] == 4
    assert usage["total_tokens"] == usage["prompt_tokens"] + 4
    assert usage["completion_tokens_details"] == {"reasoning_tokens": 0}
    assert 0 <= usage["prompt_tokens_details"]["cached_tokens"] < usage["prompt_tokens"]


def test_done_and_closing_chunk_together(agent):
    """Clients close after [DONE]: it is in the last chunk, whose end is the end of the body."""
    _, rest = raw_stream(agent, "/v1/chat/completions", {**SKY, "stream": True, "max_tokens": 2})
    assert chunks_of(rest)[-1].endswith(b"data: [DONE]\n\n")


def test_token_ids_of_streams(agent):
    body = {**SKY, "max_tokens": 9, "temperature": 0, "return_token_ids": True}
    plain = agent.post("/v1/chat/completions", body).json()
    events = events_of(agent, "/v1/chat/completions", {**body, "stream": True})
    assert events[0]["prompt_token_ids"] == plain["prompt_token_ids"]
    assert all("prompt_token_ids" not in event for event in events[1:])
    ids = [i for event in events for i in event["choices"][0]["token_ids"]]
    assert ids == plain["choices"][0]["token_ids"] and len(ids) == 9

    body = {"model": "smollm2", "prompt": ["a b", "c"], "max_tokens": 3, "temperature": 0,
            "return_token_ids": True}
    plain = agent.post("/v1/completions", body).json()
    events = events_of(agent, "/v1/completions", {**body, "stream": True})
    for index in (0, 1):
        mine = [e["choices"][0] for e in events if e["choices"][0]["index"] == index]
        assert mine[0]["prompt_token_ids"] == plain["choices"][index]["prompt_token_ids"]
        assert [i for c in mine for i in c["token_ids"]] == plain["choices"][index]["token_ids"]


def test_zero_tokens(agent):
    """OpenAI's completions allow max_tokens 0: nothing is generated, and that is what is said."""
    body = {"model": "smollm2", "prompt": "hello", "max_tokens": 0}
    plain = agent.post("/v1/completions", body).json()
    assert plain["choices"][0]["text"] == "" and plain["choices"][0]["finish_reason"] == "length"
    assert plain["usage"]["completion_tokens"] == 0 and plain["usage"]["prompt_tokens"] == 1
    [event] = events_of(agent, "/v1/completions", {**body, "stream": True})
    assert event["choices"][0]["finish_reason"] == "length"


def test_whole_characters_only(agent, reference):
    """Tokens that end inside a character are held back: every delta is valid text by itself."""
    case = next(c for c in reference["conversations"] if "😀" in c["messages"][0]["content"])
    body = {"model": "smollm2", "messages": case["messages"], "max_tokens": 24, "temperature": 0}
    events = events_of(agent, "/v1/chat/completions", {**body, "stream": True})
    deltas = [e["choices"][0]["delta"]["content"] for e in events]
    plain = agent.post("/v1/chat/completions", body).json()["choices"][0]["message"]["content"]
    assert "".join(deltas) == plain
    assert "\ufffd" not in "".join(deltas[:-2])
    assert any(ord(c) > 127 for c in plain)


def test_bad_request_is_plain_json(agent):
    answer = agent.post("/v1/chat/completions", {**SKY, "stream": True, "temperature": 9})
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["error"]["param"] == "temperature"


def test_http_1_0(agent):
    """No chunks for 1.0: the end of the connection is the end of the stream."""
    text = json.dumps({**SKY, "stream": True, "max_tokens": 2}).encode()
    with socket.create_connection(("127.0.0.1", agent.port)) as s:
        s.sendall(b"POST /v1/chat/completions HTTP/1.0\r\nContent-Length: %d\r\n\r\n%s" %
                  (len(text), text))
        data = b""
        while piece := s.recv(65536):
            data += piece
    head, body = data.split(b"\r\n\r\n", 1)
    assert b"chunked" not in head.lower()
    assert body.startswith(b"data: {") and body.endswith(b"data: [DONE]\n\n")


def long_request(**more):
    return {**SKY, "max_tokens": 4000, "temperature": 0, "ignore_eos": True, **more}


@pytest.mark.parametrize("stream", [True, False])
def test_client_that_leaves_frees_its_slot(agent, stream):
    gone = agent.metrics()["requests_gone_total"]
    with socket.create_connection(("127.0.0.1", agent.port)) as s:
        text = json.dumps(long_request(stream=stream)).encode()
        s.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" %
                  (len(text), text))
        agent.wait_metric("running", lambda n: n == 1, 30)
        if stream:
            assert s.recv(100).startswith(b"HTTP/1.1 200")
    took = agent.wait_metric("running", lambda n: n == 0)
    assert took < 8, took  # the whole takes far longer
    metrics = agent.metrics()
    assert metrics["requests_gone_total"] == gone + 1
    assert metrics["completions_live"] == 0
    assert metrics["kv_blocks_used"] == 0 or metrics["kv_blocks_used"] < 3


def test_client_that_leaves_the_queue(start_agent):
    agent = start_agent("--model-name", "smollm2", "--max-batch-size", 1)
    with httpx.stream("POST", agent.url + "/v1/chat/completions", json=long_request(stream=True),
                      timeout=60):
        agent.wait_metric("running", lambda n: n == 1, 30)
        with httpx.stream("POST", agent.url + "/v1/chat/completions", timeout=60,
                          json=long_request(stream=True)) as waiting:
            assert waiting.status_code == 200  # the head comes at once, the answer when it can
            agent.wait_metric("waiting", lambda n: n == 1, 30)
        agent.wait_metric("waiting", lambda n: n == 0)
        assert agent.metrics()["running"] == 1
    agent.wait_metric("running", lambda n: n == 0)


def test_queue_full(start_agent):
    agent = start_agent("--model-name", "smollm2", "--max-batch-size", 1, "--queue-max", 2)
    url = agent.url + "/v1/chat/completions"
    streams = [httpx.stream("POST", url, json=long_request(stream=True), timeout=60)
               for _ in range(3)]
    opened = []
    try:
        for n, stream in enumerate(streams):
            opened.append(stream.__enter__())
            agent.wait_metric("running", lambda v: v == 1, 30)
            agent.wait_metric("waiting", lambda v, n=n: v == n, 30)
        answer = httpx.post(url, json=long_request(), timeout=60)
        assert answer.status_code == 429, answer.text
        error = answer.json()["error"]
        assert error["code"] == "rate_limit_exceeded"
        assert 1 <= int(answer.headers["retry-after"]) <= 30
        assert agent.metrics()["requests_queue_full_total"] == 1
        # with many prompts it is all or none
        many = httpx.post(agent.url + "/v1/completions", timeout=60,
                          json={"model": "smollm2", "prompt": ["a", "b"]})
        assert many.status_code == 429
        assert agent.metrics()["waiting"] == 2
    finally:
        for stream in streams[:len(opened)]:
            stream.__exit__(None, None, None)
    agent.wait_metric("running", lambda v: v == 0)


def test_slow_reader(agent):
    """A client that doesn't read holds nobody up, and gets everything when it does."""
    body = {**SKY, "max_tokens": 200, "ignore_eos": True, "temperature": 0, "stream": True}
    text = json.dumps(body).encode()
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        s.connect(("127.0.0.1", agent.port))
        s.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
                  b"Content-Length: %d\r\n\r\n%s" % (len(text), text))
        quick = agent.post("/v1/chat/completions", {**SKY, "max_tokens": 3, "temperature": 0})
        assert quick.status_code == 200
        agent.wait_metric("running", lambda n: n == 0, 90)
        data = b""
        while piece := s.recv(4096):
            data += piece
            time.sleep(0.0005)
    events = b"".join(chunks_of(data.split(b"\r\n\r\n", 1)[1])).decode().split("\n\n")
    got = "".join(json.loads(e[6:])["choices"][0]["delta"]["content"] for e in events[:-2])
    plain = agent.post("/v1/chat/completions", {**body, "stream": False}).json()
    assert got == plain["choices"][0]["message"]["content"]


def test_churn(agent):
    """Clients that come, leave at any moment, send rubbish or stay: nothing leaks, nothing mixes."""
    url = agent.url + "/v1/chat/completions"
    body = {**SKY, "max_tokens": 12, "temperature": 0}
    want = agent.post("/v1/chat/completions", body).json()["choices"][0]["message"]["content"]
    wrong = []

    def leave_early(dice):
        with socket.create_connection(("127.0.0.1", agent.port)) as s:
            text = json.dumps({**body, "stream": dice.random() < 0.5, "max_tokens": 500}).encode()
            data = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (
                len(text), text)
            s.sendall(data[:dice.randrange(1, 2 * len(data))])
            time.sleep(dice.random() * 0.1)
            if dice.random() < 0.5:  # RST instead of FIN
                s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def run(seed):
        dice = random.Random(seed)
        for _ in range(12):
            kind = dice.randrange(4)
            if kind == 0:
                answer = httpx.post(url, json=body, timeout=100)
                got = answer.json()["choices"][0]["message"]["content"]
                if got != want:
                    wrong.append(got)
            elif kind == 1:
                status = httpx.post(url, json={**body, "top_p": 5}, timeout=100).status_code
                if status != 400:
                    wrong.append(status)
            else:
                leave_early(dice)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    agent.wait_metric("completions_live", lambda n: n == 0)
    agent.wait_metric("running", lambda n: n == 0)
    agent.wait_metric("waiting", lambda n: n == 0)
    agent.wait_metric("connections", lambda n: n <= 1)  # ours that asks
