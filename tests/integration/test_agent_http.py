"""What isn't a good request: bytes that aren't HTTP, bodies that aren't JSON, wrong types, wrong paths.
Each gets a 4xx with OpenAI's error object, never a 5xx, and the server goes on."""
# ctest: PROCESSORS 1

import json
import shutil
import socket
import subprocess

import httpx
import pytest

CHAT = "/v1/chat/completions"


def exchange(agent, data):
    with socket.create_connection(("127.0.0.1", agent.port), timeout=15) as s:
        s.sendall(data)
        answer = b""
        while True:
            try:
                piece = s.recv(65536)
            except ConnectionResetError:
                break
            if not piece:
                break
            answer += piece
        return answer


HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"


@pytest.mark.parametrize("data, status", [
    (b"hello\r\n\r\n", 400),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 40 + b"\r\n\r\n", 400),  # TLS
    (b"GET /health\r\n\r\n", 505),  # HTTP/0.9
    (b"GET /health HTTP/3.0\r\nHost: x\r\n\r\n", 505),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    (b"GET /health HTTP/1.1\r\nHost: x\r\n folded: yes\r\n\r\n", 400),
    (b"GET /health HTTP/1.1\r\nHost: x\r\nBad Header: 1\r\n\r\n", 400),
    (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
    (b"GET /health HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 40000 + b"\r\n\r\n", 431),
    (b"GET /health HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 120 + b"\r\n", 431),
    (HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    (HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!", 400),
    (HEAD + b"Content-Length: -1\r\n\r\n", 400),
    (HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n", 400),
    (HEAD + b"Content-Length: 99999999999\r\n\r\n", 413),
    (HEAD + b"Expect: tea\r\nContent-Length: 2\r\n\r\n{}", 417),
])
def test_malformed_http(agent, data, status):
    answer = exchange(agent, data)
    assert answer, "no answer"
    head, body = answer.split(b"\r\n\r\n", 1)
    got = int(head.split(b" ")[1])
    assert got == status, answer[:300]
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["message"]


@pytest.mark.parametrize("body", [
    b"", b"{", b"}", b"[1,2", b"nul", b"{'a':1}", b'{"a":1,}', b'{"a":01}', b'{"a":NaN}',
    b'\xef\xbb\xbf{"model":"smollm2"}', b'{"model":"smollm2"} {}', b'{"model":"\xff\xfe"}',
    b'{"model":"\xed\xa0\x80"}', b'{"model":"a\\u0000b"}', b'{"model":"\\ud800"}',
    b'{"model":"a\nb"}', b'{"a":' * 100 + b"1" + b"}" * 100, b"[" * 100000, b'{"a":1,"a":2}',
    b'{"a":1e999}', b"\x00", b'"' + b"a" * 100000,
])
def test_malformed_json(agent, body):
    answer = httpx.post(agent.url + CHAT, content=body, timeout=30)
    assert answer.status_code == 400, answer.text[:300]
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error" and "JSON" in error["message"]


@pytest.mark.parametrize("body", [b"null", b"7", b'"x"', b"[]", b"true"])
def test_json_that_is_no_object(agent, body):
    answer = httpx.post(agent.url + CHAT, content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "invalid_type"


HI = [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize("more, status, code, param", [
    ({"model": None}, 400, "missing_required_parameter", "model"),
    ({"model": "gpt-9"}, 404, "model_not_found", "model"),
    ({"model": ["smollm2"]}, 400, "invalid_type", "model"),
    ({"messages": None}, 400, "missing_required_parameter", "messages"),
    ({"messages": []}, 400, "empty_array", "messages"),
    ({"messages": {"role": "user"}}, 400, "invalid_type", "messages"),
    ({"messages": [{"role": "emperor", "content": "x"}]}, 400, "invalid_value", "messages[0].role"),
    ({"messages": [HI[0], {"role": "user", "content": 5}]}, 400, "invalid_type",
     "messages[1].content"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400,
     "unsupported_parameter", "messages[0].content[0].type"),
    ({"temperature": "0.7"}, 400, "invalid_type", "temperature"),
    ({"temperature": 2.01}, 400, "decimal_above_max_value", "temperature"),
    ({"top_p": -0.1}, 400, "decimal_below_min_value", "top_p"),
    ({"top_k": -1}, 400, "integer_below_min_value", "top_k"),
    ({"n": 0}, 400, "integer_below_min_value", "n"),
    ({"n": 129}, 400, "integer_above_max_value", "n"),
    ({"logit_bias": {"x": 1}}, 400, "invalid_value", "logit_bias.x"),
    ({"logit_bias": {"999999": 1}}, 400, "invalid_value", "logit_bias.999999"),
    ({"presence_penalty": 3}, 400, "decimal_above_max_value", "presence_penalty"),
    ({"max_tokens": 0}, 400, "integer_below_min_value", "max_tokens"),
    ({"stop": ["a"] * 33}, 400, "array_above_max_length", "stop"),
    ({"stop_token_ids": [49152]}, 400, "invalid_value", "stop_token_ids[0]"),
    ({"stream_options": {"include_usage": True}}, 400, None, "stream_options"),
    ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, 400, "unsupported_parameter",
     "tools[0].type"),
    ({"response_format": {"type": "xml"}}, 400, "invalid_value", "response_format.type"),
    ({"logprobs": True, "top_logprobs": 21}, 400, "integer_above_max_value", "top_logprobs"),
    ({"top_logprobs": 2}, 400, None, "top_logprobs"),
    ({"messages": [{"role": "user", "content": "a b " * 9000}]}, 400, "context_length_exceeded",
     "messages"),
    ({"messages": [{"role": "user", "content": "x" * 30_000_000}]}, 400, "context_length_exceeded",
     "messages"),
])
def test_wrong_fields(agent, more, status, code, param):
    answer = agent.post(CHAT, {"model": "smollm2", "messages": HI, "max_tokens": 1, **more})
    assert answer.status_code == status, answer.text[:300]
    body = answer.json()
    assert body["error"]["code"] == code and body["error"]["param"] == param
    # LMDeploy's clients read the flat members
    assert body["object"] == "error" and body["code"] == status
    assert body["message"] == body["error"]["message"]


@pytest.mark.parametrize("prompt, code, param", [
    ([49152], "invalid_value", "prompt[0]"),
    ([1, -1], "invalid_value", "prompt[1]"),
    ([[1], ["a"]], "invalid_type", "prompt[1][0]"),
    (["a"] * 129, "array_above_max_length", "prompt"),
    ([1] * 100_000, "context_length_exceeded", "prompt"),
    ([], "empty_array", "prompt"),
    ({"a": 1}, "invalid_type", "prompt"),
])
def test_wrong_prompts(agent, prompt, code, param):
    answer = agent.post("/v1/completions", {"model": "smollm2", "prompt": prompt})
    assert answer.status_code == 400, answer.text[:300]
    assert answer.json()["error"]["code"] == code and answer.json()["error"]["param"] == param


def test_too_many_values(agent):
    body = b'{"model":"smollm2","messages":[' + b"0," * 3_000_000 + b"0]}"
    answer = httpx.post(agent.url + CHAT, content=body, timeout=60)
    assert 400 <= answer.status_code < 500 and answer.json()["error"]["message"]


@pytest.mark.parametrize("prompt", [None, ""])
def test_empty_prompt_begins_a_document(agent, prompt):
    answer = agent.post("/v1/completions", {"model": "smollm2", "prompt": prompt, "max_tokens": 2})
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["prompt_tokens"] == 1


def test_paths_and_methods(agent):
    answer = agent.get("/v1/nothing")
    assert answer.status_code == 404 and answer.json()["error"]["code"] == "unknown_url"
    answer = agent.get(CHAT)
    assert answer.status_code == 405 and "POST" in answer.headers["allow"]
    assert answer.json()["error"]["code"] == "method_not_supported"
    answer = agent.get("/v1/models/a%2Fb")
    assert answer.status_code == 404 and "`a/b`" in answer.json()["error"]["message"]
    assert httpx.head(agent.url + "/health").status_code == 200
    assert httpx.delete(agent.url + "/v1/models/smollm2").status_code == 405


def test_any_content_type(agent):
    """curl -d says x-www-form-urlencoded: what parses is accepted."""
    body = json.dumps({"model": "smollm2", "messages": HI, "max_tokens": 1})
    for kind in ["application/x-www-form-urlencoded", "text/plain", "application/json; charset=utf-8"]:
        answer = httpx.post(agent.url + CHAT, content=body, headers={"content-type": kind}, timeout=60)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "application/json"


def test_request_id_and_timing(agent):
    answer = agent.post(CHAT, {"model": "smollm2", "messages": HI, "max_tokens": 1},
                        headers={"x-request-id": "mine-1"})
    assert answer.headers["x-request-id"] == "mine-1"
    assert int(answer.headers["openai-processing-ms"]) >= 0
    assert agent.get("/v1/nothing").headers["x-request-id"].startswith("req_")


def test_cors(agent):
    headers = {"origin": "http://app.example", "access-control-request-method": "POST",
               "access-control-request-headers": "authorization,content-type,x-stainless-os"}
    answer = httpx.options(agent.url + CHAT, headers=headers)
    assert answer.status_code in (200, 204)
    assert answer.headers["access-control-allow-origin"] in ("*", "http://app.example")
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert "x-stainless-os" in answer.headers["access-control-allow-headers"]
    for path in ["/v1/models", "/v1/nothing"]:
        answer = agent.get(path, headers={"origin": "http://app.example"})
        assert answer.headers["access-control-allow-origin"] == "*"
    stream = agent.post(CHAT, {"model": "smollm2", "messages": HI, "max_tokens": 1, "stream": True},
                        headers={"origin": "http://app.example"})
    assert stream.headers["access-control-allow-origin"] == "*"


def test_lmdeploy_client_fields(agent):
    """What LMDeploy's APIClient sends, curl's lines of its documentation among it."""
    answer = agent.post(CHAT, {
        "model": "smollm2", "messages": "hi", "temperature": 0.7, "top_p": 1.0, "n": 1,
        "max_tokens": 2, "stop": None, "stream": False, "presence_penalty": 0.0,
        "frequency_penalty": 0.0, "user": None, "repetition_penalty": 1.0, "session_id": -1,
        "ignore_eos": False, "skip_special_tokens": True, "kwargs": {}, "logprobs": False,
        "top_logprobs": None, "logit_bias": None, "tools": None, "response_format": None, "seed": 0})
    assert answer.status_code == 200, answer.text
    answer = agent.post("/v1/completions", {"model": "smollm2", "prompt": "two steps to build a house:",
                                            "stream": "true", "max_tokens": 2})
    assert answer.headers["content-type"].startswith("text/event-stream")
    models = agent.get("/v1/models").json()
    assert models["data"][0]["permission"][0]["object"] == "model_permission"


@pytest.mark.parametrize("path, body", [
    ("/v1/models", None),
    (CHAT, """{
    "model": "smollm2",
    "messages": [{"role": "user", "content": "Hello! How are you?"}]
  }"""),
    ("/v1/completions", """{
  "model": "smollm2",
  "prompt": "two steps to build a house:"
}"""),
])
def test_curl_lines_of_the_documentation(server, path, body):
    if not shutil.which("curl"):
        pytest.skip("there is no curl")
    data = ["-H", "Content-Type: application/json", "-d", body] if body else []
    done = subprocess.run(["curl", "-sS", "--fail", server.url + path, *data], capture_output=True,
                          text=True, timeout=100, check=True)
    answer = json.loads(done.stdout)
    if body:
        assert answer["choices"][0]["finish_reason"] in ("stop", "length")
    else:
        assert answer["data"][0]["id"] == "smollm2"


def test_pipelined_requests(agent):
    request = b"GET /ready HTTP/1.1\r\nHost: x\r\n\r\n"
    last = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    answer = exchange(agent, request * 3 + last)
    assert answer.count(b"HTTP/1.1 200") == 4


def test_metrics_text(agent):
    answer = agent.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "# TYPE lm_agent_requests_total counter" in answer.text
    assert "lm_agent_first_token_seconds_bucket{le=\"+Inf\"}" in answer.text
    assert agent.metrics()["ready"] == 1
