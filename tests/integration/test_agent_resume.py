"""Streams that change their agent: cut behind every event, and gone on with by another agent as if
nothing had happened. This file plays the proxy: it follows the marks and asks for the resume."""
# ctest: PROCESSORS 1

import json
import os
import re
import signal

import pytest
from conftest import ROOT, wait_until

CHAT, TEXT, TURN = "/v1/chat/completions", "/v1/completions", "/v1/chat/interactive"
SMALL = ["--model-name", "smollm2", "--session-len", 1024, "--threads", 1]
HOP = {"x-lm-hop": "1"}


class Follower:
    """What a proxy learns of a stream: its events, and the record behind each of them."""

    def __init__(self, path, raw, record=None):
        self.events, self.records, self.usage = [], [], None
        self.first = None
        state = dict(record or {"ids": [], "bytes": 0, "phase": 0})
        pending = []
        for block in self.blocks(path, raw):
            lines = block.split(b"\n")
            while lines[0].startswith(b": lm "):
                mark = dict(word.split("=", 1) for word in lines.pop(0)[5:].decode().split(" "))
                if "seed" in mark:
                    assert self.first is None and not self.records
                    self.first = mark
                    state.update(seed=mark["seed"], now=int(mark["now"]), id=mark["id"],
                                 created=int(mark["created"]))
                    state.update({"rope": int(mark["rope"])} if "rope" in mark else {})
                elif "u" in mark:
                    assert self.usage is None
                    self.usage = [int(number) for number in mark["u"].split(",")]
                else:
                    pending += [int(i) for i in mark["t"].split(",") if i]
                    point = {"bytes": int(mark["b"]), "phase": int(mark["p"])}
            if not self.records:
                self.records.append(dict(state))
            assert b": lm" not in b"\n".join(lines)
            state = {**state, **point, "ids": state["ids"] + pending}
            pending = []
            self.records.append(state)
            self.events.append(b"\n".join(lines))

    @staticmethod
    def blocks(path, raw):
        """Marks and the event behind them, as one piece."""
        text = raw if path != TURN else re.sub(rb"(?m)^(\{.*\})\n", rb"\1\n\n", raw)
        assert text.endswith(b"\n\n")
        end = b"\n\n" if path != TURN else b"\n"
        return [block + end for block in text.split(b"\n\n")[:-1]]


def visible(events):
    """How many tokens a cache had is the agent's own affair."""
    return re.sub(rb'"cached_tokens":\d+', b"", b"".join(events))


def add(total, part):
    """Joins what two pieces of a stream say."""
    if isinstance(part, dict):
        total = total or {}
        return {key: add(total.get(key), part.get(key)) for key in {**total, **part}}
    if isinstance(part, list):
        if part and isinstance(part[0], dict) and "index" in part[0]:  # choices, calls
            known = {item["index"]: item for item in total or []}
            for item in part:
                known[item["index"]] = {**add(known.get(item["index"]), item), "index": item["index"]}
            return list(known.values())
        return (total or []) + part
    return part if total is None or part is None and not total else total if part is None else total + part


CONSTANT = ("id", "object", "created", "model", "system_fingerprint", "usage")


def folded(path, text):
    """All that a stream says, whatever events its tokens came in: a busy machine makes them fewer."""
    total, parts = None, []
    for line in re.sub(rb"(?m)^data: |^\n", b"", text).splitlines():
        if line == b"[DONE]":
            parts.append("done")
            continue
        event = json.loads(line)
        fixed = {key: event.pop(key) for key in CONSTANT if key in event}
        if path == TURN:
            parts.append((event["finish_reason"], event["input_tokens"], event["history_tokens"]))
            fixed, event = event["tokens"] if event["finish_reason"] else None, {"text": event["text"]}
        if not parts or parts[-1] != fixed:
            parts.append(fixed)
        total = add(total, event)
    return total, [part for i, part in enumerate(parts) if part not in parts[:i]]


def is_same(path, got, want):
    """Byte for byte, but for the places where events were joined."""
    return visible(got) == visible(want) or folded(path, visible(got)) == folded(path, visible(want))


def whole(agent, path, body, headers=None):
    answer = agent.post(path, body, headers={**HOP, **(headers or {})})
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-lm-resumable"] == "1"
    return Follower(path, answer.content)


def post_resume(agent, path, body, record, headers=None):
    text = json.dumps(record)
    return agent.post_raw(path, text + json.dumps(body),
                          {**HOP, "x-lm-resume": str(len(text)), **(headers or {})})


