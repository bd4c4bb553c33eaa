"""Conversations that live on the server: LMDeploy's client and its shapes, our forks and rewinds, what goes wrong."""
# ctest: PROCESSORS 1

import concurrent.futures
import json
import random
import threading
import time

import httpx
import pytest

import lmdeploy_client
from conftest import wait_until

PATH = "/v1/chat/interactive"
MEMBERS = ["text", "tokens", "input_tokens", "history_tokens", "finish_reason"]
NOTHING = {"text": "", "tokens": 0, "input_tokens": 0, "history_tokens": 0, "finish_reason": "stop"}


def turn(agent, prompt, session_id, **fields):
    body = {"prompt": prompt, "session_id": session_id, "interactive_mode": True, "request_output_len": 12,
            "temperature": 0, **fields}
    return agent.post(PATH, body)


def ok(answer):
    assert answer.status_code == 200, answer.text
    assert list(answer.json()) == MEMBERS
    return answer.json()


def end(agent, session_id):
    answer = agent.post(PATH, {"prompt": "", "session_id": session_id, "request_output_len": 0,
                               "interactive_mode": False})
    assert ok(answer) == NOTHING


def error_of(answer, status, code):
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["code"] == code, answer.text
    return answer.json()["error"]


def sessions(agent):
    return {s["session_id"]: s for s in agent.get("/v1/sessions").json()["data"]}


@pytest.fixture(scope="module")
def api_client():
    return lmdeploy_client.load()


# ---- LMDeploy's client ----

@pytest.mark.parametrize("stream", [False, True])
def test_lmdeploy_client(agent, api_client, stream):
    client = api_client.APIClient(agent.url)
    assert client.available_models == ["smollm2"]
    history = 0
    for n in range(10):
        last, text = None, ""
        for piece in client.chat_interactive_v1(f"Question {n}: what is {n} plus {n}?", session_id=4711,
                                                interactive_mode=True, stream=stream, request_output_len=12,
                                                top_k=1):
            assert list(piece) == MEMBERS
            last, text = piece, text + piece["text"]
        assert text and last["finish_reason"] in ("stop", "length")
        assert last["history_tokens"] == history and last["input_tokens"] > 0
        assert 0 < last["tokens"] <= 12
        history += last["input_tokens"] + last["tokens"]
        assert sessions(agent)[4711]["history_tokens"] == history
        assert sessions(agent)[4711]["turns"] == n + 1
    for text, tokens, finish in client.chat("One more.", 4711, request_output_len=4, stream=stream):
        assert isinstance(text, str) and tokens <= 4 and finish in (None, "stop", "length")
    client.end_session(4711)
    assert 4711 not in sessions(agent)


def test_stream_is_lines_of_json(agent):
    """What comes in pieces is what comes whole; text and end are never in one object."""
    whole = ok(turn(agent, "Why is the sky blue?", 1, stream=False))
    answer = turn(agent, "Why is the sky blue?", 2, stream=True)
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["x-lm-session-new"] == "1" and answer.headers["x-lm-session-id"] == "2"
    lines = [json.loads(line) for line in answer.text.split("\n")[:-1]]
    assert all(list(line) == MEMBERS for line in lines)
    assert "".join(line["text"] for line in lines) == whole["text"]
    assert [line["finish_reason"] for line in lines] == [None] * (len(lines) - 1) + [whole["finish_reason"]]
    assert [line["tokens"] for line in lines] == sorted(line["tokens"] for line in lines)
    assert {**lines[-1], "text": whole["text"]} == whole
    assert lines[-1]["text"] == ""
    end(agent, 1)
    end(agent, 2)


# ---- the conversation ----

def test_turns_equal_the_chat_sent_whole(agent):
    """The ids kept and the template's suffix are what the template makes of the whole conversation."""
    messages = []
    for n, prompt in enumerate(["Name a colour.", "Another one, please.", "Which of them is warmer?"]):
        answer = ok(turn(agent, prompt, 3, request_output_len=40))
        messages.append({"role": "user", "content": prompt})
        chat = agent.post("/v1/chat/completions", {"model": "smollm2", "messages": messages, "temperature": 0,
                                                   "max_tokens": 40}).json()
        if answer["finish_reason"] != "stop":
            break  # cut off, so the two tokenise differently from here on
        assert chat["choices"][0]["message"]["content"] == answer["text"]
        assert chat["usage"]["prompt_tokens"] == answer["history_tokens"] + answer["input_tokens"]
        messages.append({"role": "assistant", "content": answer["text"]})
    assert messages, "no turn was compared"
    end(agent, 3)


