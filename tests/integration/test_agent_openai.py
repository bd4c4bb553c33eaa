"""The official client, unmodified, against lm-agent and against lm-proxy with an agent behind it."""
# ctest: PROCESSORS 1

import asyncio

import openai
import pytest

SKY = [{"role": "user", "content": "Why is the sky blue?"}]


def test_models(client):
    models = client.models.list().data
    assert [m.id for m in models] == ["smollm2"]
    assert models[0].object == "model" and models[0].created > 1.7e9
    one = client.models.retrieve("smollm2")
    assert one.id == "smollm2" and one.owned_by
    with pytest.raises(openai.NotFoundError) as failure:
        client.models.retrieve("no/such model")
    assert failure.value.code == "model_not_found"


def test_chat(client):
    answer = client.chat.completions.create(model="smollm2", messages=SKY, max_tokens=12,
                                            temperature=0)
    assert answer.id.startswith("chatcmpl-") and answer.object == "chat.completion"
    assert answer.model == "smollm2" and answer.system_fingerprint.startswith("fp_")
    [choice] = answer.choices
    assert choice.index == 0 and choice.finish_reason == "length" and choice.logprobs is None
    assert choice.message.role == "assistant" and choice.message.content
    assert choice.message.refusal is None and choice.message.tool_calls is None
    usage = answer.usage
    assert usage.completion_tokens == 12
    assert usage.total_tokens == usage.prompt_tokens + 12
    assert answer._request_id


def test_chat_strict(server):
    """Every key that OpenAI's schema requires is there, with its type."""
    with openai.OpenAI(base_url=server.url + "/v1", api_key="x", max_retries=0,
                       _strict_response_validation=True) as client:
        client.models.list()
        client.chat.completions.create(model="smollm2", messages=SKY, max_tokens=2)
        client.completions.create(model="smollm2", prompt="x", max_tokens=2)
        for chunk in client.chat.completions.create(model="smollm2", messages=SKY, max_tokens=2,
                                                    stream=True,
                                                    stream_options={"include_usage": True}):
            assert chunk.object == "chat.completion.chunk"


def test_greedy_text(client, reference):
    """The reference's greedy answer, up to the first step that was a close call."""
    checked = 0
    for case in reference["conversations"]:
        steps = next((i for i, margin in enumerate(case["margin"]) if margin < 0.35),
                     len(case["margin"]))
        if steps == 0:
            continue
        answer = client.chat.completions.create(
            model="smollm2", messages=case["messages"], temperature=0, max_tokens=steps,
            extra_body={"return_token_ids": True})
        assert answer.choices[0].token_ids == case["greedy"][:steps], case["messages"]
        assert answer.prompt_token_ids == case["ids"], case["messages"]
        assert answer.usage.prompt_tokens == len(case["ids"])
        checked += steps
    assert checked > 20


def test_chat_stream(client):
    plain = client.chat.completions.create(model="smollm2", messages=SKY, max_tokens=16,
                                           temperature=0)
    stream = client.chat.completions.create(model="smollm2", messages=SKY, max_tokens=16,
                                            temperature=0, stream=True)
    chunks = list(stream)
    assert len({c.id for c in chunks}) == 1 and len({c.created for c in chunks}) == 1
    assert [c.choices[0].delta.role for c in chunks][0] == "assistant"
    assert all(c.choices[0].delta.role is None for c in chunks[1:])
    assert [c.choices[0].finish_reason for c in chunks].count(None) == len(chunks) - 1
    assert chunks[-1].choices[0].finish_reason == "length"
    assert chunks[-1].choices[0].delta.content == ""
    assert all(c.usage is None for c in chunks)
    text = "".join(c.choices[0].delta.content or "" for c in chunks)
    assert text == plain.choices[0].message.content


def test_chat_stream_helper(client):
    with client.chat.completions.stream(model="smollm2", messages=SKY, max_tokens=400,
                                        temperature=0, stop=["."]) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_completion()
    assert "content.delta" in kinds and kinds[-1] == "content.done"
    assert final.choices[0].message.role == "assistant"
    assert final.choices[0].finish_reason == "stop"
    assert final.choices[0].message.content and "." not in final.choices[0].message.content


def test_stream_usage(client):
    chunks = list(client.chat.completions.create(model="smollm2", messages=SKY, max_tokens=5,
                                                 stream=True,
                                                 stream_options={"include_usage": True}))
    assert all(c.usage is None and c.choices for c in chunks[:-1])
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 5
    assert chunks[-1].usage.prompt_tokens > 10


