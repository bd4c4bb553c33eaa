"""POST /v1/embeddings: OpenAI's shapes by its own client, and what isn't a good request. That the numbers are right is
golden/test_golden_embeddings."""
# ctest: PROCESSORS 1

import base64
import json
import math
import pathlib
import shutil
import socket
import struct
import threading

import httpx
import openai
import pytest
from conftest import ROOT, SHARED, Starter, client_options, wait_until

URL = "/v1/embeddings"
MODEL = "smollm2"
SIZE = 576  # of SmolLM2-135M


@pytest.fixture(scope="module", params=["last", "mean"])
def pair(request, model_path):
    """An agent that gives embeddings, and a proxy before it."""
    starter = Starter()
    proxy = starter.proxy()
    agent = starter.agent(model_path, "--model-name", MODEL, *SHARED, "--embedding", request.param, "--queue-max", 8,
                          "--enable-abort-handling", "--proxy-url", proxy.url)
    wait_until(lambda: MODEL in proxy.get("/v1/models").text, 60, "the agent behind the proxy")
    yield {"agent": agent, "proxy": proxy}
    starter.stop()


@pytest.fixture(params=["agent", "proxy"])
def embedder(request, pair):
    return pair[request.param]


def embed(server, value, **more):
    answer = server.post(URL, {"model": MODEL, "input": value, **more})
    assert answer.status_code == 200, answer.text
    return [d["embedding"] for d in answer.json()["data"]]


def length(vector):
    return math.sqrt(sum(x * x for x in vector))


def close(a, b, tolerance=1e-6):
    return len(a) == len(b) and all(abs(x - y) <= tolerance for x, y in zip(a, b))


