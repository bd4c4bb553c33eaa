"""The API's description: it is valid, it is true, and what is made of it works."""
# ctest: PROCESSORS 1

import importlib
import json
import os
import re
import shutil
import subprocess
import sys

import httpx
import jsonschema
import pytest
from openapi_spec_validator import validate

from browser_page import Page, browser  # noqa: F401
from conftest import program

PAGES = ("/", "/redoc", "/openapi.json")
HI = [{"role": "user", "content": "Hi"}]


@pytest.fixture(scope="module")
def described(shared_agent):
    return shared_agent.get("/openapi.json").json()


# ---- the document ----

def test_is_valid(server):
    answer = server.get("/openapi.json")
    assert answer.status_code == 200 and answer.headers["content-type"] == "application/json"
    document = answer.json()
    assert document["openapi"].startswith("3.1.")
    validate(document)
    ids = [operation["operationId"] for path in document["paths"].values() for operation in path.values()]
    assert len(ids) == len(set(ids)) > 10
    assert all(re.fullmatch("[a-z][a-z_]*", name) for name in ids)


def test_every_program_describes_itself(described, shared_cluster):
    proxy = shared_cluster.get("/openapi.json").json()
    assert described["info"]["title"] == "lm-agent" and proxy["info"]["title"] == "lm-proxy"
    assert "/nodes/add" in proxy["paths"] and "/nodes/add" not in described["paths"]
    for document in (described, proxy):  # both name a model that can be asked
        example, = document["components"]["schemas"]["ChatCompletionRequest"]["examples"]
        assert example["model"] == "smollm2"


def test_is_what_lm_api_prints(described):
    printed = subprocess.run([program("lm-api"), "openapi", "agent"], check=True, capture_output=True, text=True)
    assert json.loads(printed.stdout.replace('"MODEL"', '"smollm2"')) == described


# This model gives no vectors, and requests can't be aborted unless an option says so.
OTHERWISE = {"/v1/embeddings": 400, "/abort_request": 501}


def test_examples_work(server):
    """All that can be tried out in the explorer as it stands."""
    document = server.get("/openapi.json").json()
    tried = 0
    for path, operations in document["paths"].items():
        operation = operations.get("post")
        if not operation or path == "/terminate" or path.startswith("/nodes") or operation["tags"] == ["others"]:
            continue
        name = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].split("/")[-1]
        example, = document["components"]["schemas"][name]["examples"]
        answer = server.post(path, example)
        assert answer.status_code == OTHERWISE.get(path, 200), (path, answer.text)
        assert str(answer.status_code) in operation["responses"]
        tried += 1
    assert tried == 12
    server.post("/v1/chat/interactive", {"prompt": "", "session_id": 1})


# ---- who may see it ----

def test_closed(start_agent, start_proxy):
    for server in (start_proxy("--disable-fastapi-docs"), start_agent("--disable-fastapi-docs", "--session-len", 64)):
        for path in PAGES:
            answer = server.get(path)
            assert answer.status_code == 404 and answer.json()["error"]["code"] == "unknown_url"
        assert server.get("/health").status_code == 200
        server.stop()


def test_keys(start_agent):
    agent = start_agent("--api-keys", "secret", "--model-name", "unspoken", "--session-len", 64)
    assert agent.get("/v1/models").status_code == 401
    for path in PAGES:
        answer = agent.get(path)
        assert answer.status_code == 200 and "unspoken" not in answer.text
    assert agent.get("/openapi.json").json()["security"] == [{"bearer": []}]
    known = agent.get("/openapi.json", headers={"authorization": "Bearer secret"})
    assert '"unspoken"' in known.text


def test_pages(server):
    for path in ("/", "/redoc"):
        page = server.get(path)
        assert page.status_code == 200 and page.headers["content-type"] == "text/html; charset=utf-8"
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "script-src 'self';" in policy and "http" not in policy
        links = re.findall(r'(?:href|src)="([^"#]+)"', page.text)
        assert links
        for link in links:
            assert link.startswith("/")  # nothing comes from elsewhere
            assert link.startswith("/explorer/swagger-ui") or server.get(link).status_code == 200, link
    missing = server.get("/explorer/none.js")
    assert missing.status_code == 404 and missing.json()["error"]["code"] == "unknown_url"


