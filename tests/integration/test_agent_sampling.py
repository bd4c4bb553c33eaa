"""Choices, log-probabilities, penalties, bias and seeds, through the official client: against lm-agent
and against lm-proxy with an agent behind it."""

import math
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest

SKY = [{"role": "user", "content": "Why is the sky blue?"}]
FRANCE = "The capital of France is"


def chat(client, **fields):
    return client.chat.completions.create(**{"model": "smollm2", "messages": SKY, "max_tokens": 12,
                                             **fields})


def text(client, **fields):
    return client.completions.create(**{"model": "smollm2", "prompt": FRANCE, "max_tokens": 8,
                                        **fields})


def contents(answer):
    return [c.message.content for c in answer.choices]


def ids_of(client, prompt):
    """Token ids of a text."""
    answer = text(client, prompt=prompt, max_tokens=1, extra_body={"return_token_ids": True})
    return answer.choices[0].prompt_token_ids


# ---- n ----

def test_choices(client):
    alone = chat(client, temperature=1.2, seed=5)
    many = chat(client, temperature=1.2, seed=5, n=6)
    assert [c.index for c in many.choices] == list(range(6))
    assert contents(many)[0] == contents(alone)[0]
    assert len(set(contents(many))) >= 5
    assert contents(chat(client, temperature=1.2, seed=5, n=3)) == contents(many)[:3]
    assert many.usage.prompt_tokens == alone.usage.prompt_tokens
    assert many.usage.completion_tokens == 6 * 12
    assert many.usage.total_tokens == many.usage.prompt_tokens + 72


def test_greedy_choices_are_equal(client):
    assert len(set(contents(chat(client, temperature=0, n=3)))) == 1


def test_more_choices_than_run_at_once(agent):
    with openai.OpenAI(base_url=agent.url + "/v1", api_key="x", max_retries=0) as client:
        answer = text(client, n=128, max_tokens=1, temperature=2, seed=1)
    assert [c.index for c in answer.choices] == list(range(128))
    assert answer.usage.completion_tokens == 128
    assert len({c.text for c in answer.choices}) > 20


def test_choices_of_many_prompts(client):
    prompts = ["Once upon a time", FRANCE]
    answer = text(client, prompt=prompts, n=3, temperature=1, seed=2)
    assert [c.index for c in answer.choices] == list(range(6))
    first = text(client, prompt=prompts[0], n=3, temperature=1, seed=2)
    assert [c.text for c in first.choices] == [c.text for c in answer.choices[:3]]
    assert answer.usage.prompt_tokens == sum(len(ids_of(client, p)) for p in prompts)


