"""What registries hear: proxies by HTTP, Redis by its scripts; and that nobody waits for them."""
# ctest: PROCESSORS 1

import json
import statistics
import time

from conftest import free_port, wait_until


def test_beats(start_agent, start_registry):
    one, two = start_registry(), start_registry()
    agent = start_agent("--model-name", "m", "--proxy-url", one.url, "--proxy-url", two.url + "/base",
                        "--join-key", "secret", "--agent-id", "a-1", "--queue-max", 7)
    wait_until(lambda: len(one.beats) >= 12 and two.beats, 30, "beats")
    _, path, headers, body = one.beats[0]
    assert path == "/nodes/add" and two.beats[0][1] == "/base/nodes/add"
    assert {k.lower(): v for k, v in headers.items()}["x-lm-join-key"] == "secret"
    assert body["url"] == agent.url and body["status"]["models"] == ["m"]
    facts = body["lm"]
    assert facts["id"] == "a-1" and facts["queue_max"] == 7 and facts["draining"] is False
    assert facts["load"]["running"] == 0
    times = [beat[0] for beat in one.beats[:12]]
    gaps = [b - a for a, b in zip(times, times[1:])]
    assert 0.1 < statistics.median(gaps) < 0.8, gaps  # loads: 250 ms
    sequences = [beat[3]["lm"]["load"]["sequence"] for beat in one.beats]
    assert sequences == sorted(set(sequences))
    agent.stop()
    assert one.beats[-1][3]["lm"]["draining"] is True
    assert two.beats[-1][3]["lm"]["draining"] is True


def test_address_is_learned(start_agent, start_registry):
    """0.0.0.0 is no address: the connection to the proxy says what ours is."""
    registry = start_registry()
    agent = start_agent("--server-name", "0.0.0.0", "--proxy-url", registry.url)
    wait_until(lambda: registry.beats, 15, "a beat")
    assert registry.asked == ["/health"]
    assert registry.beats[0][3]["url"] == f"http://127.0.0.1:{agent.port}"


def test_advertise(start_agent, start_registry):
    registry = start_registry()
    start_agent("--proxy-url", registry.url, "--advertise", "agent.example:99")
    wait_until(lambda: registry.beats, 15, "a beat")
    assert registry.beats[0][3]["url"] == "http://agent.example:99"


def test_proxy_that_comes_late(start_agent, start_registry):
    """The agent serves without it, says so once, and is there when the proxy is."""
    port = free_port()
    agent = start_agent("--model-name", "m", "--proxy-url", f"http://127.0.0.1:{port}")
    agent.wait_log("proxy away", 15)
    answer = agent.post("/v1/completions", {"model": "m", "prompt": "x", "max_tokens": 1})
    assert answer.status_code == 200
    time.sleep(2.5)
    assert agent.log.count("proxy away") == 1
    registry = start_registry(port=port)
    wait_until(lambda: registry.beats, 15, "a beat")
    agent.wait_log(r"registered proxy=", 15)
    registry.close()
    agent.wait_log("proxy away", 10, count=2)


def test_proxy_that_refuses(start_agent, start_registry):
    registry = start_registry(status=403)
    agent = start_agent("--proxy-url", registry.url)
    agent.wait_log(r"proxy refuses this agent .*403", 15)
    registry.status = 200
    agent.wait_log(r"registered proxy=", 15)


def test_redis(start_agent, redis):
    agent = start_agent("--model-name", "m", "--redis-url", redis.url, "--agent-id", "a-1")
    agent.wait_log(r"registered redis=", 15)
    facts = json.loads(redis.ask("GET", "lm:agent:a-1"))
    assert facts["url"] == agent.url and facts["models"] == ["m"]
    begin = time.monotonic()
    load = json.loads(redis.ask("GET", "lm:load:a-1"))
    assert load["running"] == 0
    first = load["sequence"]

    def later():
        return json.loads(redis.ask("GET", "lm:load:a-1"))["sequence"] - first
    wait_until(lambda: later() >= 3, 10, "later loads")
    assert later() <= 12 * max(time.monotonic() - begin, 1)  # every 250 ms, and with beats
    assert 0 < int(redis.ask("PTTL", "lm:agent:a-1")) <= 3500
    assert redis.ask("ZRANGE", "lm:agents", 0, -1) == "a-1"
    agent.stop()
    # The fleet's secret stays, and for a minute the mark that tells whether Redis was flushed.
    assert sorted(redis.ask("KEYS", "lm:*").split()) == ["lm:session-secret", "lm:sessions:a-1"]
    assert 0 < int(redis.ask("PTTL", "lm:sessions:a-1")) <= 60000


def test_redis_lost_and_found(start_agent, start_redis):
    redis = start_redis()
    agent = start_agent("--model-name", "m", "--redis-url", redis.url, "--agent-id", "a-1")
    agent.wait_log(r"registered redis=", 15)
    redis.ask("FLUSHALL")  # a flush is healed by the next beat
    wait_until(lambda: redis.ask("EXISTS", "lm:agent:a-1") == "1", 15, "the record")
    redis.kill()
    for _ in range(3):
        answer = agent.post("/v1/completions", {"model": "m", "prompt": "x", "max_tokens": 1})
        assert answer.status_code == 200
        time.sleep(0.3)
    again = start_redis(redis.port)
    wait_until(lambda: again.ask("EXISTS", "lm:agent:a-1") == "1", 20, "the record")
    agent.stop()


def test_same_id_twice(start_agent, redis):
    flags = ["--redis-url", redis.url, "--agent-id", "twin"]
    first = start_agent(*flags)
    first.wait_log(r"registered redis=", 15)
    second = start_agent(*flags)
    second.wait_log("another process holds this agent id", 15)
    assert json.loads(redis.ask("GET", "lm:agent:twin"))["url"] == first.url
    first.kill()
    second.wait_log(r"registered redis=", 10)
    assert json.loads(redis.ask("GET", "lm:agent:twin"))["url"] == second.url


def test_redis_address_is_learned(start_agent, redis):
    agent = start_agent("--server-name", "0.0.0.0", "--redis-url", redis.url, "--agent-id", "a-1")
    agent.wait_log(r"registered redis=", 15)
    facts = json.loads(redis.ask("GET", "lm:agent:a-1"))
    assert facts["url"] == f"http://127.0.0.1:{agent.port}"


def test_unreachable_redis(start_agent):
    agent = start_agent("--model-name", "m", "--redis-url", f"redis://127.0.0.1:{free_port()}/0")
    answer = agent.post("/v1/completions", {"model": "m", "prompt": "x", "max_tokens": 1})
    assert answer.status_code == 200
    begin = time.monotonic()
    agent.stop()
    assert time.monotonic() - begin < 10