exact = []  # of all resumes, whether the events were the same, too


def expect_resumed(agent, path, body, run, at, headers=None):
    record = run.records[at]
    answer = post_resume(agent, path, body, record, headers)
    assert answer.status_code == 200, (at, record, answer.text)
    assert answer.headers["x-lm-resumable"] == "1"
    rest = Follower(path, answer.content, record)
    assert is_same(path, run.events[:at] + rest.events, run.events), (at, record)
    assert rest.records[-1] == run.records[-1]
    exact.append(visible(run.events[:at] + rest.events) == visible(run.events))
    assert rest.first == run.first
    assert rest.usage[:2] == run.usage[:2]
    return answer


@pytest.fixture(scope="module")
def agents(model_path):
    from conftest import Starter
    starter = Starter()
    pair = [starter.agent(model_path, *SMALL, "--agent-id", name) for name in ("one", "two")]
    yield pair
    starter.stop()


def chat(text, **fields):
    return {"model": "smollm2", "stream": True, "max_tokens": 12, "temperature": 0,
            "messages": [{"role": "user", "content": text}], **fields}


def prompt(text, **fields):
    return {"model": "smollm2", "stream": True, "max_tokens": 12, "temperature": 0, "prompt": text, **fields}


USAGE = {"stream_options": {"include_usage": True}}
SEEDED = {"temperature": 1.1, "seed": -5}
PENALTIES = {"repetition_penalty": 1.3, "presence_penalty": 0.5, "frequency_penalty": 0.7}
STOPS = ["tricate dancing", "lies into", "dance of light and c"]  # two are only begun
CAT = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 8}, "legs": {"type": "integer", "maximum": 9},
                                         "kin": {"enum": ["lion", "lynx"]}}, "required": ["name", "legs", "kin"]}
TOOLS = [{"type": "function", "function": {"name": name, "parameters": {
    "type": "object", "required": ["n"], "properties": {"n": {"enum": [1, 2, 33]}}}}} for name in ("add", "half")]
CASES = {
    "greedy": (CHAT, chat("Why is the sky blue?", **USAGE)),
    "drawn": (CHAT, chat("Tell me a story.", temperature=1.0)),
    "seeded": (CHAT, chat("Tell me a story.", **SEEDED, **PENALTIES, top_k=50)),
    "ends by itself": (CHAT, chat("Say only the word yes.", max_tokens=200, temperature=0.3, seed=3, **USAGE)),
    "min_new_tokens": (CHAT, chat("Say only the word yes.", min_new_tokens=14, max_tokens=20)),
    "ignore_eos": (CHAT, chat("Say yes.", ignore_eos=True, skip_special_tokens=False, max_tokens=24)),
    "stop string": (CHAT, chat("Count from one to ten in words.", max_tokens=40, stop=["3\n4. 5", "4. 4\n"], **USAGE)),
    "stop over tokens": (CHAT, chat("Why is the sky blue?", max_tokens=30, stop=STOPS)),
    "logprobs": (CHAT, chat("Why is the sky blue?", logprobs=True, top_logprobs=3, **USAGE)),
    "logprobs and stop": (CHAT, chat("Why is the sky blue?", max_tokens=30, logprobs=True,
                                     return_token_ids=True, stop=STOPS)),
    "token ids": (CHAT, chat("Why is the sky blue?", return_token_ids=True, **SEEDED)),
    "schema to its stop": (CHAT, chat("Describe a cat.", max_tokens=80, **SEEDED, response_format={
        "type": "json_schema", "json_schema": {"name": "cat", "schema": CAT}})),
    "calls": (CHAT, chat("What is 2 + 3?", max_tokens=36, tools=TOOLS, tool_choice="required", **USAGE)),
    "a call to its stop": (CHAT, chat("What is 2 + 3?", max_tokens=60, **SEEDED, tools=TOOLS, return_token_ids=True,
                                      tool_choice={"type": "function", "function": {"name": "add"}})),
    "text": (TEXT, prompt("Once upon a time", **USAGE)),
    "text seeded": (TEXT, prompt("Once upon a time", **SEEDED, stop=["\n"], return_token_ids=True)),
    "text logprobs": (TEXT, prompt("Once upon a time", logprobs=2, **SEEDED, **USAGE)),
    "one token": (TEXT, prompt("Once upon a time", max_tokens=1, **USAGE)),
}


