"""Who may use a server, how many at once, and what operators may do to requests that run."""
# ctest: PROCESSORS 1

import hashlib
import json
import signal
import socket
import threading
import time

import httpx
import lmdeploy_client
import openai
import pytest
from conftest import wait_until

CHAT = "/v1/chat/completions"
MODEL = "smollm2"
LONG = {"max_tokens": 900, "ignore_eos": True}  # never over by itself while a test looks
WRONG = "sk-do-not-log-me"


def chat(**more):
    return {"model": MODEL, "messages": [{"role": "user", "content": "Count."}], "max_tokens": 4, "temperature": 0, **more}


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


def code(answer):
    return answer.json()["error"]["code"]


class Running:
    """A streamed request that runs: its id is known, and its end can be waited for."""

    def __init__(self, server, path=CHAT, headers=None, **more):
        self.events, self.status, self.headers, self.leaves = [], None, None, False
        self.began, self.over = threading.Event(), threading.Event()
        body = chat(stream=True, **{**LONG, **more})
        self.thread = threading.Thread(target=self.run, args=(server.url + path, body, headers or {}), daemon=True)
        self.thread.start()

    def run(self, url, body, headers):
        try:
            with httpx.stream("POST", url, json=body, headers=headers, timeout=120) as answer:
                self.status, self.headers = answer.status_code, answer.headers
                if answer.status_code != 200:
                    self.events.append(json.loads(answer.read()))
                for line in answer.iter_lines():
                    if line.startswith("data: {"):
                        self.events.append(json.loads(line[6:]))
                        self.began.set()
                    if self.leaves:
                        break
        finally:
            self.over.set()
            self.began.set()

    def stop(self):
        """As a client does that leaves."""
        self.leaves = True
        self.wait_over()

    def wait_begun(self):
        assert self.began.wait(60) and self.events, "no event"
        return self

    def wait_over(self):
        assert self.over.wait(60), "it goes on"
        return self

    @property
    def id(self):
        return self.events[0]["id"]

    @property
    def finish(self):
        return [c["finish_reason"] for e in self.events for c in e["choices"] if c["finish_reason"]]


# ---- keys ----

@pytest.fixture(scope="module")
def keyed(model_path, tmp_path_factory):
    """An agent with keys of both kinds, and its file."""
    from conftest import SHARED, Starter
    path = tmp_path_factory.mktemp("keys") / "keys"
    path.write_text("# ours\nsk-file\nsha256:" + hashlib.sha256(b"sk-hashed").hexdigest() + "\n")
    path.chmod(0o600)
    starter = Starter()
    agent = starter.agent(model_path, "--model-name", MODEL, *SHARED, "--api-keys", "sk-a", "sk-b", "--api-key-file", path,
                          "--log-level", "trace")
    agent.key_file = path
    yield agent
    starter.stop()


@pytest.mark.parametrize("headers", [
    bearer("sk-a"), bearer("sk-b"), bearer("sk-file"), bearer("sk-hashed"), {"authorization": "bEARER   sk-a"},
    {"x-api-key": "sk-a"}, {"X-API-Key": "sk-hashed", "Authorization": "Basic c2stYQ=="}])
def test_right_keys(keyed, headers):
    assert keyed.get("/v1/models", headers=headers).status_code == 200


