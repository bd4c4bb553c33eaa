"""Several proxies and one Redis: what one hears all know, and none needs it to serve."""
# ctest: PROCESSORS 1

import contextlib
import json
import signal
import socket
import threading
import time

import pytest

from proxy_fixtures import (CHAT, Traffic, chat, fakes, models_of, redis_commands,  # noqa: F401
                            status_of, serve, wait_until, wait_up)


@pytest.fixture
def pair(redis, serve):
    """Two proxies that share a Redis."""
    return [serve("--redis-url", redis.url) for _ in range(2)]


def serves(proxy, model="fake-model"):
    return proxy.post(CHAT, chat(model)).status_code == 200


def test_an_agent_of_one_proxy_reaches_the_other(pair, fakes):
    first, second = pair
    agent = fakes("a", [first])
    wait_until(lambda: serves(second), 2, "traffic at the other proxy")
    assert agent.url in second.get("/nodes/status").json()
    agent.load = {"running": 2, "waiting": 9}
    wait_until(lambda: status_of(second)["a"]["waiting"] == 9, 2, "load at the other proxy")
    agent.die()
    for proxy in pair:
        wait_until(lambda p=proxy: models_of(p) == [], 6, "gone")


def test_agents_in_redis_are_seen_by_all(redis, pair, fakes):
    agents = [fakes(f"n{i}", redis_port=redis.port) for i in range(3)]
    begin = time.monotonic()
    for proxy in pair:
        wait_until(lambda p=proxy: set(status_of(p)) == {"n0", "n1", "n2"}, 2, "agents")
    assert time.monotonic() - begin < 2.5
    for proxy in pair:  # both spread
        before = [len(agent.requests) for agent in agents]
        for _ in range(200):
            assert serves(proxy)
            if all(len(agent.requests) > count for agent, count in zip(agents, before)):
                break
        assert all(len(agent.requests) > count for agent, count in zip(agents, before))
    agents[0].die()
    for proxy in pair:
        wait_until(lambda p=proxy: "n0" not in status_of(p), 6, "gone")


def test_a_hint_is_answered_at_once(redis, pair, fakes):
    fakes("a", redis_port=redis.port)
    time.sleep(0.1)
    redis_commands(redis.port, [("PUBLISH", "lm:ev", "up a")] * 1000)
    wait_until(lambda: serves(pair[0]) and serves(pair[1]), 1, "traffic")
    assert pair[0].metrics()["redis_scans_total"] < 30  # a thousand hints are one


def test_a_restarted_proxy_finds_its_fleet_within_two_seconds(redis, serve, fakes):
    proxy = serve("--redis-url", redis.url)
    fakes("a", redis_port=redis.port, beat_s=1)
    wait_up(proxy, "a")
    proxy.kill()
    again = serve("--redis-url", redis.url)
    begin = time.monotonic()
    again.wait_ready()
    assert serves(again)  # ready means: it knows
    assert time.monotonic() - begin < 2


def test_redis_is_killed_and_restarted_under_traffic(start_redis, serve, fakes):
    redis = start_redis()
    proxies = [serve("--redis-url", redis.url) for _ in range(2)]
    for i in range(3):
        fakes(f"n{i}", redis_port=redis.port)
    for proxy in proxies:
        wait_up(proxy, "n0", "n1", "n2")
    with Traffic(proxies[0].url + CHAT, chat(), clients=2) as one, \
            Traffic(proxies[1].url + CHAT, chat(), clients=2) as two:
        time.sleep(0.5)
        redis.kill()
        time.sleep(6)  # every lease runs out meanwhile
        for proxy in proxies:
            assert models_of(proxy) == ["fake-model"]
            assert proxy.metrics()["redis_connected"] == 0
        start_redis(redis.port)  # empty
        time.sleep(5)
        late = fakes("late", redis_port=redis.port)
        for proxy in proxies:
            wait_up(proxy, "n0", "n1", "n2", "late", timeout=5)
        wait_until(lambda: late.requests, 5, "traffic at the new agent")
    assert not one.failures and not two.failures
    assert len(one.statuses) > 100 and len(two.statuses) > 100
    for proxy in proxies:
        assert proxy.metrics()["redis_connected"] == 1


def test_redis_is_frozen_under_traffic(redis, pair, fakes):
    fakes("a", redis_port=redis.port)
    fakes("b", [pair[0]])
    for proxy in pair:
        wait_up(proxy, "a", "b")
    with Traffic(pair[0].url + CHAT, chat()) as one, Traffic(pair[1].url + CHAT, chat()) as two:
        redis.signal(signal.SIGSTOP)
        time.sleep(7)
        for proxy in pair:
            assert set(status_of(proxy)) == {"a", "b"}
        redis.signal(signal.SIGCONT)
        time.sleep(2)
    assert not one.failures and not two.failures
    fakes("c", redis_port=redis.port)
    for proxy in pair:
        wait_up(proxy, "a", "b", "c")