def test_shape(embedder):
    answer = embedder.post(URL, {"model": MODEL, "input": ["Hello world", "Hi"]}).json()
    assert answer["object"] == "list" and answer["model"] == MODEL
    assert [(d["object"], d["index"], len(d["embedding"])) for d in answer["data"]] == [("embedding", 0, SIZE), ("embedding", 1, SIZE)]
    tokens = sum(embedder.post("/v1/encode", {"model": MODEL, "input": ["Hello world", "Hi"]}).json()["length"])
    assert answer["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}
    for d in answer["data"]:
        assert abs(length(d["embedding"]) - 1) < 1e-5


@pytest.mark.parametrize("format", [openai.NOT_GIVEN, "float", "base64"])
def test_official_client(embedder, format):
    """Without a format it asks for base64 and decodes that."""
    with openai.OpenAI(**client_options(embedder)) as client:
        vector = client.embeddings.create(model=MODEL, input="Hello world", encoding_format=format).data[0].embedding
    if format == "base64":
        raw = base64.b64decode(vector)
        vector = struct.unpack(f"<{len(raw) // 4}f", raw)
    assert close(vector, embed(embedder, "Hello world")[0], 1e-7)


def test_all_forms_of_input_are_one(embedder):
    ids = embedder.post("/v1/encode", {"model": MODEL, "input": "Hello world"}).json()["input_ids"]
    text = embed(embedder, "Hello world")
    assert embed(embedder, ["Hello world"]) == embed(embedder, ids) == embed(embedder, [ids]) == text
    assert embed(embedder, [ids, "Hello world"]) == text * 2


def test_texts_differ_and_alike_ones_are_near(embedder):
    a, b, c = embed(embedder, ["The cat sat on the mat.", "The cat sat on the mat!", "Quarterly revenue grew by 3%."])
    def near(u, v):
        return sum(x * y for x, y in zip(u, v))
    assert near(a, b) > near(a, c) and a != b


def test_dimensions(embedder):
    whole = embed(embedder, "Hello world")[0]
    part = embed(embedder, "Hello world", dimensions=64)[0]
    assert close(part, [x / length(whole[:64]) for x in whole[:64]]) and abs(length(part) - 1) < 1e-5


def test_more_inputs_than_the_queue_takes(embedder):
    """And in their order, whatever order they come in."""
    texts = [" ".join(["word"] * (1 + i % 7)) + str(i) for i in range(40)]
    together = embed(embedder, texts)
    assert len(together) == 40
    for i in (0, 17, 39):
        assert embed(embedder, texts[i]) == [together[i]]


def test_request_timeout(start_agent):
    """Of the request, however many inputs it has."""
    agent = start_agent("--model-name", MODEL, "--max-batch-size", 2, "--embedding", "mean", "--request-timeout", 1)
    answer = agent.post(URL, {"model": MODEL, "input": [str(i) for i in range(2048)]})
    assert answer.status_code == 503 and answer.json()["error"]["code"] == "request_timeout"
    agent.wait_metric("running", lambda n: n == 0)
    wait_until(lambda: agent.post(URL, {"model": MODEL, "input": "a"}).status_code == 200, 60, "an answer")


def test_long_input(embedder):
    """Over several steps of the prompt."""
    assert abs(length(embed(embedder, "A longer text about nothing. " * 60)[0]) - 1) < 1e-5


@pytest.mark.parametrize("body, code, says", [
    ({}, "missing_required_parameter", "'input'"),
    ({"input": None}, "missing_required_parameter", "'input'"),
    ({"input": []}, "invalid_value", "Input list cannot be empty."),
    ({"input": ""}, "invalid_value", "must not be empty"),
    ({"input": ["a", ""]}, "invalid_value", "input[1]"),
    ({"input": [[]]}, "invalid_value", "input[0]"),
    ({"input": 7}, "invalid_type", "input"),
    ({"input": {"text": "a"}}, "invalid_type", "input"),
    ({"input": ["a", 7]}, "invalid_type", "input[1]"),
    ({"input": [1, "a"]}, "invalid_type", "input[1]"),
    ({"input": [1.5]}, "invalid_type", "input[0]"),
    ({"input": [-1]}, "invalid_value", "input[0]"),
    ({"input": [[1, 10 ** 9]]}, "invalid_value", "input[0][1]"),
    ({"input": ["a"] * 2049}, "invalid_value", "at most 2048"),
    ({"input": "word " * 5000}, "context_length_exceeded", "maximum input length"),
    ({"input": [1] * 5000}, "context_length_exceeded", "maximum input length"),
    ({"input": "a", "encoding_format": "int8"}, "invalid_value", "'float' or 'base64'"),
    ({"input": "a", "encoding_format": 1}, "invalid_type", "encoding_format"),
    ({"input": "a", "dimensions": 0}, None, "dimensions"),
    ({"input": "a", "dimensions": SIZE + 1}, None, "dimensions"),
    ({"input": "a", "dimensions": "many"}, "invalid_type", "dimensions"),
])
def test_bad_requests(embedder, body, code, says):
    answer = embedder.post(URL, {"model": MODEL, **body})
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert says in error["message"] or says in (error["param"] or "")
    assert code is None or error["code"] == code


def test_wrong_model(embedder):
    answer = embedder.post(URL, {"model": "other", "input": "a"})
    assert answer.status_code == 404 and answer.json()["error"]["code"] == "model_not_found"


def test_not_json(embedder):
    answer = httpx.post(embedder.url + URL, content=b"{\"input\":")
    assert answer.status_code == 400 and answer.json()["error"]["message"]
    assert embedder.get(URL).status_code == 405


def test_client_that_leaves(pair):
    agent = pair["agent"]
    before = agent.metrics()["requests_gone_total"]
    body = json.dumps({"model": MODEL, "input": ["A longer text. " * 60] * 200}).encode()
    with socket.create_connection(("127.0.0.1", agent.port), timeout=60) as connection:
        connection.sendall(b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (URL.encode(), len(body), body))
        agent.wait_metric("running", lambda n: n > 0)
    agent.wait_metric("requests_gone_total", lambda n: n == before + 1)
    agent.wait_metric("completions_live", lambda n: n == 0)
    assert embed(agent, "Hello")


def bare_folder(source, target):
    """A folder as the sentence-transformers library writes one: names without their first part, and its own files."""
    shutil.copytree(source, target)
    path = target / "model.safetensors"
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + size])
    renamed = json.dumps({name.removeprefix("model."): value for name, value in header.items()}).encode()
    renamed += b" " * (-len(renamed) % 8)
    path.write_bytes(struct.pack("<Q", len(renamed)) + renamed + data[8 + size:])
    (target / "1_Pooling").mkdir()
    (target / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": False, "pooling_mode_lasttoken": True}))
    (target / "modules.json").write_text(json.dumps([{"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}]))


def test_folders_that_say_how(start_agent, tmp_path):
    """The same model, told by an option and by its own files."""
    source = pathlib.Path(ROOT, "tests", "fixtures", "models", "llama3_rope")
    bare_folder(source, tmp_path / "bare")
    told = start_agent("--model-name", MODEL, "--embedding", "last", model=source)
    own = start_agent("--model-name", MODEL, model=tmp_path / "bare")
    off = start_agent("--model-name", MODEL, "--embedding", "off", model=tmp_path / "bare")
    assert embed(own, ["Hello world", [5, 6, 7]]) == embed(told, ["Hello world", [5, 6, 7]])
    assert off.post(URL, {"input": "a"}).status_code == 400


def test_damaged_pooling_files(start_agent, tmp_path):
    bare_folder(pathlib.Path(ROOT, "tests", "fixtures", "models", "llama3_rope"), tmp_path / "bare")
    (tmp_path / "bare" / "modules.json").write_text("[{")
    agent = start_agent(ready=False, model=tmp_path / "bare")
    agent.expect_status = None
    assert agent.wait() == 1 and "modules.json'" in agent.log


def test_abort(pair):
    agent = pair["agent"]
    answers = []
    body = {"model": MODEL, "input": ["A longer text. " * 60] * 200}
    thread = threading.Thread(target=lambda: answers.append(agent.post(URL, body, headers={"x-request-id": "e-1"})))
    thread.start()
    agent.wait_metric("completions_live", lambda n: n == 1)
    assert agent.post("/abort_request", {"request_id": "e-1"}).status_code == 200
    thread.join(60)
    assert answers[0].status_code == 499 and answers[0].json()["error"]["code"] == "request_aborted"


def test_models_that_give_none(server):
    answer = server.post(URL, {"model": MODEL, "input": "a"})
    assert answer.status_code == 400
    assert answer.json()["message"].startswith("Unsupported by this model") and answer.json()["error"]["code"] == "unsupported_model"
