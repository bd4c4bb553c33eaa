"""What an answer says, read strictly: whatever a client could trip over is a Wrong."""

import json
from dataclasses import dataclass, field


class Wrong(Exception):
    """The answer came whole and isn't what it has to be."""


class Refused(Exception):
    """An error object, as the whole answer or as a stream's last event."""

    def __init__(self, status, error, was_begun=False):
        self.status = status
        self.code = error.get("code") or ""
        self.was_begun = was_begun
        super().__init__(f"{status} {self.code}: {error.get('message', error)}")


@dataclass
class Said:
    text: str = ""
    finish: str = ""
    counts: dict = field(default_factory=dict)


def want(condition, text):
    if not condition:
        raise Wrong(text)


def raise_error(answer):
    if answer.status == 200:
        return
    try:
        body = json.loads(answer.body)
        error = body["error"] if isinstance(body.get("error"), dict) else body
    except ValueError:
        error = {"message": repr(answer.body[:200])}
    raise Refused(answer.status, error)


def events_of(body):
    """The data of each event of an SSE stream that ended with [DONE]."""
    want(body.endswith(b"\n\n"), f"the stream ends inside an event: {body[-80:]!r}")
    events = []
    for event in body[:-2].split(b"\n\n"):
        if event.startswith(b":"):
            want(b": lm " not in event, f"a mark of the inner hop came through: {event!r}")
            continue
        want(event.startswith(b"data: ") and b"\n" not in event, f"odd event {event[:200]!r}")
        events.append(event[6:])
    want(events, "a stream without events")
    return events


def usage_counts(usage):
    return {name: usage[name] for name in ("prompt_tokens", "completion_tokens", "total_tokens")}


def text_of(choice, is_first):
    if "delta" not in choice:
        return choice["text"]
    want(("role" in choice["delta"]) == is_first, f"role in the wrong chunk: {choice}")
    return choice["delta"].get("content") or ""


def read_stream(body):
    """Of chat and completions with include_usage."""
    said, names = Said(), set()
    *events, last = events_of(body)
    if last != b"[DONE]":
        last = json.loads(last)
        if "error" in last:
            raise Refused(200, last["error"], was_begun=True)
        raise Wrong(f"no [DONE] behind {last}")
    for number, event in enumerate(events):
        chunk = json.loads(event)
        want("error" not in chunk, f"an error inside the stream: {chunk}")
        names.add((chunk["id"], chunk["created"]))
        if not chunk["choices"]:
            want(said.finish and number == len(events) - 1, "usage isn't last")
            said.counts = usage_counts(chunk["usage"])
            continue
        [choice] = chunk["choices"]
        want(not said.finish, f"more text behind the end: {chunk}")
        said.text += text_of(choice, number == 0)
        said.finish = choice["finish_reason"] or ""
    want(said.finish, "no finish_reason")
    want(len(names) == 1, f"a stream with several names: {names}")
    return said


def read_whole(body):
    body = json.loads(body)
    [choice] = body["choices"]
    text = choice["message"]["content"] if "message" in choice else choice["text"]
    return Said(text or "", choice["finish_reason"], usage_counts(body["usage"]))


TURN_COUNTS = ("tokens", "input_tokens", "history_tokens")


def read_turn(body, is_stream):
    """Of /v1/chat/interactive: lines of JSON, the counts grow and the last line has them all."""
    if not is_stream:
        line = json.loads(body)
        return Said(line["text"], line["finish_reason"], {name: line[name] for name in TURN_COUNTS})
    want(body.endswith(b"\n"), f"the stream ends inside a line: {body[-80:]!r}")
    said, tokens = Said(), 0
    for text in body.splitlines():
        want(not text.startswith(b":"), f"a mark of the inner hop came through: {text!r}")
        line = json.loads(text)
        if "error" in line:
            raise Refused(200, line["error"], was_begun=True)
        want(not said.finish, f"more text behind the end: {line}")
        want(line["tokens"] >= tokens, f"tokens went back from {tokens}: {line}")
        tokens = line["tokens"]
        said.text += line["text"]
        said.finish = line["finish_reason"] or ""
        said.counts = {name: line[name] for name in TURN_COUNTS}
    want(said.finish, "no finish_reason")
    return said


def compare(said, reference):
    """Each token once: the text, why it ended, the counts."""
    if said == reference:
        return
    got, expected = said.text, reference.text
    if got == expected:
        raise Wrong(f"counts or end differ: {said.finish} {said.counts}, not {reference.finish} {reference.counts}")
    same = next((i for i, (a, b) in enumerate(zip(got, expected)) if a != b), min(len(got), len(expected)))
    raise Wrong(f"text differs from character {same} of {len(expected)} on (got {len(got)}, {said.counts}, not "
                f"{reference.counts}): "
                f"{got[max(0, same - 20):same + 40]!r}, not {expected[max(0, same - 20):same + 40]!r}")