def test_completions(client, reference):
    case = reference["completions"][0]
    answer = client.completions.create(model="smollm2", prompt=case["prompt"], temperature=0)
    assert answer.id.startswith("cmpl-") and answer.object == "text_completion"
    assert answer.usage.prompt_tokens == len(case["ids"])
    assert answer.usage.completion_tokens == 16  # OpenAI's default
    by_ids = client.completions.create(model="smollm2", prompt=case["ids"], temperature=0)
    assert by_ids.choices[0].text == answer.choices[0].text
    streamed = client.completions.create(model="smollm2", prompt=case["prompt"], temperature=0,
                                         stream=True)
    chunks = list(streamed)
    assert "".join(c.choices[0].text for c in chunks) == answer.choices[0].text
    assert chunks[-1].choices[0].finish_reason == "length"


def test_completions_of_many_prompts(client):
    prompts = ["Once upon a time", "The capital of France is", "1 2 3 4"]
    alone = [client.completions.create(model="smollm2", prompt=p, max_tokens=8, temperature=0)
             for p in prompts]
    together = client.completions.create(model="smollm2", prompt=prompts, max_tokens=8,
                                         temperature=0)
    assert [c.index for c in together.choices] == [0, 1, 2]
    assert [c.text for c in together.choices] == [a.choices[0].text for a in alone]
    assert together.usage.prompt_tokens == sum(a.usage.prompt_tokens for a in alone)
    assert together.usage.completion_tokens == 24
    texts = ["", "", ""]
    finishes = []
    for chunk in client.completions.create(model="smollm2", prompt=prompts, max_tokens=8,
                                           temperature=0, stream=True):
        [choice] = chunk.choices
        texts[choice.index] += choice.text
        if choice.finish_reason:
            finishes.append(choice.index)
    assert texts == [a.choices[0].text for a in alone]
    assert sorted(finishes) == [0, 1, 2]


def test_equal_prompts_differ_when_sampled(client):
    answer = client.completions.create(model="smollm2", prompt=["The"] * 4, max_tokens=12,
                                       temperature=1.5, seed=3)
    assert len({c.text for c in answer.choices}) > 1
    alone = client.completions.create(model="smollm2", prompt="The", max_tokens=12, temperature=1.5,
                                      seed=3)
    assert alone.choices[0].text == answer.choices[0].text


def test_seed(client):
    def ask(seed, **more):
        return client.chat.completions.create(model="smollm2", messages=SKY, max_tokens=16, seed=seed,
                                              temperature=1.2, **more).choices[0].message.content
    assert ask(7) == ask(7)
    assert ask(0) == ask(0)
    assert ask(-5) == ask(-5)
    assert len({ask(seed) for seed in range(5)}) > 1
    # one possible token: the seed has nothing to choose
    assert ask(1, top_p=0) == ask(2, top_p=0)
    assert ask(1, extra_body={"top_k": 1}) == ask(2, extra_body={"top_k": 1})


def test_stop(client):
    def ask(stop, stream=False):
        return client.chat.completions.create(
            model="smollm2", messages=[{"role": "user", "content": "Count from 1 to 20."}],
            temperature=0, max_tokens=60, stop=stop, stream=stream)
    whole = ask(None).choices[0].message.content
    assert "\n3." in whole
    for stop in ["\n3.", ["zzz", "3."], "1", ["4", "3"]]:
        words = [stop] if isinstance(stop, str) else stop
        cut = min(whole.find(w) for w in words if w in whole)
        answer = ask(stop).choices[0]
        assert answer.message.content == whole[:cut]
        assert answer.finish_reason == "stop"
        chunks = list(ask(stop, stream=True))
        assert "".join(c.choices[0].delta.content or "" for c in chunks) == whole[:cut]
        assert chunks[-1].choices[0].finish_reason == "stop"


def test_stop_that_never_comes_is_delivered(client):
    """A text that could have become a stop string is held back, but not lost."""
    ask = {"model": "smollm2", "messages": SKY, "temperature": 0, "max_tokens": 10}
    whole = client.chat.completions.create(**ask).choices[0].message.content
    answer = client.chat.completions.create(**ask, stop=[whole[-3:] + "\x01"])
    assert answer.choices[0].message.content == whole
    assert answer.choices[0].finish_reason == "length"


