"""Tools and reasoning through the official client: whatever the model would like to say, calls that are demanded are
valid ones. The model knows no tools; its forms are told to it."""
# ctest: PROCESSORS 1

import json
import subprocess
import typing

import jsonschema
import lmdeploy_client
import openai
import pydantic
import pytest
from conftest import client_options, program

ASK = [{"role": "user", "content": "What is the weather in Bonn, and what is 2 + 3?"}]
WEATHER = {"type": "object", "properties": {"city": {"type": "string", "minLength": 1, "maxLength": 20},
                                            "unit": {"enum": ["celsius", "fahrenheit"]}},
           "required": ["city", "unit"], "additionalProperties": False}
SUM = {"type": "object", "properties": {"numbers": {"type": "array", "items": {"type": "integer", "maximum": 99, "minimum": 0},
                                                    "minItems": 2, "maxItems": 3}}, "required": ["numbers"]}
TRIP = {"type": "object", "required": ["stops"], "properties": {
    "stops": {"type": "array", "minItems": 1, "maxItems": 2, "items": {"$ref": "#/$defs/stop"}}},
    "$defs": {"stop": {"type": "object", "required": ["place", "days"], "properties": {
        "place": {"type": "string", "maxLength": 12}, "days": {"type": "integer", "minimum": 1, "maximum": 9},
        "with": {"anyOf": [{"type": "null"}, {"enum": ["train", "bike"]}]}}}}}
SCHEMAS = {"get_weather": WEATHER, "add": SUM, "plan_trip": TRIP}


def tool(of, **more):
    return {"type": "function", "function": {"name": of, "description": of.replace("_", " "),
                                             "parameters": SCHEMAS[of], **more}}


TOOLS = [tool(name) for name in SCHEMAS]


@pytest.fixture
def direct(agent):
    """Where a proxy adds nothing but time."""
    with openai.OpenAI(**client_options(agent)) as client:
        yield client


def named(name):
    return {"type": "function", "function": {"name": name}}


def chat(client, **fields):
    return client.chat.completions.create(**{"model": "smollm2", "messages": ASK, "tools": TOOLS, "max_tokens": 120,
                                             "temperature": 0, **fields})


def check_calls(choice, names=SCHEMAS):
    """Of a choice that had to call."""
    calls = choice.message.tool_calls
    assert calls and choice.message.content is None
    for i, call in enumerate(calls):
        assert call.type == "function" and call.function.name in names
        if choice.finish_reason == "length" and i == len(calls) - 1:
            continue
        jsonschema.validate(json.loads(call.function.arguments), SCHEMAS[call.function.name])
    return calls


def joined(chunks):
    """(content, [(id, name, arguments)], finish reasons) of a stream's only choice."""
    content, calls, finishes = "", [], []
    for chunk in chunks:
        delta = chunk.choices[0].delta
        content += delta.content or ""
        for call in delta.tool_calls or []:
            if call.index == len(calls):  # the first of a call, and of this alone
                assert call.id and call.type == "function" and call.function.name and call.function.arguments == ""
                calls.append([call.id, call.function.name, ""])
            else:
                assert call.index == len(calls) - 1
                assert call.id is None and call.type is None and call.function.name is None
            calls[call.index][2] += call.function.arguments
        if chunk.choices[0].finish_reason:
            finishes.append(chunk.choices[0].finish_reason)
    return content, [tuple(call) for call in calls], finishes


# ---- calls that must come ----

@pytest.mark.parametrize("fields", [{}, {"temperature": 1.5, "seed": 2}, {"temperature": 1, "seed": 5, "frequency_penalty": 0.7}])
def test_required(client, fields):
    answer = chat(client, tool_choice="required", parallel_tool_calls=False, **fields)
    assert len(check_calls(answer.choices[0])) == 1
    assert answer.choices[0].finish_reason == "tool_calls"


@pytest.mark.parametrize("name", SCHEMAS)
def test_named(direct, name):
    answer = chat(direct, tool_choice=named(name))
    calls = check_calls(answer.choices[0], [name])
    assert len(calls) == 1 and answer.choices[0].finish_reason == "stop"  # as OpenAI