@pytest.mark.parametrize("headers, query, body, says", [
    ({}, "", None, "You didn't provide"),
    (bearer(WRONG), "", None, "Incorrect API key"),
    (bearer("sk-"), "", None, "Incorrect API key"),
    (bearer("sk-aa"), "", None, "Incorrect API key"),
    (bearer("sk-a,sk-b"), "", None, "Incorrect API key"),
    (bearer("k" * 8000), "", None, "Incorrect API key"),
    ({"Authorization": "sk-a"}, "", None, "no 'Bearer '"),
    ({"Authorization": "Bearer"}, "", None, "no 'Bearer '"),
    ({"Authorization": "Basic c2stYQ=="}, "", None, "Basic authorization"),
    ({"Proxy-Authorization": "Bearer sk-a"}, "", None, "You didn't provide"),
    ({"api-key": "sk-a"}, "", None, "header 'api-key'"),
    ({"x-api-key": WRONG}, "", None, "Incorrect API key"),
    ({}, f"?api_key={WRONG}", None, "in the URL"),
    ({}, "?key=sk-a", None, "in the URL"),
    ({}, "", {"api_key": WRONG}, "in the body"),
])
def test_wrong_keys(keyed, headers, query, body, says):
    before = keyed.metrics()["requests_unauthorized_total"]
    answer = keyed.post(CHAT + query, chat(**(body or {})), headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    both = answer.json()["error"], answer.json()["detail"]["error"]  # OpenAI's clients, and LMDeploy's
    assert both[0] == both[1]
    assert both[0]["type"] == "invalid_request_error" and both[0]["code"] == "invalid_api_key"
    assert says in both[0]["message"] and "'Authorization: Bearer KEY'" in both[0]["message"]
    assert both[0]["message"].endswith("Please request with valid api key!")
    assert "sk-" not in answer.text
    assert keyed.metrics()["requests_unauthorized_total"] == before + 1


def test_keys_are_nowhere_in_the_log(keyed):
    keyed.post(CHAT, chat(), headers=bearer("sk-hashed"))
    keyed.post(CHAT + f"?api_key={WRONG}", chat(), headers={"x-api-key": WRONG, **bearer(WRONG)})
    keyed.get("/nothing?key=sk-a")
    for key in (WRONG, "sk-a", "sk-b", "sk-file", "sk-hashed"):
        assert key not in keyed.log


@pytest.mark.parametrize("path", ["/v1/models", "/v1/sessions", "/nothing", "/terminate", CHAT, "/openapi"])
def test_all_but_probes_want_a_key(keyed, path):
    assert keyed.get(path).status_code == 401


@pytest.mark.parametrize("path", ["/health", "/ready", "/metrics"])
def test_probes_want_none(keyed, path):
    assert keyed.get(path).status_code == 200


def test_preflights_want_none(keyed):
    answer = httpx.options(keyed.url + CHAT, headers={"Origin": "http://a", "Access-Control-Request-Method": "POST",
                                                      "Access-Control-Request-Headers": "authorization"})
    assert answer.status_code == 200 and answer.text == "OK"
    refused = httpx.post(keyed.url + CHAT, json=chat(), headers={"Origin": "http://a"})
    assert refused.status_code == 401 and refused.headers["access-control-allow-origin"] == "*"


def test_clients_understand_the_refusal(keyed):
    with openai.OpenAI(base_url=keyed.url + "/v1", api_key=WRONG, max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError) as failure:
            client.chat.completions.create(**chat())
    assert failure.value.code == "invalid_api_key" and "Incorrect API key" in failure.value.message
    with openai.OpenAI(base_url=keyed.url + "/v1", api_key="sk-file", max_retries=0) as client:
        assert client.chat.completions.create(**chat()).usage.completion_tokens == 4


def test_lmdeploys_client_understands_the_refusal(keyed):
    module = lmdeploy_client.load()
    client = module.APIClient(keyed.url, api_key=WRONG)
    answers = list(client.chat_completions_v1(model=MODEL, messages="hi"))
    assert answers and answers[0]["detail"]["error"]["code"] == "invalid_api_key"
    client = module.APIClient(keyed.url, api_key="sk-hashed")
    assert client.available_models == [MODEL]


def test_reload(start_agent, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text(json.dumps([{"id": "a", "key": "sk-1"}, {"id": "b", "key": "sk-b", "models": ["other-*"]},
                                {"id": "c", "key": "sk-c", "disabled": True}]))
    agent = start_agent("--model-name", MODEL, "--api-keys-file", keys, "--enable-abort-handling")

    def status(key):
        return agent.get("/v1/models", headers=bearer(key)).status_code

    def reload(text, says, count):
        keys.write_text(text)
        agent.signal(signal.SIGHUP)
        agent.wait_log(says, 60, count)

    assert [status(k) for k in ("sk-1", "sk-2", "sk-b", "sk-c")] == [200, 401, 404, 401]
    running = Running(agent, headers=bearer("sk-1")).wait_begun()
    reload("sk-2\n", r"reloaded log_level", 1)
    assert [status(k) for k in ("sk-1", "sk-2")] == [401, 200]
    assert not running.over.is_set()  # what runs goes on
    reload("sk-3\nsk-4 team\n", r"reload refused, nothing has changed .*keys'?.*: line 2: a key has", 1)
    assert [status(k) for k in ("sk-2", "sk-3")] == [200, 401]
    keys.unlink()
    agent.signal(signal.SIGHUP)
    agent.wait_log(r"reload refused", 60, 2)
    assert status("sk-2") == 200
    reload("sk-5\n", r"reloaded log_level", 2)
    assert [status(k) for k in ("sk-2", "sk-5")] == [401, 200]
    for key in ("sk-1", "sk-2", "sk-3", "sk-4", "sk-5"):
        assert key not in agent.log
    # Whose key is gone can't abort any more, and another one may not.
    assert abort(agent, bearer("sk-5"), request_id=running.id).status_code == 404
    running.stop()


def test_bad_key_file_at_start(start_agent, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("[{\"id\":\"a\"}]")
    agent = start_agent("--api-key-file", keys, ready=False)
    agent.expect_status = None
    assert agent.wait() == 2
    assert "entry 1: 'sha256' or 'key' is missing" in agent.log


# ---- how many at once ----

def test_concurrent_requests(start_agent):
    agent = start_agent("--model-name", MODEL, "--max-concurrent-requests", 1, "--queue-max", 2, "--enable-abort-handling")
    first = Running(agent).wait_begun()
    second = Running(agent)
    agent.wait_metric("requests_held", lambda n: n == 1)
    third = Running(agent, max_tokens=2)
    agent.wait_metric("requests_held", lambda n: n == 2)
    full = agent.post(CHAT, chat())
    assert full.status_code == 429 and code(full) == "rate_limit_exceeded"
    assert int(full.headers["retry-after"]) >= 1 and "--max-concurrent-requests" in full.json()["error"]["message"]
    assert agent.metrics()["completions_live"] == 1
    # Other routes aren't held up, and neither is what stops a turn.
    assert agent.post("/tokenize", {"prompt": "hi"}).status_code == 200
    stop = agent.post("/v1/chat/interactive", {"prompt": "", "session_id": 5, "cancel": True})
    assert stop.status_code == 200 and stop.json()["tokens"] == 0
    assert not second.began.is_set() and not first.over.is_set()
    assert abort(agent, request_id=first.id).status_code == 200
    second.wait_begun()  # in the order in which they came
    assert not third.began.is_set()
    assert abort(agent, request_id=second.id).status_code == 200
    third.wait_over()
    assert first.status == second.status == third.status == 200 and third.finish == ["length"]
    agent.wait_metric("requests_held", lambda n: n == 0)
    assert agent.metrics()["requests_done_total"] == 4  # with the one that cancelled
    assert agent.post(CHAT, chat()).status_code == 200


def test_clients_that_wait_may_leave(start_agent):
    agent = start_agent("--model-name", MODEL, "--max-concurrent-requests", 1, "--enable-abort-handling")
    first = Running(agent).wait_begun()
    body = json.dumps(chat()).encode()
    with socket.create_connection(("127.0.0.1", agent.port), timeout=60) as connection:
        connection.sendall(b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (CHAT.encode(), len(body), body))
        agent.wait_metric("requests_held", lambda n: n == 1)
    agent.wait_metric("requests_gone_total", lambda n: n == 1)
    assert agent.metrics()["requests_held"] == 0
    waiting = Running(agent)
    agent.wait_metric("requests_held", lambda n: n == 1)
    agent.signal()  # a drain finishes what has begun, and sends away what hasn't
    waiting.wait_over()
    assert waiting.status == 503 and waiting.headers["retry-after"]
    assert waiting.headers["x-lm-not-started"] == "1"
    assert not first.over.is_set()
    assert abort(agent, request_id=first.id).status_code == 200  # while it drains, too
    assert first.wait_over().finish == ["abort"]
    assert agent.wait(60) == 0


# ---- aborting and ending ----

@pytest.fixture(scope="module")
def abortable(model_path):
    """lm-agent that aborts, and a proxy before it."""
    from conftest import SHARED, Starter
    starter = Starter()
    proxy = starter.proxy()
    agent = starter.agent(model_path, "--model-name", MODEL, *SHARED, "--enable-abort-handling", "--proxy-url", proxy.url)
    wait_until(lambda: MODEL in proxy.get("/v1/models").text, 60, "the agent behind the proxy")
    yield {"agent": agent, "proxy": proxy}
    starter.stop()


@pytest.fixture(params=["agent", "proxy"])
def aborting(request, abortable):
    return abortable[request.param]


def abort(server, headers=None, **body):
    return server.post("/abort_request", body, headers=headers or {})


def test_abort_by_id(aborting):
    kept, running = Running(aborting).wait_begun(), Running(aborting).wait_begun()
    answer = abort(aborting, request_id=running.id)
    assert answer.status_code == 200 and answer.content == b""
    running.wait_over()
    assert running.status == 200 and running.finish == ["abort"]
    assert not kept.over.is_set()
    again = abort(aborting, request_id=running.id)
    assert again.status_code == 404 and code(again) == "request_not_found"
    assert abort(aborting, request_id=kept.headers["x-request-id"]).status_code == 200
    assert kept.wait_over().finish == ["abort"]


def test_abort_by_request_id_of_the_client(aborting):
    running = Running(aborting, headers={"x-request-id": "mine-1"}).wait_begun()
    assert running.headers["x-request-id"] == "mine-1"
    assert abort(aborting, request_id="mine-1").status_code == 200
    assert running.wait_over().finish == ["abort"]


def test_abort_as_lmdeploys_clients_do(aborting):
    running, other = Running(aborting, session_id=77).wait_begun(), Running(aborting, session_id=78).wait_begun()
    missing = abort(aborting, session_id=79, abort_all=False)
    assert missing.status_code == 400 and missing.json()["message"] == "Session 79 not found."
    assert abort(aborting, session_id=77, abort_all=False).status_code == 200
    assert running.wait_over().finish == ["abort"] and not other.over.is_set()
    whole = threading.Thread(target=lambda: answers.append(aborting.post(CHAT, chat(**LONG))))
    answers = []
    whole.start()
    # Until it is there: abort_all is fine where nothing runs.
    while whole.is_alive():
        assert abort(aborting, session_id=-1, abort_all=True).status_code == 200
        time.sleep(0.05)
    other.wait_over()
    assert other.finish == ["abort"]
    assert answers[0].status_code == 499 or answers[0].json()["choices"][0]["finish_reason"] == "abort"


def test_abort_of_a_turn(aborting):
    session = aborting.port  # the proxy's agent is the other one's, too
    body = {"prompt": "Count.", "session_id": session, "interactive_mode": True, "stream": True, "request_output_len": 900,
            "ignore_eos": True}
    lines = []
    with httpx.stream("POST", aborting.url + "/v1/chat/interactive", json=body, timeout=60) as answer:
        for line in answer.iter_lines():
            if not lines:
                assert abort(aborting, session_id=session).status_code == 200
            lines.append(json.loads(line))
    assert lines[-1]["finish_reason"] == "length" and lines[-1]["tokens"] < 900
    assert aborting.get(f"/v1/sessions/{session}").json()["turns"] == 1  # as with `cancel`: it stays


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}", b'{"session_id":"x"}', b'{"request_id":5}', b'{"abort_all":"no"}',
                                  b'{"session_id":-5}'])
