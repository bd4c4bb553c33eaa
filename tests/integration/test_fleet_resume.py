"""What a client reads is one engine's answer, each token once, wherever and however often agents are lost
while they give it; or, where that is declared impossible, its clean beginning and an error."""
# ctest: PROCESSORS 1

import json
import random
import re

import pytest
from fleet_fixtures import (INTERACTIVE, Script, ask, ask_all, assert_books_balance, chat_body,  # noqa: F401
                            fleet, scaled, serve_checked, serve_fast, start_agents, transcript_of,
                            undisturbed, wait_nodes_up)

FLAGS = ["--routing-strategy", "round_robin", "--retries", "5"]


def answer_len(fleet, agent, **fields):
    """Bytes of an answer on the wire between agent and proxy, head and marks included."""
    body = chat_body("len", **fields)
    reply = fleet.run(ask(agent.port, body, headers={"x-lm-hop": "1", "x-lm-dispatch": "ab;1;cd;1"}))
    assert reply.status == 200 and b": lm t=" in reply.body
    return len(reply.body) + 300  # with its head and chunks


def check_whole(replies, bodies):
    for body, reply in zip(bodies, replies, strict=True):
        assert reply.is_done(), (body, reply.status, reply.failure, reply.body[-200:])
        assert reply.body == transcript_of(body, reply), body


@pytest.mark.parametrize("kind", ["cut", "close"])
def test_a_loss_at_every_byte_offset(serve_checked, fleet, kind):
    proxy = serve_checked(*FLAGS)
    agents = start_agents(fleet, [proxy], 4)
    most = answer_len(fleet, agents[0], tokens=6, stream_options={"include_usage": True})
    bodies = [chat_body(f"at{at}", tokens=6, stream_options={"include_usage": True}, faults=[{kind: at}])
              for at in range(0, most)]
    replies = fleet.run(ask_all(proxy.port, bodies, lines=32))
    check_whole(replies, bodies)
    assert sum(fleet.resumed.values()) > len(bodies) / 3
    assert proxy.metrics()["upstream_lost_total"] == 0
    assert_books_balance(proxy)


def test_a_loss_at_every_byte_offset_of_lines(serve_checked, fleet):
    """The same of /v1/chat/interactive, whose events are lines."""
    proxy = serve_checked(*FLAGS)
    start_agents(fleet, [proxy], 4)
    bodies = [{**chat_body(f"l{at}", tokens=6, faults=[{"cut": at}]), "prompt": "hi"} for at in range(1500)]
    replies = fleet.run(ask_all(proxy.port, bodies, lines=32, path=INTERACTIVE))
    for body, reply in zip(bodies, replies, strict=True):
        lines = [json.loads(line) for line in reply.body.splitlines()]
        assert reply.whole and lines[-1]["finish_reason"] == "stop", (reply.status, reply.failure, reply.body)
        assert [line["text"] for line in lines] == [*Script(body).texts(), ""]
    assert sum(fleet.resumed.values()) > 500
    assert_books_balance(proxy)


def test_losses_again_and_again(serve_checked, fleet):
    """Up to six agents lost in one answer, bytes in any pieces."""
    proxy = serve_checked(*FLAGS, "--threads", "2")
    start_agents(fleet, [proxy], 8)
    chooser = random.Random(7)
    bodies = []
    for i in range(scaled(600, 20000)):
        faults = [{chooser.choice(["cut", "close"]): chooser.randrange(0, 4500)}
                  for _ in range(chooser.randrange(0, 7))]
        bodies.append(chat_body(f"m{i}", tokens=12, chunks=chooser.choice([0, 1, 7, 100, 5000]),
                                stream_options={"include_usage": chooser.random() < 0.5}, faults=faults))
    replies = fleet.run(ask_all(proxy.port, bodies, lines=48), timeout=600)
    check_whole(replies, bodies)
    assert max(fleet.resumed.values()) >= 3
    assert_books_balance(proxy)


def test_text_held_back(serve_checked, fleet):
    """Events of several tokens, tokens without an event: grouped differently by whoever goes on, but the
    same text."""
    proxy = serve_checked(*FLAGS)
    start_agents(fleet, [proxy], 4)
    chooser = random.Random(11)
    bodies = [chat_body(f"h{i}", tokens=20, group=True, faults=[
        {"cut": chooser.randrange(100, 5000)} for _ in range(chooser.randrange(1, 4))])
        for i in range(scaled(300, 5000))]
    replies = fleet.run(ask_all(proxy.port, bodies, lines=32), timeout=600)
    for body, reply in zip(bodies, replies, strict=True):
        assert reply.is_done(), (body, reply.failure)
        whole = undisturbed(body, "x", 0).split(b"\n\n")
        texts = re.findall(rb'"content": "([^"]*)"', b"".join(whole))
        assert reply.text() == b"".join(texts).decode()
        assert reply.body.count(b'"role"') == reply.body.count(b'"stop"') == 1
    assert sum(fleet.resumed.values()) > 100


def test_a_frozen_agent_is_left(serve_checked, fleet):
    proxy = serve_checked(*FLAGS, "--idle-timeout", "3", "--first-byte-timeout", "3")
    start_agents(fleet, [proxy], 3)
    bodies = [chat_body(f"f{i}", tokens=6, faults=[{"freeze": 600 + 40 * i}]) for i in range(30)]
    replies = fleet.run(ask_all(proxy.port, bodies, lines=30))
    whole = [r.is_done() for r in replies]
    for body, reply in zip(bodies, replies, strict=True):
        if reply.is_done():
            assert reply.body == transcript_of(body, reply)
        else:  # silent before its first event: nobody knows what it does
            assert reply.status == 504
    assert sum(whole) > 20
    assert_books_balance(proxy)