def test_several_calls(direct):
    """This model knows no end: as many as fit, all valid, no id twice, not even in another choice."""
    answer = chat(direct, tool_choice="required", n=2, temperature=1, seed=4)
    ids = [call.id for choice in answer.choices for call in check_calls(choice)]
    assert len(ids) > 2 and len(set(ids)) == len(ids)
    assert all(len(i) == 29 and i.startswith("call_") for i in ids)
    again = chat(direct, tool_choice="required", n=2, temperature=1, seed=4)
    assert [c.message.tool_calls[0].function for c in again.choices] == \
           [c.message.tool_calls[0].function for c in answer.choices]
    assert not set(ids) & {call.id for choice in again.choices for call in choice.message.tool_calls}


def test_allowed_tools(direct):
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [named("add")]}}
    answer = chat(direct, tool_choice=allowed, parallel_tool_calls=False)
    check_calls(answer.choices[0], ["add"])
    assert answer.choices[0].finish_reason == "tool_calls"


def test_tools_that_say_little(direct):
    """Without parameters arguments are an object; a schema that can't be enforced binds nobody who isn't strict."""
    bare = [{"type": "function", "function": {"name": "ping"}}]
    answer = chat(direct, tools=bare, tool_choice=named("ping"), max_tokens=60, temperature=1, seed=1)
    call = answer.choices[0].message.tool_calls[0]
    assert call.function.name == "ping" and call.function.arguments.startswith("{")
    odd = [{"type": "function", "function": {"name": "f", "parameters": {
        "type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}}}]
    answer = chat(direct, tools=odd, tool_choice="required", max_tokens=20)
    assert answer.choices[0].message.tool_calls[0].function.arguments.startswith("{")
    odd[0]["function"]["strict"] = True
    with pytest.raises(openai.BadRequestError, match="uniqueItems") as e:
        chat(direct, tools=odd, tool_choice="required")
    assert e.value.code == "unsupported_value" and e.value.param == "tools[0].function.parameters"


# ---- streams ----

@pytest.mark.parametrize("fields", [{"tool_choice": named("plan_trip")},
                                    {"tool_choice": "required", "parallel_tool_calls": False, "temperature": 1, "seed": 3},
                                    {"tool_choice": "required", "max_tokens": 70}])
def test_streams_say_the_same(client, fields):
    whole = chat(client, **fields).choices[0]
    content, calls, finishes = joined(chat(client, stream=True, **fields))
    assert content == "" and finishes == [whole.finish_reason]
    assert [call[1:] for call in calls] == [(c.function.name, c.function.arguments) for c in whole.message.tool_calls]
    assert len({call[0] for call in calls}) == len(calls)


class Stop(pydantic.BaseModel):
    place: str
    kind: typing.Literal["city", "village"]


class Visit(pydantic.BaseModel):
    """Plan a visit."""
    first: Stop
    days: typing.Literal[1, 2, 3]


def test_the_clients_helpers(client):
    """Tools that the client makes of classes are strict; it reads the arguments back."""
    visit = openai.pydantic_function_tool(Visit)
    visit["function"]["parameters"]["$defs"]["Stop"]["properties"]["place"]["pattern"] = "^[A-Za-z ]{1,10}$"
    fields = {"model": "smollm2", "messages": ASK, "tools": [visit], "tool_choice": "required",
              "parallel_tool_calls": False, "temperature": 0, "max_tokens": 90}
    with client.chat.completions.stream(**fields) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_completion()
    assert "tool_calls.function.arguments.delta" in kinds and "tool_calls.function.arguments.done" in kinds
    message = final.choices[0].message
    assert message.role == "assistant" and message.content is None and len(message.tool_calls) == 1
    assert isinstance(message.tool_calls[0].function.parsed_arguments, Visit)
    parsed = client.chat.completions.parse(**fields)
    assert parsed.choices[0].message.tool_calls[0].function.parsed_arguments == \
        message.tool_calls[0].function.parsed_arguments


# ---- calls that may come, or not ----

def test_auto_and_none(direct):
    auto, none = chat(direct, max_tokens=24), chat(direct, tool_choice="none", max_tokens=24)
    for answer in (auto, none):
        assert answer.choices[0].finish_reason in ("stop", "length") and answer.choices[0].message.content
        assert answer.choices[0].message.tool_calls is None
    assert auto.usage.prompt_tokens == none.usage.prompt_tokens  # they stay in the prompt
    bare = chat(direct, tools=openai.NOT_GIVEN, max_tokens=1)
    assert auto.usage.prompt_tokens > bare.usage.prompt_tokens + 50


def test_a_form_or_a_call(direct):
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": {
        "type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}}}
    for seed in range(3):
        choice = chat(direct, response_format=form, temperature=1.2, seed=seed, max_tokens=60).choices[0]
        if choice.message.tool_calls:
            check_calls(choice)
        else:
            assert isinstance(json.loads(choice.message.content)["ok"], bool)
    forced = chat(direct, response_format=form, tool_choice=named("add"))
    check_calls(forced.choices[0], ["add"])


def test_results_go_back(client):
    """A whole loop: a call, its result, an answer; the message goes back as it came."""
    first = chat(client, tool_choice=named("get_weather")).choices[0].message
    history = [*ASK, first.model_dump(), {"role": "tool", "tool_call_id": first.tool_calls[0].id, "content": "21 degrees, sunny"}]
    without = chat(client, messages=ASK, max_tokens=1).usage.prompt_tokens
    answer = chat(client, messages=history, max_tokens=16)
    assert answer.choices[0].message.content and answer.usage.prompt_tokens > without + 30
    history[1]["tool_calls"][0]["function"]["arguments"] = '{"city": '
    with pytest.raises(openai.BadRequestError, match="must be JSON in a string") as e:
        chat(client, messages=history)
    assert e.value.param == "messages[1].tool_calls[0].function.arguments"


def test_logprobs_are_of_all_that_was_said(direct):
    answer = chat(direct, tool_choice=named("add"), logprobs=True, top_logprobs=1)
    said = "".join(t.token for t in answer.choices[0].logprobs.content)
    assert said.startswith("<tool_call>") and answer.choices[0].message.tool_calls[0].function.arguments in said
    chunks = list(chat(direct, tool_choice=named("add"), logprobs=True, top_logprobs=1, stream=True))
    entries = [t for c in chunks for t in (c.choices[0].logprobs.content if c.choices[0].logprobs else [])]
    assert entries == answer.choices[0].logprobs.content


# ---- wrong requests, other clients ----

@pytest.mark.parametrize("fields, code, param", [
    ({"tools": [tool("add")] * 2}, "invalid_value", "tools[1].function.name"),
    ({"tools": [tool("add", name="a b")]}, "invalid_value", "tools[0].function.name"),
    ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "unsupported_parameter", "tools[0].type"),
    ({"tools": [tool("add", name=f"f{i}") for i in range(129)]}, "array_above_max_length", "tools"),
    ({"tools": [tool("add", description="x" * (2 << 20))]}, "string_above_max_length", "tools"),
    ({"tool_choice": named("nope")}, "invalid_value", "tool_choice.function.name"),
    ({"tools": openai.NOT_GIVEN, "tool_choice": "required"}, "invalid_value", "tool_choice"),
    ({"tools": [tool("add", parameters={"type": "array"})]}, "invalid_function_parameters", "tools[0].function.parameters"),
    ({"tools": [tool("add", strict=True, parameters={"type": "object", "properties": {"a": {"$ref": "#/nope"}}})]},
     "invalid_value", "tools[0].function.parameters"),
    ({"functions": [{"name": "f"}]}, "unsupported_parameter", "functions"),
    ({"reasoning_effort": "huge"}, "invalid_value", "reasoning_effort"),
])
def test_refusals(direct, fields, code, param):
    with pytest.raises(openai.BadRequestError) as e:
        chat(direct, **fields)
    assert (e.value.code, e.value.param) == (code, param)


def test_lmdeploys_client(server):
    """It can't send tools, but a conversation that had them goes on."""
    call = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"numbers": [2, 3]}'}}
    history = [*ASK, {"role": "assistant", "content": None, "tool_calls": [call]},
               {"role": "tool", "tool_call_id": "call_1", "content": "5"}]
    api = lmdeploy_client.load().APIClient(server.url)
    for messages in (ASK, history):
        *_, last = api.chat_completions_v1(model="smollm2", messages=messages, stream=True, max_tokens=6)
        assert last["choices"][0]["delta"] == {"content": ""} and last["choices"][0]["finish_reason"]


# ---- reasoning, with a model that is told to have a form of it ----

@pytest.fixture(scope="module")
def thinker(model_path):
    from conftest import Starter
    starter = Starter()
    yield starter.agent(model_path, "--model-name", "smollm2", "--session-len", 1024, "--reasoning-parser", "deepseek-r1")
    starter.stop()


@pytest.fixture
def thinking(thinker):
    with openai.OpenAI(**client_options(thinker)) as client:
        yield client



def test_reasoning_alone(thinking):
    """Its end never comes: all of it is reasoning."""
    answer = chat(thinking, tools=openai.NOT_GIVEN, max_tokens=16)
    message = answer.choices[0].message
    assert message.content is None and message.reasoning_content
    assert answer.usage.completion_tokens_details.reasoning_tokens == answer.usage.completion_tokens == 16
    chunks = list(chat(thinking, tools=openai.NOT_GIVEN, max_tokens=16, stream=True,
                       stream_options={"include_usage": True}))
    said = "".join(getattr(c.choices[0].delta, "reasoning_content", None) or "" for c in chunks if c.choices)
    assert said == message.reasoning_content
    assert not any(c.choices[0].delta.content for c in chunks if c.choices)
    assert chunks[-1].usage.completion_tokens_details.reasoning_tokens == 16


def test_thinking_is_turned_off(thinking):
    for extra in ({"enable_thinking": False}, {"chat_template_kwargs": {"enable_thinking": False}}, {"reasoning_effort": "none"}):
        answer = chat(thinking, tools=openai.NOT_GIVEN, max_tokens=8, extra_body=extra)
        assert answer.choices[0].message.content and not hasattr(answer.choices[0].message, "reasoning_content")
        assert answer.usage.completion_tokens_details.reasoning_tokens == 0


# Raw, so that this model goes on as it began: with a thought that ends.
THOUGHTS = "".join(f"<think>\n{n} and {n} make {2 * n}.\n</think>\n{2 * n}\n\n" for n in range(1, 6)) + "<think>\n"


def think(client, **fields):
    return client.chat.completions.create(model="smollm2", messages=[], temperature=0, max_tokens=80,
                                          **{**fields, "extra_body": {"messages": THOUGHTS}})


def check_thought(answer):
    message, details = answer.choices[0].message, answer.usage.completion_tokens_details
    assert message.reasoning_content and "think>" not in message.reasoning_content
    assert 0 < details.reasoning_tokens < answer.usage.completion_tokens
    return message


def test_an_answer_behind_reasoning(thinking):
    message = check_thought(think(thinking, stop=["\n\n"]))
    assert message.content.strip() and "think>" not in message.content


@pytest.mark.parametrize("fields", [{"tool_choice": named("add")}, {"tool_choice": "required", "parallel_tool_calls": False}])
def test_calls_behind_reasoning(thinking, fields):
    answer = think(thinking, tools=[tool("add")], **fields)
    check_thought(answer)
    check_calls(answer.choices[0])
    chunks = list(think(thinking, tools=[tool("add")], stream=True, **fields))
    content, calls, finishes = joined(chunks)
    assert content == "" and finishes == [answer.choices[0].finish_reason]
    assert [call[1:] for call in calls] == [(c.function.name, c.function.arguments)
                                            for c in answer.choices[0].message.tool_calls]


def test_a_form_behind_reasoning(thinking):
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"const": {"ok": True}}}}
    assert json.loads(check_thought(think(thinking, response_format=form)).content) == {"ok": True}


# ---- at start ----

def test_parsers_by_name(model_path):
    for flag in ("--tool-call-parser", "--reasoning-parser"):
        run = subprocess.run([program("lm-agent"), model_path, flag, "no-such"], capture_output=True, text=True, timeout=60)
        assert run.returncode == 2 and f"{flag}: 'no-such' is not" in run.stderr and run.stderr.endswith("or none\n")


def test_parsers_turned_off(start_agent):
    agent = start_agent("--model-name", "smollm2", "--session-len", 512, "--tool-call-parser", "none")
    with openai.OpenAI(**client_options(agent)) as client:
        assert chat(client, max_tokens=4, tools=[tool("add")]).choices[0].message.content
        with pytest.raises(openai.BadRequestError, match="--tool-call-parser none"):
            chat(client, tool_choice="required", tools=[tool("add")])