@pytest.mark.parametrize("name", CASES)
def test_behind_every_event(agents, name):
    path, body = CASES[name]
    run = whole(agents[0], path, body)
    finish = b"stop" if "stop" in name or name == "ends by itself" else b"length"
    assert re.findall(rb'"finish_reason":"(\w+)"', b"".join(run.events)) == [finish]
    for at in range(len(run.events)):
        expect_resumed(agents[1], path, body, run, at)


@pytest.mark.parametrize("logprobs", [False, True])
def test_halves_of_characters(agents, logprobs):
    """Text that comes out in whole characters, from tokens that are parts of them."""
    known = agents[0].post(TEXT, prompt("😀🎉🦊 🚀漢字", stream=False, max_tokens=1, return_token_ids=True)).json()
    ids = known["choices"][0]["prompt_token_ids"]
    assert len(ids) > 12
    body = chat("Emojis!", max_tokens=24, temperature=1.2, seed=11, logprobs=logprobs,
                logit_bias={str(i): 14 for i in ids})
    run = whole(agents[0], CHAT, body)
    assert len(run.records[-1]["ids"]) > len(run.events) - 3  # some tokens had no text of their own
    for at in range(len(run.events)):
        expect_resumed(agents[1], CHAT, body, run, at)


def test_same_without_marks(agents):
    """A client's stream is the same, whether somebody marks it or not."""
    for path, body in CASES["seeded"], CASES["text logprobs"], CASES["stop string"]:
        plain = agents[0].post(path, body)
        assert "x-lm-resumable" not in plain.headers and b": lm" not in plain.content
        marked = b"".join(whole(agents[0], path, body).events)
        assert is_same(path, [name_free(marked)], [name_free(plain.content)])


def name_free(text):
    return re.sub(rb'"id":"[^"]*"', b'"id":""', re.sub(rb'"created":\d+', b'"created":1', text))


def test_date_in_the_template(start_agent, tmp_path):
    """The prompt is rendered with the time of the first agent."""
    template = tmp_path / "date.jinja"
    template.write_text("{{ strftime_now('%H:%M:%S') }} {{ messages[0].content }}")
    flags = [*SMALL, "--chat-template", template]
    first, second = start_agent(*flags), start_agent(*flags)
    body = chat("o'clock. The time is", return_token_ids=True)
    run = whole(first, CHAT, body)
    record = {**run.records[4], "now": run.records[4]["now"] + 3601}
    expect_resumed(second, CHAT, body, run, 0)
    expect_resumed(second, CHAT, body, run, 4)
    answer = post_resume(second, CHAT, body, {**record, "ids": [], "bytes": 0, "phase": 0})
    assert visible(Follower(CHAT, answer.content).events) != visible(run.events)


# ---- conversations ----

def turn(text, **fields):
    return {"prompt": text, "session_id": 7, "interactive_mode": True, "stream": True,
            "request_output_len": 12, "temperature": 0, **fields}


@pytest.mark.parametrize("fields", [{}, {"temperature": 1.0, "top_k": 0}, {"stop": ["l"], "seed": 4}],
                         ids=["greedy", "drawn", "stop"])
def test_first_turn(agents, fields):
    body = turn("Tell me about cats.", **fields)
    new = {"x-lm-session": "00000000000000aa; expect=new; turn=1"}
    existing = {"x-lm-session": "00000000000000aa; expect=existing; turn=2"}
    run = whole(agents[0], TURN, body, new)
    want = agents[0].post(TURN, turn("Go on.", stream=False, **fields), headers=existing).json()
    assert want["history_tokens"] > 0
    for at in range(len(run.events)):
        expect_resumed(agents[1], TURN, body, run, at, new)
        if at % 5 == 0:  # what is kept of the turn is what the first agent kept
            got = agents[1].post(TURN, turn("Go on.", stream=False, **fields), headers=existing).json()
            assert got == want
    for agent in agents:
        agent.post(TURN, {"prompt": "", "session_id": 7})