# ---- answers hold what is described, and nothing else ----

def closed(schema):
    """The schema, with members that it doesn't list refused."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    result = {name: closed(part) for name, part in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        result.setdefault("additionalProperties", False)
    return result


def check(document, name, value):
    schemas = {"components": closed(document["components"])}
    jsonschema.Draft202012Validator({**schemas, "$ref": f"#/components/schemas/{name}"}).validate(value)


ALL = {"model": "smollm2", "max_tokens": 3, "seed": 1, "return_token_ids": True, "n": 2}
WHOLE = [
    ("/v1/chat/completions", "ChatCompletionResponse",
     {**ALL, "messages": HI, "logprobs": True, "top_logprobs": 2, "service_tier": "auto"}),
    ("/v1/completions", "CompletionResponse", {**ALL, "prompt": "Hi", "logprobs": 2, "echo": True}),
    ("/v1/chat/interactive", "GenerateResponse", {"prompt": "Hi", "request_output_len": 2}),
    ("/v1/messages", "Message", {"model": "smollm2", "messages": HI, "max_tokens": 3}),
    ("/v1/messages/count_tokens", "CountTokensResponse", {"model": "smollm2", "messages": HI}),
    ("/v1/encode", "EncodeResponse", {"model": "smollm2", "input": "Hi"}),
    ("/v1/encode", "EncodeResponse", {"model": "smollm2", "input": ["Hi", ""]}),
    ("/tokenize", "TokenizeResponse", {"model": "smollm2", "prompt": "Hi", "return_token_strs": True}),
    ("/tokenize", "TokenizeResponse", {"model": "smollm2", "messages": HI}),
    ("/detokenize", "PromptResponse", {"model": "smollm2", "tokens": [1, 2]}),
    ("/apply-template", "PromptResponse", {"model": "smollm2", "messages": HI}),
]


@pytest.mark.parametrize("path, name, body", WHOLE)
def test_answers(described, server, path, name, body):
    answer = server.post(path, body)
    assert answer.status_code == 200, answer.text
    check(described, name, answer.json())


CITY = {"name": "city", "parameters": {"type": "object", "properties": {"c": {"enum": ["Rome"]}}, "required": ["c"]}}


def test_responses(described, server):
    """A response repeats what was asked: only what it holds besides is described."""
    for fields in ({}, {"tools": [{"type": "function", **CITY}], "tool_choice": "required"}):
        answer = server.post("/v1/responses", {"model": "smollm2", "input": "Hi", "max_output_tokens": 40, "temperature": 0, **fields})
        assert answer.status_code == 200, answer.text
        validator = jsonschema.Draft202012Validator({**described, "$ref": "#/components/schemas/Response"})
        validator.validate(answer.json())
        assert answer.json()["output"][-1]["type"] == ("function_call" if fields else "message")


@pytest.mark.parametrize("path, body", [
    ("/v1/responses", {"input": "Hi", "max_output_tokens": 2}),
    ("/v1/messages", {"messages": HI, "max_tokens": 2}),
])
def test_named_events(described, server, path, body):
    """As a parser of event streams gives them."""
    content = described["paths"][path]["post"]["responses"]["200"]["content"]["text/event-stream"]
    validator = jsonschema.Draft202012Validator({**described, **content["schema"]})
    events = server.post(path, {"model": "smollm2", "stream": True, **body}).text.strip().split("\n\n")
    assert len(events) > 4
    for event in events:
        lines = dict(line.split(": ", 1) for line in event.split("\n"))
        validator.validate(lines)
        assert json.loads(lines["data"])["type"] == lines["event"]


def takes(described, name, value):
    return jsonschema.Draft202012Validator({**described, "$ref": f"#/components/schemas/{name}"}).is_valid(value)


@pytest.mark.parametrize("fields, taken", [
    ({"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [
        {"type": "function", "function": {"name": "city"}}]}}}, True),
    ({"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}}}, False),
    ({"tool_choice": {"type": "custom"}}, False),
    ({"reasoning_effort": "max"}, True),
    ({"reasoning_effort": "most"}, False),
])
def test_what_is_described_is_taken(described, server, fields, taken):
    body = {"model": "smollm2", "messages": HI, "max_tokens": 2, "tools": [{"type": "function", "function": CITY}], **fields}
    assert takes(described, "ChatCompletionRequest", body) == taken
    assert server.post("/v1/chat/completions", body).status_code == (200 if taken else 400)


def test_blocks_that_messages_take(described, server):
    blocks = [{"type": "redacted_thinking", "data": "x"}, {"type": "text", "text": "Hello."}]
    body = {"model": "smollm2", "max_tokens": 2, "messages": [*HI, {"role": "assistant", "content": blocks}, *HI]}
    assert takes(described, "MessageRequest", body)
    assert server.post("/v1/messages", body).status_code == 200


def test_vectors_and_aborted_answers(described, start_agent):
    agent = start_agent("--model-name", "smollm2", "--session-len", 256, "--embedding", "mean", "--enable-abort-handling")
    for encoding in ("float", "base64"):
        answer = agent.post("/v1/embeddings", {"model": "smollm2", "input": ["a", "b"], "encoding_format": encoding})
        assert answer.status_code == 200, answer.text
        check(described, "EmbeddingsResponse", answer.json())
    for body, status in (({"request_id": "none"}, 404), ({"session_id": 5}, 400), ({"request_id": 5}, 400)):
        answer = agent.post("/abort_request", body)
        assert answer.status_code == status
        check(described, "ErrorResponse", answer.json())
    assert agent.post("/abort_request", {"abort_all": True}).status_code == 200
    body = {"model": "smollm2", "prompt": "Hi", "max_tokens": 200, "ignore_eos": True, "stream": True}
    with httpx.stream("POST", agent.url + "/v1/completions", json=body, timeout=60) as answer:
        events = [line.removeprefix("data: ") for line in aborted_after_first(agent, answer)]
    assert events.pop() == "[DONE]"
    for event in events:
        check(described, "CompletionResponse", json.loads(event))
    assert json.loads(events[-1])["choices"][0]["finish_reason"] == "abort"


def aborted_after_first(agent, answer):
    seen = 0
    for line in answer.iter_lines():
        if not line:
            continue
        if not seen:
            assert agent.post("/abort_request", {"abort_all": True}).status_code == 200
        seen += 1
        yield line


@pytest.mark.parametrize("path, name, body", WHOLE[:2])
def test_streams(described, server, path, name, body):
    body = {**body, "stream": True, "stream_options": {"include_usage": True}}
    events = [line[len("data: "):] for line in server.post(path, body).text.split("\n\n") if line]
    assert events.pop() == "[DONE]" and len(events) > 3
    for event in events:
        check(described, name.replace("ChatCompletionResponse", "ChatCompletionChunk"), json.loads(event))


def test_lines(described, server):
    body = {"prompt": "Hi", "request_output_len": 2, "stream": True}
    lines = server.post("/v1/chat/interactive", body).text.splitlines()
    assert len(lines) >= 2
    for line in lines:
        check(described, "GenerateResponse", json.loads(line))


def test_sessions(described, shared_cluster):
    for server in (shared_cluster.agent, shared_cluster):
        document = server.get("/openapi.json").json()
        body = {"prompt": "Hi", "request_output_len": 2, "session_id": 5, "interactive_mode": True}
        assert server.post("/v1/chat/interactive", body).status_code == 200
        check(document, "SessionList", server.get("/v1/sessions").json())
        check(document, "Session", server.get("/v1/sessions/5").json())
        check(document, "SessionDeleted", httpx.delete(server.url + "/v1/sessions/5", timeout=60).json())


def test_state(described, shared_cluster):
    document = shared_cluster.get("/openapi.json").json()
    for server in (shared_cluster.agent, shared_cluster):
        check(document, "ModelList", server.get("/v1/models").json())
        check(document, "Model", server.get("/v1/models/smollm2").json())
        check(document, "Status", server.get("/health").json())
        check(document, "Status", server.get("/ready").json())
    check(document, "NodeList", shared_cluster.get("/nodes/status").json())
    check(document, "RecentFigures", shared_cluster.get("/lm/recent").json())


def test_errors(described, server):
    for body in ({}, {"model": "none", "messages": HI}, {"model": "smollm2", "messages": []}):
        answer = server.post("/v1/chat/completions", body)
        assert answer.status_code in (400, 404)
        check(described, "ErrorResponse", answer.json())
    check(described, "ErrorResponse", server.get("/v1/none").json())


# ---- clients that are generated from it ----

# What openapi-generator says of any document, and of names that its languages have no use for.
OWN_NOTICES = re.compile("|".join((
    "OpenAPI 3.1 support is still in beta",
    r"ModelUtils - Failed to get the schema name: null",  # of Python, even for a document with one route
    r"AbstractRustCodegen - \S+ cannot be used as a (model|field/variable) name\. Renamed to",  # ApplicationJson, type
    r"AbstractGoCodegen - (string|int32|float32) \(reserved word\) cannot be used as model name\. Renamed to",  # of any union
)))


def generate(described, language, folder):
    if not shutil.which("java"):
        pytest.skip("no java here (scripts/install-deps installs it)")
    (folder / "openapi.json").write_text(json.dumps(described))
    command = os.path.join(os.path.dirname(sys.executable), "openapi-generator-cli")
    quick = {**os.environ, "JAVA_TOOL_OPTIONS": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"}  # half the time
    done = subprocess.run([command, "generate", "-i", "openapi.json", "-g", language, "-o", language],
                          cwd=folder, env=quick, capture_output=True, text=True, timeout=280)
    text = done.stdout + done.stderr
    assert done.returncode == 0, text
    bad = [line for line in text.splitlines() if re.search(r"\b(WARN|ERROR)\b", line) and not OWN_NOTICES.search(line)]
    assert not bad, bad
    return folder / language


@pytest.mark.timeout(300)
@pytest.mark.parametrize("language, expected", [
    ("rust", "src/models/chat_completion_request.rs"),
    ("java", "src/main/java/org/openapitools/client/model/ChatCompletionRequest.java"),
    ("go", "model_chat_completion_request.go"),
])
def test_generated(described, tmp_path, language, expected):
    folder = generate(described, language, tmp_path)
    assert (folder / expected).exists()


@pytest.mark.timeout(300)
def test_generated_for_the_proxy(shared_cluster, tmp_path):
    folder = generate(shared_cluster.get("/openapi.json").json(), "go", tmp_path)
    assert (folder / "model_add_node_request.go").exists()


@pytest.fixture(scope="module")
def python_client(described, tmp_path_factory):
    folder = generate(described, "python", tmp_path_factory.mktemp("python_client"))
    sys.path.insert(0, str(folder))
    yield importlib.import_module("openapi_client")
    sys.path.remove(str(folder))


@pytest.mark.timeout(300)
def test_generated_python_client(python_client, server):
    lm = python_client
    with lm.ApiClient(lm.Configuration(host=server.url, access_token="any")) as client:
        message = lm.ChatMessage(role="user", content=lm.ChatMessageContent("Hi"))
        request = lm.ChatCompletionRequest(model="smollm2", max_tokens=3, seed=1,
                                           messages=lm.ChatCompletionRequestMessages([message]))
        answer = lm.ChatApi(client).create_chat_completion(request)
        assert answer.choices[0].message.role == "assistant" and answer.usage.completion_tokens <= 3
        sent = server.post("/v1/chat/completions", {"model": "smollm2", "max_tokens": 3, "seed": 1, "messages": HI})
        assert answer.choices[0].message.content == sent.json()["choices"][0]["message"]["content"]
        assert [model.id for model in lm.ModelsApi(client).list_models().data] == ["smollm2"]
        ids = lm.TextApi(client).tokenize(lm.TokenizeRequest(model="smollm2", prompt="Hello")).tokens
        back = lm.TextApi(client).detokenize(lm.DetokenizeRequest(model="smollm2", tokens=ids))
        assert back.prompt == "Hello"
        with pytest.raises(lm.exceptions.NotFoundException) as refused:
            lm.ModelsApi(client).get_model("none")
        assert refused.value.data.error.code == "model_not_found"


# ---- the explorer, in a browser ----

def open_operation(page, tag, name):
    selector = f"#operations-{tag}-{name}"
    page.wait(lambda: page.all(selector), selector)
    page.click(selector + " button.opblock-summary-control")
    page.wait(lambda: page.all(selector + " button.try-out__btn"), "the button Try it out")
    page.click(selector + " button.try-out__btn")
    return selector


def execute(page, selector):
    page.js("arguments[0].scrollIntoView({block: 'center'})", page.find(selector + " button.execute"))
    page.click(selector + " button.execute")
    cell = selector + " .live-responses-table .response-col_status"
    status = page.wait(lambda: page.texts(cell)[1:2], "an answer")[0]
    return status.strip(), page.find(selector + " .live-responses-table").text


@pytest.fixture
def explorer(shared_agent):
    if shared_agent.get("/explorer/swagger-ui-bundle.js").status_code == 404:
        pytest.skip("this build has no Swagger UI: it could not be fetched (scripts/fetch-swagger-ui)")


def test_try_it_out(explorer, browser, server):
    page = Page(browser, server.url + "/")
    selector = open_operation(page, "chat", "create_chat_completion")
    status, text = execute(page, selector)
    assert status.startswith("200") and '"chat.completion"' in text
    page.check_log()


def test_authorize(explorer, browser, start_agent):
    agent = start_agent("--api-keys", "secret", "--model-name", "smollm2", "--session-len", 64)
    page = Page(browser, agent.url + "/", expect_errors=("status of 401",))
    selector = open_operation(page, "models", "list_models")
    assert execute(page, selector)[0].startswith("401")
    page.js("document.querySelector('button.authorize').click()")
    page.wait(lambda: page.all(".auth-container input"), "the field for the key")
    page.find(".auth-container input").send_keys("secret")
    page.click(".auth-container button.authorize")
    page.click(".auth-container button.btn-done")
    page.js("arguments[0].scrollIntoView({block: 'center'})", page.find(selector + " button.execute"))
    page.click(selector + " button.execute")
    cell = selector + " .live-responses-table .response-col_status"
    page.wait(lambda: any(text.strip().startswith("200") for text in page.texts(cell)[1:2]), "200")
    page.check_log()


def test_explorer_without_swagger_ui(browser, shared_agent):
    """As in a build that could not fetch it."""
    browser.execute_cdp_cmd("Network.enable", {})
    browser.execute_cdp_cmd("Network.setBlockedURLs", {"urls": ["*/explorer/swagger-ui*"]})
    try:
        page = Page(browser, shared_agent.url + "/", expect_errors=("/explorer/swagger-ui",))
        page.wait(lambda: page.find("#missing").is_displayed(), "what is missing")
        assert "scripts/fetch-swagger-ui" in page.find("#missing").text
        page.check_log()
    finally:
        browser.execute_cdp_cmd("Network.setBlockedURLs", {"urls": []})


def test_reference_page(browser, shared_agent):
    page = Page(browser, shared_agent.url + "/redoc")
    assert "POST /v1/chat/completions" in page.texts("h3")
    targets = page.js("return [...document.querySelectorAll('a[href^=\"#\"]')].filter("
                      "(a) => !document.getElementById(a.hash.slice(1))).map((a) => a.hash)")
    assert targets == []
    page.check_log()