def test_closing_token_is_counted(agent):
    """A turn that was cut needs its closing token before the next one: it counts there."""
    first = ok(turn(agent, "Count to one hundred.", 4, request_output_len=3))
    cut = ok(turn(agent, "Go on.", 4, request_output_len=200, ignore_eos=False))
    assert first["finish_reason"] == "length"
    closed = ok(turn(agent, "Go on.", 4, request_output_len=5))
    assert cut["input_tokens"] == closed["input_tokens"] + (1 if cut["finish_reason"] == "stop" else 0)
    end(agent, 4)


def test_prompt_as_list_and_one_shot(agent):
    history = [{"role": "system", "content": "You are a pirate."}, {"role": "user", "content": "Hi."},
               {"role": "assistant", "content": "Arr!"}, {"role": "user", "content": "Who are you?"}]
    first = ok(turn(agent, history, 5))
    assert first["history_tokens"] == 0 and first["input_tokens"] > 30
    second = ok(turn(agent, "And your ship?", 5))
    assert second["history_tokens"] == first["input_tokens"] + first["tokens"]
    last = turn(agent, "Farewell.", 5, interactive_mode=False)  # with the history, then over
    assert ok(last)["history_tokens"] == second["history_tokens"] + second["input_tokens"] + second["tokens"]
    assert 5 not in sessions(agent)
    assert ok(turn(agent, "Hi.", 5, interactive_mode=False))["history_tokens"] == 0
    assert 5 not in sessions(agent)
    plain = agent.post(PATH, {"prompt": "Hello", "request_output_len": 3})
    assert ok(plain)["tokens"] <= 3 and "x-lm-session-id" not in plain.headers


def test_automatic_ids(agent):
    ids = set()
    for _ in range(5):
        answer = turn(agent, "Hi", -1, request_output_len=1)
        session_id = int(answer.headers["x-lm-session-id"])
        assert 0 < session_id < 2 ** 53 and answer.headers["x-lm-session-new"] == "1"
        again = turn(agent, "Hi", session_id, request_output_len=1)
        assert "x-lm-session-new" not in again.headers
        assert ok(again)["history_tokens"] > 0
        ids.add(session_id)
    assert len(ids) == 5 and ids <= set(sessions(agent))
    for session_id in ids:
        assert agent.post(PATH, {"prompt": "", "session_id": session_id}).json() == NOTHING


def test_seed_goes_on(agent):
    """Drawn once or given once, it is the conversation's; the same seed gives the same conversation."""
    def talk(session_id, seed, texts):
        fields = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "request_output_len": 10, "ignore_eos": True}
        first = ok(turn(agent, "Tell me a story.", session_id, seed=seed, **fields))
        second = ok(turn(agent, "Go on.", session_id, **fields))
        texts.append((first["text"], second["text"]))
        end(agent, session_id)
    texts = []
    for session_id, seed in ((6, 5), (7, 5), (8, -5), (9, 0)):
        talk(session_id, seed, texts)
    assert texts[0] == texts[1]
    assert len({text[1] for text in texts}) == 3