@pytest.mark.parametrize("way", ["lost", "written down", "written down in part"])
def test_turn_of_a_conversation(start_agent, redis_url, way):
    """Turn 2 runs at an agent that dies; the transcript has turn 1, or all of turn 2, or a part."""
    one, two, three = [start_agent(*SMALL, "--redis-url", redis_url, "--agent-id", name)
                       for name in ("one", "two", "three")]
    fields = {"temperature": 1.0, "top_k": 0}
    key = "00000000000000ab; expect=%s; turn=%d"
    first = whole(one, TURN, turn("My name is Ann.", seed=9, **fields), {"x-lm-session": key % ("new", 1)})
    body = turn("Tell me a story.", **fields)
    run = whole(one, TURN, body, {"x-lm-session": key % ("existing", 2)})
    want = one.post(TURN, turn("Go on.", stream=False, **fields),
                    headers={"x-lm-session": key % ("existing", 3)}).json()
    assert first.records[-1]["seed"] == run.records[-1]["seed"]
    one.post(TURN, {"prompt": "", "session_id": 7}, headers={"x-lm-session": key % ("existing", 4)})

    again = whole(two, TURN, turn("My name is Ann.", seed=9, **fields), {"x-lm-session": key % ("new", 1)})
    assert is_same(TURN, again.events, first.events)
    if way == "written down":
        whole(two, TURN, body, {"x-lm-session": key % ("existing", 2)})
    if way == "written down in part":
        whole(two, TURN, {**body, "request_output_len": 7}, {"x-lm-session": key % ("existing", 2)})
    two.kill()
    at = 6
    expect_resumed(three, TURN, body, run, at, {"x-lm-session": key % ("adopt", 2)})
    [session] = three.get("/v1/sessions").json()["data"]
    assert session["turns"] == 2
    got = three.post(TURN, turn("Go on.", stream=False, **fields),
                     headers={"x-lm-session": key % ("existing", 3)}).json()
    assert got == want


def test_turn_without_history(agents):
    """No history, no turn: never a conversation that begins in the middle."""
    body = turn("Tell me about cats.", session_id=8)
    run = whole(agents[0], TURN, body)
    for expect in "adopt", "existing":
        answer = post_resume(agents[1], TURN, body, run.records[4],
                             {"x-lm-session": f"00000000000000ac; expect={expect}; turn=2"})
        assert answer.status_code == 404
        assert answer.json()["error"]["code"] == "session_unknown"
    agents[0].post(TURN, {"prompt": "", "session_id": 8})


def test_turns_are_numbered(start_agent, redis_url):
    """The agent says which turn it begins; a hop that knows of more turns than are written down gets none, and one
    that asks again for the turn that was written down gets that, not another one."""
    one, two = [start_agent(*SMALL, "--redis-url", redis_url, "--agent-id", name) for name in ("one", "two")]
    key = "00000000000000ad"
    numbers = [one.post(TURN, turn(text, stream=False), headers={"x-lm-session": key}).headers["x-lm-session-turn"]
               for text in ("My name is Ann.", "Go on.")]
    assert numbers == ["1", "2"]
    assert "x-lm-session-turn" not in one.post(TURN, turn("Hi", stream=False, session_id=9)).headers
    one.kill()
    answer = two.post(TURN, turn("And?", stream=False), headers={"x-lm-session": f"{key}; expect=adopt; has=3"})
    assert answer.status_code == 404 and answer.json()["error"]["code"] == "session_unknown"
    again = {"x-lm-session": f"{key}; expect=adopt; turn=2", "x-lm-dispatch": f"{1:016x};1;{5:016x};2"}
    answer = two.post(TURN, turn("Go on.", stream=False), headers=again)
    assert answer.status_code == 200 and answer.headers["x-lm-session-turn"] == "2"
    [session] = two.get("/v1/sessions").json()["data"]
    assert (session["turns"], session["turn"]) == (2, 2)
    answer = two.post(TURN, turn("And?", stream=False), headers={"x-lm-session": f"{key}; expect=existing; has=2"})
    assert answer.headers["x-lm-session-turn"] == "3"


def test_the_hop_decides_what_is_lost(start_agent, redis):
    """A first turn whose agent died is begun nowhere, and a proxy that couldn't ask Redis sends it again to another
    one: that is told to look there, instead of a client that there was a session and it is lost."""
    one, two = [start_agent(*SMALL, "--redis-url", redis.url, "--agent-id", name) for name in ("one", "two")]
    hop = {"x-lm-session": "00000000000000af"}
    with one.stream(TURN, turn("Count.", ignore_eos=True, request_output_len=500), hop) as stream:
        next(stream.iter_lines())
        one.kill()
    wait_until(lambda: redis.ask("EXISTS", "lm:agent:one") == "0", 10, "the end of the lease")
    answer = two.post(TURN, turn("Count.", stream=False), headers=hop)
    assert answer.status_code == 503 and answer.json()["error"]["code"] == "session_unreachable"
    assert answer.headers["x-lm-not-started"] == "1" and answer.headers["retry-after"] == "1"
    begun = two.post(TURN, turn("Count.", stream=False), headers={"x-lm-session": hop["x-lm-session"] + "; expect=new"})
    assert begun.status_code == 200 and begun.headers["x-lm-session-new"] == "1"


