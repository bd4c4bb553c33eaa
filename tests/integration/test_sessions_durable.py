"""Conversations that outlive their agent: in Redis, and in a folder."""
# ctest: PROCESSORS 1

import glob
import json
import os
import resource
import signal
import socket
import time

import httpx
import pytest

from conftest import wait_until

PATH = "/v1/chat/interactive"
SMALL = ["--model-name", "smollm2", "--session-len", 1024, "--threads", 1]
PROMPTS = ["My name is Ann.", "Tell me a story about a cat.", "Go on.", "What happens then?", "And the end?"]
WAYS = {"greedy": {"temperature": 0}, "seeded": {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "seed": -77},
        "drawn": {"temperature": 0.9}}


def turn(agent, prompt, session_id=5, headers=None, **fields):
    return agent.post(PATH, {"prompt": prompt, "session_id": session_id, "interactive_mode": True,
                             "request_output_len": 20, **fields}, headers=headers)


def ok(answer):
    assert answer.status_code == 200, answer.text
    return answer.json()


def error_of(answer, status, code):
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["code"] == code, answer.text


def talk(agent, first, last, fields):
    """Turns first to last, from 1. A seed is given with the first only: it is the conversation's."""
    later = {name: value for name, value in fields.items() if name != "seed"}
    return [turn(agent, PROMPTS[n - 1], **(fields if n == 1 else later)) for n in range(first, last + 1)]


def undisturbed(agent, fields):
    answers = [ok(answer) for answer in talk(agent, 1, 5, fields)]
    assert agent.post(PATH, {"prompt": "", "session_id": 5}).status_code == 200
    return answers


@pytest.mark.parametrize("way", ["greedy", "seeded"])
def test_turn_four_on_another_agent(start_agent, redis_url, way):
    first = start_agent(*SMALL, "--redis-url", redis_url, "--agent-id", "one")
    second = start_agent(*SMALL, "--redis-url", redis_url, "--agent-id", "two")
    want = undisturbed(first, WAYS[way])
    got = talk(first, 1, 3, WAYS[way])
    first.kill()
    got += talk(second, 4, 5, WAYS[way])
    assert [ok(answer) for answer in got] == want
    moved = [answer.headers.get("x-lm-session-moved") for answer in got]
    assert moved == [None, None, None, "1", None]
    assert not any("x-lm-durable" in answer.headers for answer in got)
    assert second.metrics()["sessions_adopted_total"] == 1


@pytest.mark.parametrize("way", ["greedy", "seeded", "drawn"])
def test_turn_four_after_a_restart(start_agent, tmp_path, way):
    flags = [*SMALL, "--session-dir", tmp_path / "sessions"]
    agent = start_agent(*flags)
    fields = WAYS[way]
    want = undisturbed(agent, fields) if way != "drawn" else None
    got = talk(agent, 1, 3, fields)
    agent.kill()
    agent = start_agent(*flags)
    [session] = agent.get("/v1/sessions").json()["data"]
    last = ok(got[-1])
    held = last["history_tokens"] + last["input_tokens"] + last["tokens"]
    assert (session["session_id"], session["turns"], session["history_tokens"]) == (5, 3, held)
    fork = turn(agent, PROMPTS[3], 6, fork_of=5, **{k: v for k, v in fields.items() if k != "seed"})
    got += talk(agent, 4, 5, fields)
    assert ok(fork) == ok(got[3])  # the seed is in the file, drawn or given
    if want:
        assert [ok(answer) for answer in got] == want


def test_killed_in_the_middle_of_a_turn(start_agent, redis_url):
    """The turn that was lost left nothing; the next one waits until the dead agent's lease is over."""
    first = start_agent(*SMALL, "--redis-url", redis_url, "--agent-id", "one")
    second = start_agent(*SMALL, "--redis-url", redis_url, "--agent-id", "two")
    want = undisturbed(first, WAYS["greedy"])
    talk(first, 1, 3, WAYS["greedy"])
    with httpx.stream("POST", first.url + PATH, timeout=60, json={
            "prompt": "Lost.", "session_id": 5, "interactive_mode": True, "stream": True, "ignore_eos": True}) as s:
        lines = s.iter_lines()  # kept: without it the connection ends, and with it the turn
        next(lines)
        first.kill()
    begin = time.monotonic()
    [fourth] = talk(second, 4, 4, WAYS["greedy"])
    assert ok(fourth) == want[3] and fourth.headers["x-lm-session-moved"] == "1"
    assert time.monotonic() - begin < 20