def test_redis_is_flushed_under_traffic(redis, pair, fakes):
    fakes("a", redis_port=redis.port, beat_s=1)
    for proxy in pair:
        wait_up(proxy, "a")
    with Traffic(pair[0].url + CHAT, chat()) as one, Traffic(pair[1].url + CHAT, chat()) as two:
        for _ in range(10):
            redis.ask("FLUSHALL")
            time.sleep(0.2)
    assert not one.failures and not two.failures
    for proxy in pair:
        wait_up(proxy, "a")


def test_an_agent_dies_while_redis_is_away(redis, pair, fakes):
    dead = fakes("dead", redis_port=redis.port)
    fakes("good", redis_port=redis.port)
    for proxy in pair:
        wait_up(proxy, "dead", "good")
    redis.kill()
    dead.die()
    for proxy in pair:
        for _ in range(20):
            assert serves(proxy)
        wait_until(lambda p=proxy: "dead" not in status_of(p), 6, "gone")
        assert "good" in status_of(proxy)


def test_redis_comes_later(start_redis, serve, fakes):
    from conftest import free_port
    port = free_port()
    proxy = serve("--redis-url", f"redis://127.0.0.1:{port}/0")
    fakes("http", [proxy])
    wait_up(proxy, "http")
    assert serves(proxy)
    redis = start_redis(port)
    fakes("a", redis_port=port)
    wait_up(proxy, "http", "a")
    wait_until(lambda: redis.ask("EXISTS", "lm:agent:http") == "1", 10, "the HTTP agent in Redis")


def test_rubbish_in_redis_is_ignored(redis, pair, fakes):
    fakes("a", redis_port=redis.port)
    later = int(time.time() * 1000) + 3600_000
    record = fakes("model").record()["lm"]
    rubbish = {
        "empty": "", "text": "hello", "array": "[]", "deep": "[" * 10000, "wrong": json.dumps({"id": 7}),
        "other": json.dumps(record), "url": json.dumps({**record, "id": "url", "url": "ftp://x"}),
        "many": json.dumps({**record, "id": "many", "models": ["m"] * 1000}),
        "bytes": b"\xff\xfe\x00", "huge": b"x" * 2_000_000,
    }
    commands = [("ZADD", "lm:agents", later, name) for name in [*rubbish, "absent", "x" * 1000, b"\x00\xff"]]
    commands += [("SET", f"lm:agent:{name}", text) for name, text in rubbish.items()]
    commands += [("SET", "lm:load:a", "rubbish"), ("PUBLISH", "lm:ev", b"\x00" * 1000)]
    redis_commands(redis.port, commands)
    for proxy in pair:
        wait_up(proxy, "a")
        time.sleep(1.5)
        assert set(status_of(proxy)) == {"a"}
        assert serves(proxy)


def list_reply(now, expiry):
    facts = json.dumps({"id": "ghost", "incarnation": "x", "start_ms": 1, "url": "http://127.0.0.1:1"})
    return f"*5\r\n:{now}\r\n$5\r\nghost\r\n:{expiry}\r\n${len(facts)}\r\n{facts}\r\n$-1\r\n".encode()


@pytest.mark.parametrize("reply", [b"+OK\r\n", b"$-1\r\n", b"*0\r\n", b"*1048576\r\n" * 20, b"hello\r\n",
                                   list_reply("now", 1), list_reply(-1, 2**63 - 1),
                                   list_reply(-2**63, 2**63 - 1), list_reply(0, 2**63 - 1)])
def test_nonsense_instead_of_replies(serve, fakes, reply):
    """It greets like Redis and has one answer to everything."""
    def answer(connection):
        with contextlib.suppress(OSError):
            word = b"+PONG\r\n"
            while data := connection.recv(65536):
                for _ in range(data.count(b"\r\n*") + 1):
                    connection.sendall(word)
                    word = reply

    def accept():
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        proxy = serve("--redis-url", f"redis://127.0.0.1:{listener.getsockname()[1]}")
        fakes("a", [proxy])
        wait_up(proxy, "a")
        time.sleep(0.7)
        assert serves(proxy)


def test_wrong_types_in_redis(redis, pair, fakes):
    """Somebody else's keys under our names: Redis refuses, we say so and go on."""
    fakes("a", [pair[0]])
    wait_up(pair[0], "a")
    redis.ask("DEL", "lm:agents")
    redis.ask("SET", "lm:agents", "not a sorted set")
    time.sleep(3)
    assert serves(pair[0])
    redis.ask("DEL", "lm:agents")
    wait_up(pair[1], "a", timeout=6)


def test_a_password(start_redis, serve, fakes):
    redis = start_redis()
    redis.ask("CONFIG", "SET", "requirepass", "s3cret")
    proxy = serve("--redis-url", f"redis://:s3cret@127.0.0.1:{redis.port}/0")
    wait_until(lambda: proxy.metrics()["redis_connected"] == 1, 15, "connection")
    wrong = serve("--redis-url", f"redis://:wr0ng@127.0.0.1:{redis.port}/0")
    fakes("a", [wrong])
    wait_up(wrong, "a")
    assert serves(wrong)  # a registry that refuses is a registry that is away
    assert "s3cret" not in proxy.log and "wr0ng" not in wrong.log