def test_a_stopped_agent_does_not_end_what_went_on_elsewhere(start_agent, redis_url):
    """The last turn of a conversation, taken over while its agent slept: that one wakes, finds its client gone, and
    the session is not its to end."""
    one, two, three = [start_agent(*SMALL, "--redis-url", redis_url, "--agent-id", name) for name in ("one", "two", "three")]
    key = "00000000000000ae"
    want = one.post(TURN, turn("My name is Ann.", stream=False), headers={"x-lm-session": key}).json()
    body = turn("Tell me a story.", interactive_mode=False, ignore_eos=True, request_output_len=300)
    with one.stream(TURN, body, {"x-lm-session": f"{key}; expect=existing"}) as stream:
        next(stream.iter_lines())
        one.signal(signal.SIGSTOP)
    adopted = two.post(TURN, turn("Go on.", stream=False), headers={"x-lm-session": f"{key}; expect=adopt; has=1"})
    assert adopted.json()["history_tokens"] == want["input_tokens"] + want["tokens"]
    one.signal(signal.SIGCONT)
    one.wait_metric("running", lambda running: running == 0)
    one.wait_metric("requests_gone_total", lambda gone: gone == 1)
    two.kill()
    third = three.post(TURN, turn("And?", stream=False), headers={"x-lm-session": f"{key}; expect=adopt; has=2"})
    assert third.status_code == 200 and third.headers["x-lm-session-turn"] == "3"


# ---- what can't be resumed ----

@pytest.mark.parametrize("path, body", [
    (CHAT, chat("Hi", n=2)),
    (CHAT, chat("Hi", stream=False)),
    (TEXT, prompt("Hi", echo=True)),
    (TEXT, prompt(["Hi", "Ho"])),
    (TEXT, prompt("Hi", max_tokens=0)),
    (TURN, turn("Hi", session_id=-1)),
    (TURN, turn("Hi", stream=False, interactive_mode=False)),
], ids=["n", "no stream", "echo", "prompts", "nothing", "no id", "no stream of lines"])
def test_unsupported(agents, path, body):
    plain = agents[0].post(path, body, headers=HOP)
    assert plain.status_code == 200
    assert "x-lm-resumable" not in plain.headers
    marks = re.findall(rb"(?m)^: lm (.*)$", plain.content)
    assert len(marks) == body["stream"] and all(mark.startswith(b"u=") for mark in marks)
    record = {"seed": "1", "now": 1, "ids": [], "bytes": 0, "phase": 0}
    answer = post_resume(agents[0], path, body, record)
    assert answer.status_code == 422, answer.text
    assert answer.json()["error"]["code"] == "resume_unsupported"


def test_bad_records(agents):
    path, body = CASES["greedy"]
    run = whole(agents[0], path, body)
    good = run.records[5]
    end = run.records[-3]  # the finish event is out
    assert end["phase"] == 2
    bad = [{**good, "seed": 5}, {**good, "seed": "x"}, {**good, "seed": ""}, {**good, "seed": "-1"},
           {**good, "seed": "18446744073709551616"}, {**good, "now": -1}, {**good, "now": "1"},
           {**good, "id": "a b"}, {**good, "id": "x" * 48}, {**good, "id": ""}, {**good, "created": 1.5},
           {**good, "ids": 5}, {**good, "ids": [1 << 31]}, {**good, "ids": [-1]}, {**good, "ids": [49152]},
           {**good, "ids": [1.5]}, {**good, "ids": [1] * 13}, {**good, "ids": []},
           {**good, "bytes": -1}, {**good, "bytes": good["bytes"] + 1}, {**good, "bytes": 1 << 60},
           {**good, "phase": 4}, {**good, "phase": -1}, {**good, "phase": 2}, {**good, "phase": 0},
           {**good, "ids": good["ids"] + [2, 2]}, {**end, "bytes": end["bytes"] + 1},
           {**end, "ids": end["ids"][:-1]}, [], 5, None]
    bad += [{key: value for key, value in good.items() if key != name}
            for name in ("seed", "now", "bytes", "phase", "ids")]
    for record in bad:
        answer = post_resume(agents[1], path, body, record)
        assert answer.status_code == 400, (record, answer.text)
        assert answer.json()["error"]["message"]
    for length in "-1", "x", "", "100000", "1e2", str(len(json.dumps(good)) - 1):
        text = json.dumps(good) + json.dumps(body)
        answer = agents[1].post_raw(path, text, {"x-lm-resume": length})
        assert answer.status_code == 400, length
    expect_resumed(agents[1], path, body, run, 5)
    assert agents[1].is_running()