def test_bad_abort(aborting, body):
    answer = httpx.post(aborting.url + "/abort_request", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400 and answer.json()["error"]["message"]


def test_abort_must_be_enabled(agent):
    answer = abort(agent, abort_all=True)
    assert answer.status_code == 501 and "--enable-abort-handling" in answer.text
    assert httpx.get(agent.url + "/abort_request").status_code == 405


def test_nobody_aborts_what_others_began(start_agent, start_proxy):
    proxy = start_proxy("--api-keys", "sk-a", "sk-b")
    agent = start_agent("--model-name", MODEL, "--enable-abort-handling", "--api-keys", "sk-a", "sk-b", "--proxy-url", proxy.url)
    for server in (agent, proxy):
        wait_until(lambda: MODEL in server.get("/v1/models", headers=bearer("sk-a")).text, 60, "the model")
    direct = Running(agent, headers=bearer("sk-a")).wait_begun()
    assert abort(agent, abort_all=True).status_code == 401
    assert abort(agent, bearer("sk-b"), request_id=direct.id).status_code == 404
    assert abort(agent, bearer("sk-b"), abort_all=True).status_code == 200
    assert not direct.over.is_set()
    assert abort(agent, bearer("sk-a"), abort_all=True).status_code == 200
    assert direct.wait_over().finish == ["abort"]


def test_abort_of_what_waits(start_agent):
    agent = start_agent("--model-name", MODEL, "--enable-abort-handling", "--max-concurrent-requests", 1)
    first = Running(agent).wait_begun()
    waiting = Running(agent, headers={"x-request-id": "w"})
    agent.wait_metric("requests_held", lambda n: n == 1)
    assert abort(agent, request_id="w").status_code == 200
    waiting.wait_over()
    assert waiting.status == 499 and waiting.events[0]["error"]["code"] == "request_aborted"
    assert abort(agent, abort_all=True).status_code == 200
    assert first.wait_over().finish == ["abort"]


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_terminate(start_agent, method):
    agent = start_agent("--model-name", MODEL, "--allow-terminate-by-client", "--enable-abort-handling")
    page = httpx.request(method, agent.url + "/terminate", headers={"Origin": "http://evil.example"})
    assert page.status_code == 403 and code(page) == "browser_refused"
    running = Running(agent).wait_begun()
    answer = httpx.request(method, agent.url + "/terminate")
    assert answer.status_code == 200 and answer.content == b""
    agent.wait_log("draining .*reason=/terminate unfinished=1")
    assert agent.post(CHAT, chat()).status_code == 503
    assert not running.over.is_set()
    assert abort(agent, request_id=running.id).status_code == 200
    assert running.wait_over().finish == ["abort"]
    assert agent.wait(60) == 0


def test_terminate_wants_the_flag_and_a_key(agent, keyed):
    answer = httpx.get(agent.url + "/terminate")
    assert answer.status_code == 400 and "--allow-terminate-by-client" in answer.json()["message"]
    assert httpx.post(keyed.url + "/terminate").status_code == 401
    assert agent.get("/health").status_code == 200


# ---- ids and the log ----

@pytest.mark.parametrize("given, kept", [
    ("abc-123", True), ("a" * 128, True), ("a" * 129, False), ("a" * 10000, False), ("a b", False), ("\u00e9".encode(), False),
    ("", False), ("a\tb", False), ("a;drop=1,\"x\"", True)])
def test_request_ids(server, given, kept):
    answer = server.post(CHAT, chat(max_tokens=1), headers={"x-request-id": given})
    assert answer.status_code == 200
    assert (answer.headers["x-request-id"] == given) is kept
    if not kept:
        assert answer.headers["x-request-id"].startswith("req_") and len(answer.headers["x-request-id"]) == 28


def test_request_ids_of_refusals(server):
    for path, status in (("/nothing", 404), (CHAT, 405)):
        answer = server.get(path, headers={"x-request-id": "r-1"})
        assert answer.status_code == status and answer.headers["x-request-id"] == "r-1"


def test_get_of_chat_is_405(server):
    answer = server.get(CHAT)
    assert answer.status_code == 405 and answer.headers["allow"] == "POST, OPTIONS"
    assert code(answer) == "method_not_supported"


def test_texts_are_logged_at_trace_level_only(start_agent):
    agent = start_agent("--model-name", MODEL, "--log-level", "trace", "--max-log-len", 60)
    secret = "Grüße €" * 40
    body = chat(messages=[{"role": "user", "content": secret}], max_tokens=8)
    answer = agent.post(CHAT, body, headers={"x-request-id": "r-7"})
    assert answer.status_code == 200
    id = answer.json()["id"]
    agent.wait_log(rf"TRACE lm-agent text: prompt id={id} request=r-7 part=0 cut=1 text=\"(.*)\"$")
    match = agent.wait_log(rf"text: prompt id={id} .* text=\"(.*)\"$")
    assert len(match.group(1).replace("\\n", "\n")) == 60 and "\\x" not in match.group(1)
    agent.wait_log(rf"TRACE lm-agent text: output id={id} request=r-7 part=0 ")
    turn = agent.post("/v1/chat/interactive", {"prompt": "hi", "request_output_len": 4}, headers={"x-request-id": "r-8"})
    assert turn.status_code == 200
    agent.wait_log(r"text: prompt id=turn request=r-8 part=0 ")
    agent.wait_log(r"text: output id=turn request=r-8 part=0 ")


def test_texts_are_not_logged_at_debug_level(start_agent):
    agent = start_agent("--model-name", MODEL, "--log-level", "debug")
    answer = agent.post(CHAT, chat(messages=[{"role": "user", "content": "xyzzy-plugh"}]), headers={"x-request-id": "r-9"})
    assert answer.status_code == 200
    agent.wait_log(r"request begins id=\S+ request=r-9 ")
    agent.wait_log("request done")
    assert "xyzzy" not in agent.log and "text:" not in agent.log