def test_fork_and_rewind(agent):
    one = ok(turn(agent, "My name is Ann.", 20))
    after_one = one["input_tokens"] + one["tokens"]
    two = ok(turn(agent, "What is my name?", 20))
    fork = turn(agent, "And my age?", 21, fork_of=20)
    assert "x-lm-session-new" not in fork.headers
    total = after_one + two["input_tokens"] + two["tokens"]
    assert ok(fork)["history_tokens"] == total
    same = ok(turn(agent, "And my age?", 20))
    assert same == fork.json()
    back = ok(turn(agent, "What is my name?", 20, rewind_to=after_one))
    assert back == two
    both = ok(turn(agent, "What is my name?", 22, fork_of=21, rewind_to=after_one))
    assert both == two
    begin = ok(turn(agent, "My name is Ann.", 20, rewind_to=0))
    assert begin == one
    inside = ok(turn(agent, "And now?", 20, rewind_to=5))
    assert inside["history_tokens"] == 5
    error_of(turn(agent, "x", 20, rewind_to=5000), 400, "invalid_value")
    error_of(turn(agent, "x", 21, fork_of=20), 400, "invalid_value")  # it has a history
    error_of(turn(agent, "x", 23, fork_of=99999), 404, "session_not_found")
    error_of(turn(agent, "x", 23, fork_of=23), 400, "invalid_value")
    assert sessions(agent)[20]["history_tokens"] == 5 + inside["input_tokens"] + inside["tokens"]
    for session_id in (20, 21, 22):
        end(agent, session_id)


def test_full_session(agent):
    prompt = "word " * 300
    ok(turn(agent, prompt, 30))
    ok(turn(agent, prompt, 30))
    third = ok(turn(agent, prompt, 30))
    held = third["history_tokens"] + third["input_tokens"] + third["tokens"]
    for stream in (False, True, False):
        full = turn(agent, prompt, 30, stream=stream)
        line = json.loads(full.text)
        assert full.status_code == 200 and list(line) == MEMBERS
        assert line == {"text": "", "tokens": 0, "input_tokens": line["input_tokens"],
                        "history_tokens": held, "finish_reason": "length"}
        assert line["input_tokens"] > 300
    assert sessions(agent)[30]["history_tokens"] == held  # as it was
    assert ok(turn(agent, "Hi", 30, request_output_len=2))["history_tokens"] == held
    assert ok(turn(agent, prompt, 30, interactive_mode=False))["finish_reason"] == "length"
    assert ok(turn(agent, "Hi", 30))["history_tokens"] == 0
    end(agent, 30)
    too_long = ok(turn(agent, "word " * 5000, 31))
    assert too_long["tokens"] == 0 and too_long["input_tokens"] > 1024 and 31 not in sessions(agent)


# ---- several at once ----

def test_turns_wait_for_each_other(agent):
    def ask(n):
        return ok(turn(agent, f"Number {n}.", 40, request_output_len=8))
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = sorted(pool.map(ask, range(8)), key=lambda a: a["history_tokens"])
    history = 0
    for answer in answers:
        assert answer["history_tokens"] == history
        history += answer["input_tokens"] + answer["tokens"]
    assert sessions(agent)[40]["turns"] == 8
    end(agent, 40)


def long_turn(agent, session_id):
    """A turn that runs until it is stopped, as an open stream."""
    body = {"prompt": "Count.", "session_id": session_id, "interactive_mode": True, "stream": True,
            "ignore_eos": True, "temperature": 0}
    return httpx.stream("POST", agent.url + PATH, json=body, timeout=120)


def test_too_many_wait(agent):
    with long_turn(agent, 41) as running:
        lines = running.iter_lines()
        next(lines)
        assert sessions(agent) == {} or 41 not in sessions(agent)  # no turn of it has ended
        with concurrent.futures.ThreadPoolExecutor(9) as pool:
            waiting = [pool.submit(turn, agent, "Hi", 41, request_output_len=1) for _ in range(9)]
            refused = next(concurrent.futures.as_completed(waiting, timeout=60))  # the other eight wait
            waiting.remove(refused)
            assert error_of(refused.result(), 429, "session_busy") and refused.result().headers["retry-after"]
            assert agent.post(PATH, {"prompt": "", "session_id": 41, "cancel": True}).json() == NOTHING
            last = json.loads(list(lines)[-1])
            assert last["finish_reason"] == "length" and last["tokens"] > 0
            for answer in waiting:
                assert ok(answer.result())["history_tokens"] >= last["input_tokens"] + last["tokens"]
    end(agent, 41)