def test_end_of_turn(client):
    ask = {"model": "smollm2", "temperature": 0, "messages": [
        {"role": "system", "content": "You answer in one word."},
        {"role": "user", "content": "What is the capital of France?"}]}
    answer = client.chat.completions.create(**ask, extra_body={"return_token_ids": True})
    assert answer.choices[0].finish_reason == "stop"
    assert "<|im_end|>" not in answer.choices[0].message.content
    assert answer.choices[0].token_ids[-1] == 2
    assert answer.usage.completion_tokens == len(answer.choices[0].token_ids)  # the closing one too
    longer = client.chat.completions.create(**ask, max_tokens=20, extra_body={"ignore_eos": True})
    assert longer.usage.completion_tokens == 20
    assert longer.choices[0].finish_reason == "length"


def test_message_forms(client):
    def ids(messages, **extra):
        answer = client.chat.completions.create(
            model="smollm2", messages=messages, max_tokens=1,
            extra_body={"return_token_ids": True, **extra})
        return answer.prompt_token_ids
    plain = ids(SKY)
    parts = [{"type": "text", "text": "Why is "}, {"type": "text", "text": "the sky blue?"}]
    assert ids([{"role": "user", "content": parts}]) == plain
    assert ids([{"role": "user", "content": None}]) == ids([{"role": "user", "content": ""}])
    assert ids([{"role": "developer", "content": "d"}, *SKY]) == ids(
        [{"role": "system", "content": "d"}, *SKY])
    # a whole answer sent back, with all its empty members
    first = client.chat.completions.create(model="smollm2", messages=SKY, max_tokens=4)
    again = [*SKY, first.choices[0].message, {"role": "user", "content": "Go on."}]
    assert len(ids(again)) > len(plain)


def test_raw_prompt(server, reference):
    """LMDeploy: `messages` may be a string, which no template touches."""
    case = reference["completions"][0]
    answer = server.post("/v1/chat/completions", {
        "model": "smollm2", "messages": case["prompt"], "max_tokens": 1, "return_token_ids": True})
    assert answer.json()["prompt_token_ids"] == case["ids"]


def test_errors_by_class(client):
    with pytest.raises(openai.NotFoundError) as failure:
        client.chat.completions.create(model="gpt-4", messages=SKY)
    assert failure.value.code == "model_not_found" and "gpt-4" in str(failure.value)
    with pytest.raises(openai.BadRequestError) as failure:
        client.chat.completions.create(model="smollm2", messages=SKY, temperature=3)
    assert failure.value.param == "temperature"
    assert failure.value.type == "invalid_request_error"
    with pytest.raises(openai.BadRequestError) as failure:
        client.chat.completions.create(model="smollm2", messages=SKY, stream=True, n=129)
    assert failure.value.code == "integer_above_max_value" and failure.value.param == "n"
    with pytest.raises(openai.BadRequestError) as failure:
        client.chat.completions.create(model="smollm2",
                                       messages=[{"role": "user", "content": "a b " * 9000}])
    assert failure.value.code == "context_length_exceeded"
    assert "maximum context length is" in str(failure.value)


def test_async(async_client):
    async def run():
        async with async_client() as client:
            models = await client.models.list()
            assert models.data[0].id == "smollm2"
            answer = await client.chat.completions.create(model="smollm2", messages=SKY,
                                                          max_tokens=8, temperature=0)
            text = ""
            stream = await client.chat.completions.create(model="smollm2", messages=SKY, max_tokens=8,
                                                          temperature=0, stream=True)
            async for chunk in stream:
                text += chunk.choices[0].delta.content or ""
            assert text == answer.choices[0].message.content
            with pytest.raises(openai.NotFoundError):
                await client.completions.create(model="x", prompt="y")
    asyncio.run(run())


def test_sixteen_streams(async_client, client):
    """Streams at once come back whole and unmixed: each as if it were alone."""
    questions = [f"Tell me about the number {n}." for n in range(16)]

    def ask(question):
        return {"model": "smollm2", "messages": [{"role": "user", "content": question}],
                "temperature": 0, "max_tokens": 24}

    async def read(client, question):
        text = ""
        async for chunk in await client.chat.completions.create(**ask(question), stream=True):
            text += chunk.choices[0].delta.content or ""
        return text

    async def run():
        async with async_client() as client:
            return await asyncio.gather(*(read(client, q) for q in questions))

    together = asyncio.run(run())
    for question, text in list(zip(questions, together))[::3]:
        assert client.chat.completions.create(**ask(question)).choices[0].message.content == text
    assert len(set(together)) > 8