def test_stopped_owner_wakes(start_agent, redis_url):
    first = start_agent(*SMALL, "--redis-url", redis_url, "--agent-id", "one")
    second = start_agent(*SMALL, "--redis-url", redis_url, "--agent-id", "two")
    want = undisturbed(first, WAYS["greedy"])
    talk(first, 1, 3, WAYS["greedy"])
    first.signal(signal.SIGSTOP)
    [fourth] = talk(second, 4, 4, WAYS["greedy"])
    first.signal(signal.SIGCONT)
    [fifth] = talk(first, 5, 5, WAYS["greedy"])  # with the turn that it slept through
    assert [ok(fourth), ok(fifth)] == want[3:]
    assert fifth.headers["x-lm-session-moved"] == "1"


def test_redis_away(start_agent, start_redis):
    redis = start_redis()
    first = start_agent(*SMALL, "--redis-url", redis.url, "--agent-id", "one")
    second = start_agent(*SMALL, "--redis-url", redis.url, "--agent-id", "two")
    want = undisturbed(first, WAYS["greedy"])
    got = talk(first, 1, 1, WAYS["greedy"])
    redis.kill()
    got += talk(first, 2, 2, WAYS["greedy"])
    assert "x-lm-durable" not in got[0].headers and got[1].headers["x-lm-durable"] == "0"
    stream = turn(first, "x", 9, stream=True)
    assert stream.headers["trailer"] == "x-lm-durable" and stream.status_code == 200
    start_redis(redis.port)
    first.wait_log("redis connected", count=4)
    got += talk(first, 3, 3, WAYS["greedy"])
    assert "x-lm-durable" not in got[2].headers  # and what was missed is there, too
    second.wait_log("redis connected", count=4)
    got += talk(second, 4, 5, WAYS["greedy"])
    assert [ok(answer) for answer in got] == want
    assert first.metrics()["session_turns_undurable_total"] == 2


def test_ended_while_a_dead_agents_lease_runs(start_agent, start_redis):
    """Redis froze, and beats of an agent that was killed then renew its lease when it wakes. A turn that went on at
    another agent and ends in that time is written down when the lease is over, and no client hears of it."""
    redis = start_redis()
    first = start_agent(*SMALL, "--redis-url", redis.url, "--agent-id", "one")
    second = start_agent(*SMALL, "--redis-url", redis.url, "--agent-id", "two")
    long = {"prompt": PROMPTS[0], "session_id": 5, "interactive_mode": True, "stream": True, "ignore_eos": True}
    facts = redis.ask("GET", "lm:agent:one")
    with httpx.stream("POST", first.url + PATH, timeout=60, json=long) as s:
        lines = s.iter_lines()
        next(lines)
        redis.signal(signal.SIGSTOP)
        first.kill()
    with httpx.stream("POST", second.url + PATH, timeout=60, json=long) as s:
        lines = s.iter_lines()
        next(lines)
        time.sleep(1.5)
        redis.signal(signal.SIGCONT)
        second.wait_log("redis connected", count=4)
        redis.ask("SET", "lm:agent:one", facts, "PX", 3500)
        assert turn(second, "", cancel=True).status_code == 200
        last = json.loads(list(lines)[-1])
    assert last["finish_reason"] == "length", last
    assert redis.ask("EXISTS", "lm:agent:one") == "0"
    got = ok(turn(second, PROMPTS[1]))
    assert got["history_tokens"] == last["input_tokens"] + last["tokens"]
    [name] = redis.ask("KEYS", "lm:h:*").split()
    assert redis.ask("HGET", name, "turns") == "2"
    assert second.metrics()["session_turns_undurable_total"] == 0


def raw_trailer(agent, session_id):
    text = json.dumps({"prompt": "Hi", "session_id": session_id, "interactive_mode": True, "stream": True,
                       "request_output_len": 2}).encode()
    with socket.create_connection(("127.0.0.1", agent.port)) as s:
        s.sendall(b"POST %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" %
                  (PATH.encode(), len(text), text))
        data = b""
        while piece := s.recv(65536):
            data += piece
    return data


def test_trailer(start_agent, redis):
    agent = start_agent(*SMALL, "--redis-url", redis.url)
    assert raw_trailer(agent, 1).endswith(b"\r\n0\r\n\r\n")
    redis.kill()
    assert raw_trailer(agent, 1).endswith(b"\r\n0\r\nx-lm-durable: 0\r\n\r\n")


def test_never_written_down_is_lost(start_agent, start_redis):
    redis = start_redis()
    first = start_agent(*SMALL, "--redis-url", redis.url, "--agent-id", "one")
    second = start_agent(*SMALL, "--redis-url", redis.url, "--agent-id", "two")
    ok(turn(first, "Hi"))
    [name] = redis.ask("KEYS", "lm:h:*").split()
    redis.ask("DEL", name)  # as beyond the size cap
    error_of(turn(second, "Hi"), 409, "session_elsewhere")
    assert ok(turn(first, "Hi"))["history_tokens"] > 0
    redis.ask("DEL", name)
    first.kill()
    wait_until(lambda: redis.ask("EXISTS", "lm:agent:one") == "0", 10, "the end of the lease")
    for _ in range(2):
        error_of(turn(second, "Hi"), 410, "session_lost")
    assert second.post(PATH, {"prompt": "", "session_id": 5}).status_code == 200
    assert turn(second, "Hi").headers["x-lm-session-new"] == "1"