def test_bad_bytes_within_a_character(agents):
    body = chat("Emojis!", max_tokens=8, logit_bias={})
    known = agents[0].post(TEXT, prompt("漢", stream=False, max_tokens=1, return_token_ids=True)).json()
    ids = known["choices"][0]["prompt_token_ids"]
    text = {"seed": "1", "now": 1, "ids": ids, "bytes": 3, "phase": 1}
    assert post_resume(agents[1], CHAT, body, text).status_code == 200
    assert post_resume(agents[1], CHAT, body, {**text, "bytes": 2}).status_code == 400


def test_rope_tables_stay(starter):
    """A model whose rope tables depend on the prompt's length: they are those that the answer began with."""
    folder = os.path.join(ROOT, "tests", "fixtures", "models", "llama_dynamic")
    with open(os.path.join(folder, "reference.json")) as file:
        reference = json.load(file)
    one, two = (starter.agent(folder, "--model-name", "smollm2", "--session-len", 256, "--threads", 1, "--dtype",
                              "float32", "--agent-id", name) for name in ("one", "two"))
    ids = reference["prompts"][3]
    body = prompt(ids, max_tokens=30, ignore_eos=True)
    run = whole(one, TEXT, body)
    assert len(ids) == 130 and run.first["rope"] == "130"
    assert run.records[-1]["ids"][0] == reference["greedy"][3][0]  # later ones have tables of their own there
    for at in range(len(run.records) - 1):
        expect_resumed(two, TEXT, body, run, at)

    # With those of another length the answer is another one, and goes on as that.
    begun = {**run.records[0], "rope": 60}
    answer = post_resume(one, TEXT, body, begun)
    other = Follower(TEXT, answer.content, begun)
    assert other.first["rope"] == "60" and other.records[-1]["ids"] != run.records[-1]["ids"]
    for at in range(len(other.records) - 1):
        expect_resumed(two, TEXT, body, other, at)
    assert post_resume(one, TEXT, body, {**begun, "rope": 256}).status_code == 400


def test_strangers_have_no_hop(start_agent):
    agent = start_agent(*SMALL, "--join-key", "secret")
    path, body = CASES["one token"]
    answer = agent.post(path, body, headers=HOP)
    assert answer.status_code == 200 and b": lm" not in answer.content
    assert post_resume(agent, path, body, {}).status_code == 400  # two JSON texts are none
    run = whole(agent, path, body, {"x-lm-join-key": "secret"})
    expect_resumed(agent, path, body, run, 1, {"x-lm-join-key": "secret"})


def test_cut_where_the_agent_drains(start_agent, agents):
    """An agent that must go cuts what can go on elsewhere; the client need not hear of it."""
    agent = start_agent(*SMALL, "--drain-timeout", 1)
    body = chat("Tell me a long story.", max_tokens=900, ignore_eos=True, seed=4)
    raw = b""
    with agent.stream(CHAT, body, HOP) as answer:
        try:
            for piece in answer.iter_raw():
                raw += piece
                if raw.count(b"data:") == 10:
                    agent.signal()
            pytest.fail("the stream ended as if it were complete")
        except Exception as failure:
            assert "closed" in str(failure) or "read" in str(failure).lower(), failure
    assert b"error" not in raw
    short = {**body, "max_tokens": 900}
    run = Follower(CHAT, raw[:raw.rindex(b"\n\n") + 2])
    assert "rope" not in run.first
    answer = post_resume(agents[1], CHAT, short, run.records[-1])
    rest = Follower(CHAT, answer.content, run.records[-1])
    assert len(rest.records[-1]["ids"]) == 900
    assert rest.records[-1]["ids"][:len(run.records[-1]["ids"])] == run.records[-1]["ids"]