def test_cancel(agent):
    with long_turn(agent, 42) as running:
        lines = running.iter_lines()
        for _ in range(3):
            next(lines)
        assert ok(agent.post(PATH, {"prompt": "x", "session_id": 42, "cancel": True})) == NOTHING
        last = json.loads(list(lines)[-1])
    held = last["input_tokens"] + last["tokens"]
    assert last["finish_reason"] == "length"
    assert sessions(agent)[42]["history_tokens"] == held  # with the partial turn
    assert ok(turn(agent, "Go on.", 42))["history_tokens"] == held
    end(agent, 42)


def test_client_that_leaves_keeps_the_partial_turn(agent):
    with long_turn(agent, 43) as running:
        lines = running.iter_lines()
        line = json.loads(next(lines))
    wait_until(lambda: 43 in sessions(agent) and sessions(agent)[43]["state"] != "running", 10, "the turn's end")
    held = sessions(agent)[43]["history_tokens"]
    assert held >= line["input_tokens"] + line["tokens"]
    assert ok(turn(agent, "Go on.", 43))["history_tokens"] == held
    end(agent, 43)


def test_fork_of_a_running_turn_waits(agent):
    with long_turn(agent, 44) as running:
        lines = running.iter_lines()
        next(lines)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            fork = pool.submit(turn, agent, "And?", 45, fork_of=44)
            time.sleep(0.3)
            assert not fork.done()
            agent.post(PATH, {"prompt": "", "session_id": 44, "cancel": True})
            last = json.loads(list(lines)[-1])
            assert ok(fork.result())["history_tokens"] == last["input_tokens"] + last["tokens"]
    end(agent, 44)
    end(agent, 45)


def test_end_waits_for_the_running_turn(agent):
    with long_turn(agent, 46) as running:
        lines = running.iter_lines()
        next(lines)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            ending = pool.submit(end, agent, 46)
            time.sleep(0.2)
            assert not ending.done()
            agent.post(PATH, {"prompt": "", "session_id": 46, "cancel": True})
            ending.result()
    assert 46 not in sessions(agent)


def test_churn(agent):
    """Turns, forks, ends, cancels and clients that leave, on few ids at once: sums stay exact, nothing hangs."""
    wrong = []

    def run(seed):
        dice = random.Random(seed)
        for _ in range(15):
            session_id, kind = 50 + dice.randrange(4), dice.randrange(10)
            if kind < 5:
                answer = turn(agent, "Hi", session_id, request_output_len=3, stream=False)
            elif kind == 5:
                answer = turn(agent, "Hi", 50 + dice.randrange(4), request_output_len=2,
                              fork_of=50 + dice.randrange(4))
            elif kind == 6:
                answer = agent.post(PATH, {"prompt": "", "session_id": session_id})
            elif kind == 7:
                answer = agent.post(PATH, {"prompt": "", "session_id": session_id, "cancel": True})
            elif kind == 8:
                answer = httpx.delete(f"{agent.url}/v1/sessions/{session_id}", timeout=120)
            else:
                try:
                    httpx.post(agent.url + PATH, timeout=dice.random() * 0.1, json={
                        "prompt": "Hi", "session_id": session_id, "interactive_mode": True})
                except httpx.TimeoutException:
                    pass
                continue
            if answer.status_code not in (200, 400, 404, 429):
                wrong.append(answer.text)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    agent.wait_metric("completions_live", lambda n: n == 0)
    agent.wait_metric("running", lambda n: n == 0)
    for session_id in range(50, 54):
        end(agent, session_id)


# ---- ids, tenants, time ----

def test_list_and_delete(agent):
    before = time.time()
    first = ok(turn(agent, "Hi", 60))
    entry = sessions(agent)[60]
    assert list(entry) == ["session_id", "state", "history_tokens", "turns", "turn", "last_used"]
    assert entry["state"] in ("hot", "cached", "host", "tokens") and entry["turns"] == 1
    assert entry["history_tokens"] == first["input_tokens"] + first["tokens"]
    assert before - 2 <= entry["last_used"] <= time.time() + 2
    gone = httpx.delete(agent.url + "/v1/sessions/60")
    assert gone.json() == {"session_id": 60, "object": "session.deleted", "deleted": True}
    error_of(httpx.delete(agent.url + "/v1/sessions/60"), 404, "session_not_found")
    error_of(httpx.delete(agent.url + "/v1/sessions/x"), 400, "invalid_value")
    assert ok(turn(agent, "Hi", 60))["history_tokens"] == 0
    end(agent, 60)