def test_stream_of_choices(client):
    plain = chat(client, temperature=1, seed=8, n=3, logprobs=True, top_logprobs=2)
    chunks = list(chat(client, temperature=1, seed=8, n=3, logprobs=True, top_logprobs=2,
                       stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].choices == [] and chunks[-1].usage == plain.usage
    texts, scores, finishes, order = [""] * 3, [[], [], []], [], []
    for chunk in chunks[:-1]:
        [choice] = chunk.choices
        if choice.delta.role:
            order.append(choice.index)
        assert choice.index not in finishes
        texts[choice.index] += choice.delta.content or ""
        scores[choice.index] += choice.logprobs.content if choice.logprobs else []
        if choice.finish_reason:
            finishes.append(choice.index)
    assert order == [0, 1, 2] and sorted(finishes) == [0, 1, 2]
    assert texts == contents(plain)
    for i in range(3):
        assert scores[i] == plain.choices[i].logprobs.content


def test_stream_helper_with_choices(client):
    with client.chat.completions.stream(model="smollm2", messages=SKY, max_tokens=400, n=3, seed=1,
                                        temperature=1, stop=["."]) as stream:
        for _ in stream:
            pass
        final = stream.get_final_completion()
    assert [c.index for c in final.choices] == [0, 1, 2]
    assert all(c.message.role == "assistant" for c in final.choices)


# ---- seeds ----

@pytest.mark.parametrize("seed", [0, -1, 7, -2**63, 2**63 - 1])
def test_seed_repeats(client, seed):
    first = contents(chat(client, temperature=1.3, seed=seed))
    assert contents(chat(client, temperature=1.3, seed=seed)) == first


def test_seeds_differ(client):
    texts = {contents(chat(client, temperature=1.3, seed=seed))[0] for seed in (0, 1, -1, 2)}
    assert len(texts) == 4
    assert len({contents(chat(client, temperature=1.3))[0] for _ in range(3)}) > 1


# ---- log-probabilities ----

def test_chat_logprobs(client):
    answer = chat(client, temperature=0, logprobs=True, top_logprobs=20)
    [choice] = answer.choices
    entries = choice.logprobs.content
    assert choice.logprobs.refusal is None and len(entries) == 12
    assert b"".join(bytes(e.bytes) for e in entries).decode() == choice.message.content
    for entry in entries:
        values = [t.logprob for t in entry.top_logprobs]
        assert len(values) == 20 and values == sorted(values, reverse=True)
        assert sum(math.exp(v) for v in values) <= 1 + 1e-5
        assert entry.logprob == values[0] and entry.token == entry.top_logprobs[0].token
    assert chat(client, logprobs=True).choices[0].logprobs.content[0].top_logprobs == []
    assert chat(client).choices[0].logprobs is None


def test_logprobs_do_not_depend_on_temperature(client):
    cold = chat(client, temperature=0, logprobs=True, top_logprobs=5, max_tokens=1)
    warm = chat(client, temperature=2, logprobs=True, top_logprobs=5, max_tokens=1, seed=3)
    assert (cold.choices[0].logprobs.content[0].top_logprobs
            == warm.choices[0].logprobs.content[0].top_logprobs)


def test_logprobs_alone_and_in_a_batch(client):
    fields = {"temperature": 0.8, "seed": 4, "logprobs": 3, "max_tokens": 24,
              "frequency_penalty": 0.5}
    alone = text(client, **fields).choices[0]
    with ThreadPoolExecutor(8) as pool:
        others = [pool.submit(text, client, prompt=f"{i} and", max_tokens=40, n=2)
                  for i in range(6)]
        same = [pool.submit(text, client, **fields) for _ in range(2)]
        for answer in same:
            assert answer.result().choices[0].text == alone.text
            assert answer.result().choices[0].logprobs == alone.logprobs
        for other in others:
            other.result()


def test_stop_text_has_no_logprobs(client):
    whole = chat(client, temperature=0, max_tokens=40).choices[0].message.content
    stop = whole[len(whole) // 2:][:7]
    [choice] = chat(client, temperature=0, max_tokens=40, stop=stop, logprobs=True).choices
    assert choice.finish_reason == "stop" and stop not in choice.message.content
    spelled = b"".join(bytes(e.bytes) for e in choice.logprobs.content).decode()
    # A token may begin in the answer and end in the stop string.
    assert spelled.startswith(choice.message.content)
    last = len(choice.logprobs.content[-1].bytes)
    assert len(spelled.encode()) - last < len(choice.message.content.encode())


def test_completion_logprobs(client):
    answer = text(client, temperature=0, logprobs=2).choices[0]
    lists = answer.logprobs
    assert len(lists.tokens) == len(lists.token_logprobs) == len(lists.top_logprobs) == 8
    assert "".join(lists.tokens) == answer.text
    assert lists.text_offset[0] == len(FRANCE)
    for token, offset in zip(lists.tokens, lists.text_offset):
        assert (FRANCE + answer.text)[offset:].startswith(token)
    for token, value, top in zip(lists.tokens, lists.token_logprobs, lists.top_logprobs):
        assert top[token] == value == max(top.values()) and len(top) == 2
    only = text(client, temperature=0, logprobs=0).choices[0].logprobs
    assert [list(top) for top in only.top_logprobs] == [[t] for t in only.tokens]
    assert only.token_logprobs == lists.token_logprobs


# ---- echo ----

def test_echo(client):
    plain = text(client, temperature=0).choices[0].text
    assert text(client, temperature=0, echo=True).choices[0].text == FRANCE + plain
    assert text(client, echo=True, max_tokens=0).choices[0].text == FRANCE
    ids = ids_of(client, FRANCE)
    assert text(client, prompt=ids, temperature=0, echo=True).choices[0].text == FRANCE + plain


def test_scoring_a_prompt(client):
    answer = text(client, echo=True, max_tokens=0, logprobs=1)
    [choice] = answer.choices
    lists = choice.logprobs
    ids = ids_of(client, FRANCE)
    assert choice.text == FRANCE and "".join(lists.tokens) == FRANCE
    assert choice.finish_reason == "length"
    assert answer.usage.completion_tokens == 0 and answer.usage.prompt_tokens == len(ids)
    assert len(lists.tokens) == len(ids) == len(lists.text_offset)
    assert lists.token_logprobs[0] is None and lists.top_logprobs[0] is None
    assert lists.text_offset[0] == 0
    # Each value is what the same token gets when it is the answer.
    for i in range(1, len(ids)):
        step = text(client, prompt=ids[:i], max_tokens=1, temperature=0,
                    logprobs=1).choices[0].logprobs
        assert lists.top_logprobs[i].items() >= step.top_logprobs[0].items()
        assert lists.token_logprobs[i] <= step.token_logprobs[0]


def test_scoring_a_long_prompt(client):
    """Scored in pieces beside other work, and the same as alone."""
    prompt = " ".join(f"word{i}" for i in range(150))
    alone = text(client, prompt=prompt, echo=True, max_tokens=4, temperature=0, logprobs=2)
    lists = alone.choices[0].logprobs
    assert len(lists.tokens) == alone.usage.prompt_tokens + 4 > 400
    assert None not in lists.token_logprobs[1:]
    with ThreadPoolExecutor(4) as pool:
        others = [pool.submit(chat, client, n=4, max_tokens=30) for _ in range(2)]
        again = pool.submit(text, client, prompt=prompt, echo=True, max_tokens=4, temperature=0,
                            logprobs=2).result()
        assert again.choices[0].logprobs == lists
        for other in others:
            other.result()


def test_streamed_echo(client):
    fields = {"echo": True, "logprobs": 1, "n": 2, "seed": 3, "temperature": 1}
    plain = text(client, **fields)
    texts, tokens, values = ["", ""], [[], []], [[], []]
    for chunk in text(client, stream=True, **fields):
        [choice] = chunk.choices
        texts[choice.index] += choice.text
        if choice.logprobs:
            tokens[choice.index] += choice.logprobs.tokens
            values[choice.index] += choice.logprobs.token_logprobs
    assert texts == [c.text for c in plain.choices]
    assert tokens == [c.logprobs.tokens for c in plain.choices]
    assert values == [c.logprobs.token_logprobs for c in plain.choices]


# ---- best_of ----

def test_best_of(client):
    fields = {"temperature": 1.2, "seed": 6, "max_tokens": 6}
    all_of_them = text(client, n=5, logprobs=0, **fields).choices
    by_mean = sorted(all_of_them, reverse=True, key=lambda c: sum(c.logprobs.token_logprobs)
                     / len(c.logprobs.token_logprobs))
    best = text(client, n=2, best_of=5, **fields)
    assert [c.text for c in best.choices] == [c.text for c in by_mean[:2]]
    assert best.usage.completion_tokens == 30
    with pytest.raises(openai.BadRequestError) as failure:
        text(client, n=1, best_of=2, stream=True)
    assert failure.value.param == "best_of"
    list(text(client, best_of=1, stream=True))


# ---- logit_bias ----

def test_bias_forces_and_bans(client):
    [token] = ids_of(client, " blue")
    forced = text(client, logit_bias={token: 100}, temperature=1, max_tokens=4)
    assert forced.choices[0].text == " blue" * 4
    free = text(client, temperature=0, extra_body={"return_token_ids": True}).choices[0].token_ids
    banned = text(client, temperature=0, logit_bias={t: -100 for t in free},
                  extra_body={"return_token_ids": True}).choices[0].token_ids
    assert not set(free) & set(banned)


def test_bias_shows_in_logprobs(client):
    [token] = ids_of(client, " blue")
    fields = {"temperature": 0, "max_tokens": 1, "logprobs": 5}
    top = text(client, logit_bias={token: 100}, **fields).choices[0].logprobs
    assert top.tokens == [" blue"] and top.token_logprobs[0] > -1e-6


# ---- penalties ----

def repeats(client, **fields):
    """Share of tokens that were there before, in long greedy answers."""
    share = 0
    for prompt in ["one two one two one two one two", "ha ha ha ha ha ha ha ha"]:
        fields.setdefault("extra_body", {}).update(return_token_ids=True)
        ids = text(client, prompt=prompt, temperature=0, max_tokens=48, **fields)
        ids = ids.choices[0].token_ids
        share += 1 - len(set(ids)) / len(ids)
    return share / 2


def test_penalties_change_repetition(client):
    free = repeats(client)
    assert free > 0.5
    assert repeats(client, frequency_penalty=2) < free - 0.2
    assert repeats(client, presence_penalty=2) < free
    assert repeats(client, extra_body={"repetition_penalty": 1.8}) < free - 0.2
    assert repeats(client, frequency_penalty=-2) > free


def test_frequency_penalty_by_hand(client):
    """The third token's log-probabilities move by what the first two took off."""
    [token] = ids_of(client, " blue")
    fields = {"temperature": 0, "logit_bias": {token: 100}, "max_tokens": 3, "logprobs": 5}
    plain = text(client, **fields).choices[0].logprobs
    taxed = text(client, frequency_penalty=2, presence_penalty=1, **fields).choices[0].logprobs
    assert plain.tokens == taxed.tokens == [" blue"] * 3
    others = [t for t in plain.top_logprobs[2] if t != " blue" and t in taxed.top_logprobs[2]]
    for other in others:
        gap = plain.top_logprobs[2][" blue"] - plain.top_logprobs[2][other]
        taxed_gap = taxed.top_logprobs[2][" blue"] - taxed.top_logprobs[2][other]
        assert abs(gap - taxed_gap - 5) < 1e-3
    assert others


# ---- stops, and what is refused ----

def test_stop_token_ids(client):
    ids = text(client, temperature=0, max_tokens=20,
               extra_body={"return_token_ids": True}).choices[0].token_ids
    stopped = text(client, temperature=0, max_tokens=20,
                   extra_body={"stop_token_ids": [ids[5]], "return_token_ids": True}).choices[0]
    assert stopped.finish_reason == "stop"
    assert stopped.token_ids == ids[:ids.index(ids[5]) + 1]
    longer = text(client, temperature=0, max_tokens=20,
                  extra_body={"stop_token_ids": [ids[5]], "min_new_tokens": 12,
                              "return_token_ids": True}).choices[0]
    assert len(longer.token_ids) > 12 and ids[5] not in longer.token_ids[:12]


def test_many_stop_strings(client):
    whole = text(client, temperature=0, max_tokens=24).choices[0].text
    stops = [f"never{i}" for i in range(31)] + [whole[10:13]]
    answer = text(client, temperature=0, max_tokens=24, stop=stops).choices[0]
    assert answer.finish_reason == "stop" and answer.text == whole[:whole.index(whole[10:13])]


def test_priority_changes_no_text(client):
    plain = text(client, temperature=1, seed=1).choices[0].text
    assert text(client, temperature=1, seed=1,
                extra_body={"priority": -5}).choices[0].text == plain
    with pytest.raises(openai.BadRequestError) as failure:
        text(client, extra_body={"priority": "high"})
    assert failure.value.param == "priority"


def test_suffix_is_refused(client):
    with pytest.raises(openai.BadRequestError) as failure:
        text(client, suffix="the end")
    assert failure.value.code == "unsupported_parameter" and failure.value.param == "suffix"