def test_not_resumable_is_a_clean_beginning_and_an_error(serve_checked, fleet):
    proxy = serve_checked(*FLAGS)
    start_agents(fleet, [proxy], 4)
    bodies = [chat_body(f"c{at}", tokens=6, resumable=False, own=True, faults=[{"cut": at}])
              for at in range(0, 2600, scaled(7, 1))]
    replies = fleet.run(ask_all(proxy.port, bodies, lines=32))
    cut = 0
    for body, reply in zip(bodies, replies, strict=True):
        if reply.is_done():  # lost before its first event, or behind its last one
            owner = reply.headers["x-lm-agent"]
            assert reply.body == transcript_of(body, reply, owner)
            continue
        assert reply.whole and reply.error_code() == "upstream_lost", (reply.failure, reply.body)
        assert b"[DONE]" not in reply.body
        events, owner = reply.body[:reply.body.rindex(b"data: ")], reply.headers["x-lm-agent"]
        assert transcript_of(body, reply, owner).startswith(events) and events.endswith(b"\n\n")
        cut += 1
    assert cut > len(bodies) / 3 and not fleet.resumed
    assert_books_balance(proxy)


def test_foreign_nodes_are_cut_cleanly(serve_checked, fleet):
    """Their bytes pass as they are: the end is an error event only where one can stand."""
    nodes = [fleet.agent(f"o{i}", foreign=True) for i in range(4)]
    proxy = serve_checked(*FLAGS, *(word for node in nodes for word in ("--node", node.url)))
    wait_nodes_up(proxy, 4)
    bodies = [chat_body(f"o{at}", tokens=6, own=True, faults=[{"cut": at}])
              for at in range(2000)]
    replies = fleet.run(ask_all(proxy.port, bodies, lines=32))
    kinds = {"done": 0, "event": 0, "aborted": 0}
    for body, reply in zip(bodies, replies, strict=True):
        assert reply.status == 200
        owner = re.search(rb'"content": "(o\d)o', reply.body)
        if not owner:
            continue  # no token yet, to know it by
        expected = transcript_of(body, reply, owner.group(1).decode())
        if reply.is_done():
            assert reply.body == expected
            kinds["done"] += 1
        elif reply.whole:
            assert reply.error_code() == "upstream_lost"
            assert expected.startswith(reply.body[:reply.body.rindex(b"data: ")])
            kinds["event"] += 1
        else:
            assert expected.startswith(reply.body)
            kinds["aborted"] += 1
    assert min(kinds.values()) > 10, kinds
    assert_books_balance(proxy)


def test_a_stream_of_ours_is_not_resumed_by_a_foreign_node(serve_checked, fleet):
    """It wouldn't understand the record before the body."""
    nodes = [fleet.agent(f"o{i}", foreign=True) for i in range(3)]
    proxy = serve_checked(*FLAGS, *(word for node in nodes for word in ("--node", node.url)))
    start_agents(fleet, [proxy], 2)
    wait_nodes_up(proxy, 5)
    bodies = [chat_body(f"x{at}", tokens=6, faults=[{"cut": 700 + 10 * at}]) for at in range(100)]
    replies = fleet.run(ask_all(proxy.port, bodies, lines=8))
    ours = [i for i, reply in enumerate(replies) if reply.headers.get("x-lm-agent")]  # began at one
    assert len(ours) > 10
    check_whole([replies[i] for i in ours], [bodies[i] for i in ours])
    assert fleet.resumed
    assert_books_balance(proxy)


# ---- nothing is changed ----


def test_any_bytes_in_any_chunks(serve_checked, fleet):
    """Foreign and own agents, 1 byte to 1 MiB at a time, CR and LF and both, lines of 1 MiB."""
    text = (": comment\n\ndata: one\ndata: two lines\nid: 7\nevent: x\n\n\r\n\r\ndata: cr\r\rdata: crlf\r\n\r\n"
            ": lmx t=1\n\n:lm t=2\n\n: l\n\ndata: : lm t=3 b=0 p=1\n\ndata: " + "\u4e2d\u6587\U0001f600" * 50 +
            "\n\n").encode() + b"data: " + b"y" * (1 << 20) + b"\n\ndata: last, torn"
    node = fleet.agent("node", foreign=True)
    proxy = serve_checked("--node", node.url)
    start_agents(fleet, [proxy], 1, models=["own"])
    wait_nodes_up(proxy, 2)
    head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    for model in ("mock", "own"):
        for size in (1, 2, 3, 5, 17, 1000, 65536, 1 << 20):
            data = text if size >= 1000 else text[:900]
            raw = head.encode() + b"".join(b"%x\r\n%s\r\n" % (len(data[i:i + size]), data[i:i + size])
                                           for i in range(0, len(data), size)) + b"0\r\n\r\n"
            fleet.raws["raw"] = raw
            body = chat_body(f"{model}{size}", model=model, faults=[{"raw": "raw"}])
            reply = fleet.run(ask(proxy.port, body))
            assert reply.whole and reply.body == data, (model, size, len(reply.body), len(data))