def test_stateless_requests_keep_off(agent):
    """As in LMDeploy: an id that a conversation has is not for the other routes."""
    body = {"model": "smollm2", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1, "session_id": 63}
    assert agent.post("/v1/chat/completions", body).status_code == 200
    ok(turn(agent, "Hi", 63, request_output_len=1))
    refused = error_of(agent.post("/v1/chat/completions", body), 400, "invalid_value")
    assert refused["message"] == "The session_id `63` is occupied."
    assert agent.post("/v1/completions", {**body, "prompt": "x"}).status_code == 400
    end(agent, 63)
    assert agent.post("/v1/chat/completions", body).status_code == 200


def test_tenants_do_not_meet(agent):
    mine, yours = {"authorization": "Bearer a"}, {"authorization": "Bearer b"}
    body = {"prompt": "Hi", "session_id": 61, "interactive_mode": True, "request_output_len": 2}
    first = agent.post(PATH, body, headers=mine)
    assert first.headers["x-lm-session-new"] == "1"
    other = agent.post(PATH, body, headers=yours)
    assert other.headers["x-lm-session-new"] == "1" and other.json()["history_tokens"] == 0
    assert agent.post(PATH, body, headers=mine).json()["history_tokens"] > 0
    listed = agent.get("/v1/sessions", headers=mine).json()["data"]
    assert [s["session_id"] for s in listed] == [61] and listed[0]["turns"] == 2
    assert httpx.delete(agent.url + "/v1/sessions/61", headers={"authorization": "Bearer c"}).status_code == 404
    for headers in (mine, yours):
        assert httpx.delete(agent.url + "/v1/sessions/61", headers=headers).status_code == 200


def test_hops_are_told(agent):
    """A proxy says what it knows; the agent never begins what must exist."""
    body = {"prompt": "Hi", "session_id": 62, "interactive_mode": True, "request_output_len": 2}
    hop = {"x-lm-session": "00000000000000ab; expect=existing; turn=3", "x-lm-tenant": "team"}
    error_of(agent.post(PATH, body, headers=hop), 404, "session_unknown")
    hop["x-lm-session"] = "00000000000000ab; expect=new; turn=1"
    assert agent.post(PATH, body, headers=hop).headers["x-lm-session-new"] == "1"
    hop["x-lm-session"] = "00000000000000ab; expect=existing; turn=2"
    assert agent.post(PATH, body, headers=hop).json()["history_tokens"] > 0
    error_of(agent.post(PATH, body, headers=hop), 404, "session_unknown")  # that turn has been
    hop["x-lm-session"] = "00000000000000ab; expect=new"
    assert agent.post(PATH, body, headers=hop).json()["history_tokens"] == 0
    assert 62 not in sessions(agent)  # it is the tenant's
    assert httpx.delete(agent.url + "/v1/sessions/62", headers={"x-lm-tenant": "team"}).status_code == 200


def test_expiry(start_agent):
    agent = start_agent("--model-name", "smollm2", "--session-len", 512, "--session-ttl", 1)
    ok(turn(agent, "Hi", 1, request_output_len=2))
    wait_until(lambda: not sessions(agent), 10, "the end of an idle session")
    for stream in (False, True):
        lost = error_of(turn(agent, "Hi", 1, stream=stream), 410, "session_lost")
        assert lost["param"] == "session_id"
    error_of(turn(agent, "Hi", 1, interactive_mode=False), 410, "session_lost")  # which resets it
    assert ok(turn(agent, "Hi", 1, request_output_len=2))["history_tokens"] == 0
    wait_until(lambda: not sessions(agent), 10, "the end of an idle session")
    error_of(turn(agent, "Hi", 1), 410, "session_lost")
    end(agent, 1)
    assert turn(agent, "Hi", 1, request_output_len=2).headers["x-lm-session-new"] == "1"