@pytest.mark.parametrize("damage", [("HDEL", "r2"), ("HSET", "r1", "rubbish"), ("HSET", "turns", "7"),
                                    ("HSET", "model", "another")])
def test_damaged_transcripts(start_agent, redis, damage):
    first = start_agent(*SMALL, "--redis-url", redis.url, "--agent-id", "one")
    second = start_agent(*SMALL, "--redis-url", redis.url, "--agent-id", "two")
    talk(first, 1, 2, WAYS["greedy"])
    [name] = redis.ask("KEYS", "lm:h:*").split()
    redis.ask(damage[0], name, *damage[1:])
    for stream in (False, True):
        error_of(turn(second, "Hi", stream=stream), 410, "session_lost")
    second.post(PATH, {"prompt": "", "session_id": 5})
    assert turn(second, "Hi").headers["x-lm-session-new"] == "1"


def test_ended_elsewhere(start_agent, redis):
    first = start_agent(*SMALL, "--redis-url", redis.url, "--agent-id", "one")
    second = start_agent(*SMALL, "--redis-url", redis.url, "--agent-id", "two")
    ok(turn(first, "Hi"))
    second.post(PATH, {"prompt": "", "session_id": 5})
    again = turn(first, "Hi")
    assert ok(again)["history_tokens"] == 0 and again.headers["x-lm-session-new"] == "1"
    assert ok(turn(second, "And?", 6, fork_of=5))["history_tokens"] > 0  # a fork needs no claim
    assert ok(turn(first, "x"))["history_tokens"] > 0


def test_damaged_files(start_agent, tmp_path):
    folder = tmp_path / "sessions"
    flags = [*SMALL, "--session-dir", folder]
    agent = start_agent(*flags)
    for session_id in (1, 2, 3):
        ok(turn(agent, "Hi", session_id))
        ok(turn(agent, "And?", session_id))
    [held] = [s["history_tokens"] for s in agent.get("/v1/sessions").json()["data"] if s["session_id"] == 3]
    agent.kill()
    files = sorted(glob.glob(str(folder / "*.session")), key=os.path.getmtime)
    assert len(files) == 3
    with open(files[0], "r+b") as file:  # a bit flips
        file.seek(400)
        byte = file.read(1)
        file.seek(400)
        file.write(bytes([byte[0] ^ 4]))
    with open(files[1], "r+b") as file:  # the end is cut off: the turn that nobody was told of
        file.truncate(os.path.getsize(files[1]) - 3)
    agent = start_agent(*flags)
    error_of(turn(agent, "Hi", 1), 410, "session_lost")
    assert 0 < ok(turn(agent, "Hi", 2))["history_tokens"] < held
    assert ok(turn(agent, "Hi", 3))["history_tokens"] == held
    agent.post(PATH, {"prompt": "", "session_id": 1})
    assert turn(agent, "Hi", 1).headers["x-lm-session-new"] == "1"
    agent.stop()
    other = start_agent("--model-name", "smollm2", "--session-len", 20, "--session-dir", folder)
    error_of(turn(other, "Hi", 3), 410, "session_lost")  # more tokens than its context has


def test_folder_belongs_to_one_agent(start_agent, tmp_path):
    flags = [*SMALL, "--session-dir", tmp_path / "sessions"]
    start_agent(*flags)
    second = start_agent(*flags, ready=False)
    second.expect_status = 1
    assert second.wait() == 1
    assert "another agent uses the folder" in second.log


def test_full_disk(start_agent, tmp_path):
    """Where the folder can't be written any more the turn still answers, and says so."""
    folder = tmp_path / "sessions"
    agent = start_agent(*SMALL, "--session-dir", folder)
    assert "x-lm-durable" not in turn(agent, "Hi").headers
    resource.prlimit(agent.popen.pid, resource.RLIMIT_FSIZE, (64, resource.RLIM_INFINITY))
    failed = turn(agent, "And?")
    assert ok(failed)["history_tokens"] > 0 and failed.headers["x-lm-durable"] == "0"
    agent.wait_log("a turn is not on the disk")
    resource.prlimit(agent.popen.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    later = turn(agent, "And?")
    assert "x-lm-durable" not in later.headers
    agent.kill()
    agent = start_agent(*SMALL, "--session-dir", folder)
    last = ok(later)
    assert ok(turn(agent, "x"))["history_tokens"] == (last["history_tokens"] + last["input_tokens"] + last["tokens"])