BAD = [
    ({"prompt": None}, 400, "missing_required_parameter"),
    ({"prompt": 5}, 400, "invalid_type"),
    ({"prompt": ""}, 400, "invalid_value"),
    ({"prompt": []}, 400, "invalid_value"),
    ({"prompt": [{"role": "robot", "content": "x"}]}, 400, "invalid_value"),
    ({"prompt": ["x"]}, 400, "invalid_type"),
    ({"session_id": -2}, 400, "integer_below_min_value"),
    ({"session_id": 2 ** 53}, 400, "integer_above_max_value"),
    ({"session_id": "seven"}, 400, "invalid_type"),
    ({"session_id": -1, "cancel": True}, 400, "invalid_value"),
    ({"session_id": -1, "rewind_to": 3}, 400, "invalid_value"),
    ({"rewind_to": -1}, 400, "integer_below_min_value"),
    ({"rewind_to": 1}, 400, "invalid_value"),
    ({"fork_of": -1}, 400, "integer_below_min_value"),
    ({"fork_of": 424242}, 404, "session_not_found"),
    ({"top_p": 0}, 400, "decimal_below_min_value"),
    ({"top_p": 1.5}, 400, "decimal_above_max_value"),
    ({"top_k": -1}, 400, "integer_below_min_value"),
    ({"temperature": 3}, 400, "decimal_above_max_value"),
    ({"min_p": 2}, 400, "decimal_above_max_value"),
    ({"repetition_penalty": 0}, 400, "decimal_below_min_value"),
    ({"request_output_len": -1}, 400, "integer_below_min_value"),
    ({"request_output_len": 1.5}, 400, "invalid_type"),
    ({"min_new_tokens": -1}, 400, "integer_below_min_value"),
    ({"stop": 7}, 400, "invalid_type"),
    ({"stop": ""}, 400, "invalid_value"),
    ({"stop": ["x"] * 33}, 400, "array_above_max_length"),
    ({"stop": "x" * 1025}, 400, "string_above_max_length"),
    ({"seed": 1.5}, 400, "invalid_type"),
    ({"stream": 3}, 400, "invalid_type"),
    ({"image_url": "http://127.0.0.1/x.png"}, 400, "unsupported_parameter"),
    ({"adapter_name": "lora"}, 400, "unsupported_parameter"),
    ({"model": "other"}, 404, "model_not_found"),
]


@pytest.mark.parametrize("fields, status, code", BAD, ids=lambda v: json.dumps(v)[:40])
def test_bad_input(agent, fields, status, code):
    body = {"prompt": "Hi", "session_id": 70, "interactive_mode": True, "request_output_len": 2, **fields}
    error_of(agent.post(PATH, body), status, code)
    assert 70 not in sessions(agent)


def test_what_is_accepted(agent):
    """LMDeploy's clients send everything, nulls among it."""
    body = {"prompt": "Hi", "image_url": None, "session_id": 71, "interactive_mode": "true", "stream": False,
            "stop": None, "request_output_len": 2, "top_p": 0.8, "top_k": 40, "temperature": 0.8,
            "repetition_penalty": 1.0, "ignore_eos": False, "skip_special_tokens": True, "adapter_name": None,
            "cancel": None, "seed": None, "min_new_tokens": None, "min_p": 0.0, "kwargs": {}, "model": "smollm2",
            "spaces_between_special_tokens": True, "unknown": [1]}
    assert ok(agent.post(PATH, body))["tokens"] == 2
    nothing = ok(turn(agent, "Remember this.", 71, request_output_len=0))
    assert nothing["tokens"] == 0 and nothing["finish_reason"] == "length" and nothing["input_tokens"] > 0
    assert ok(turn(agent, "x", 71))["history_tokens"] == nothing["history_tokens"] + nothing["input_tokens"]
    assert ok(turn(agent, "x", 71, stop=["e", "a"]))["finish_reason"] == "stop"
    end(agent, 71)
    assert agent.post(PATH, {"prompt": "", "session_id": 71, "cancel": True}).json() == NOTHING  # of nothing
    end(agent, 71)  # and the end of nothing
    assert httpx.post(agent.url + PATH, content="{", timeout=60).status_code == 400
    assert httpx.get(agent.url + PATH).status_code == 405
