"""POST /v1/responses and /v1/messages by the official clients of OpenAI and Anthropic, on an agent and through
a proxy: they say what the chat says."""
# ctest: PROCESSORS 1

import json

import anthropic
import httpx
import openai
import pytest

MODEL = "smollm2"
ASK = [{"role": "user", "content": "Name three colours."}]
COLOURS = {"type": "object", "properties": {"colours": {"type": "array", "items": {"enum": ["red", "green"]},
                                                        "minItems": 1, "maxItems": 2}},
           "required": ["colours"], "additionalProperties": False}
CITY = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 20}}, "required": ["city"],
        "additionalProperties": False}
WEATHER = [{"role": "user", "content": "What is the weather in Paris?"}]
DRAWS = {"temperature": 0}


@pytest.fixture
def claude(server):
    with anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0) as made:
        yield made


def by_chat(client, messages, tokens=12):
    return client.chat.completions.create(model=MODEL, messages=messages, max_tokens=tokens, **DRAWS)


# ---- Responses ----


def test_a_response_says_what_the_chat_says(client):
    chat = by_chat(client, [{"role": "system", "content": "Be brief."}, *ASK])
    answer = client.responses.create(model=MODEL, instructions="Be brief.", input=ASK[0]["content"],
                                     max_output_tokens=12, **DRAWS)
    assert answer.output_text == chat.choices[0].message.content
    assert answer.id.startswith("resp_") and answer.output[0].id.startswith("msg_")
    assert answer.usage.input_tokens == chat.usage.prompt_tokens
    assert answer.usage.output_tokens == chat.usage.completion_tokens == 12
    assert answer.status == "incomplete" and answer.incomplete_details.reason == "max_output_tokens"
    assert answer.instructions == "Be brief." and answer.temperature == 0 and answer.store is False


def test_a_response_as_a_stream(client):
    whole = client.responses.create(model=MODEL, input=ASK, max_output_tokens=12, **DRAWS)
    with client.responses.stream(model=MODEL, input=ASK, max_output_tokens=12, **DRAWS) as stream:
        events = list(stream)
    kinds = [event.type for event in events]
    assert kinds[:4] == ["response.created", "response.in_progress", "response.output_item.added",
                         "response.content_part.added"]
    assert kinds[-4:] == ["response.output_text.done", "response.content_part.done", "response.output_item.done",
                          "response.incomplete"]
    assert set(kinds[4:-4]) == {"response.output_text.delta"}
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == whole.output_text
    assert events[-1].response.output[0].content[0].text == whole.output_text
    assert events[-1].response.usage.output_tokens == 12


def test_a_conversation_goes_on(client):
    """The items of an answer are input of the next turn, as they came."""
    first = client.responses.create(model=MODEL, input=ASK, max_output_tokens=8, **DRAWS)
    items = [*ASK, *(item.model_dump() for item in first.output), {"role": "user", "content": "Go on."}]
    second = client.responses.create(model=MODEL, input=items, max_output_tokens=8, **DRAWS)
    chat = by_chat(client, [*ASK, {"role": "assistant", "content": first.output_text},
                            {"role": "user", "content": "Go on."}], 8)
    assert second.output_text == chat.choices[0].message.content


def test_a_response_with_a_schema(client):
    form = {"format": {"type": "json_schema", "name": "n", "schema": COLOURS, "strict": True}}
    answer = client.responses.create(model=MODEL, input=ASK, text=form, max_output_tokens=60, temperature=1,
                                     extra_body={"seed": 2})
    assert answer.status == "completed"
    assert set(json.loads(answer.output_text)["colours"]) <= {"red", "green"}
    assert answer.text.format.name == "n"


def test_a_response_with_a_call_and_what_it_gave(client):
    tools = [{"type": "function", "name": "weather", "description": "Of a city.", "parameters": CITY, "strict": True}]
    asked = {"model": MODEL, "tools": tools, "max_output_tokens": 80, "parallel_tool_calls": False, **DRAWS}
    first = client.responses.create(input=WEATHER, tool_choice="required", **asked)
    (call,) = first.output
    assert call.type == "function_call" and call.name == "weather" and call.status == "completed"
    assert set(json.loads(call.arguments)) == {"city"}
    with client.responses.stream(input=WEATHER, tool_choice="required", **asked) as stream:
        events = list(stream)
    deltas = [e.delta for e in events if e.type == "response.function_call_arguments.delta"]
    assert "".join(deltas) == call.arguments and len(deltas) > 1
    assert events[-1].response.output[0].arguments == call.arguments
    items = [*WEATHER, call.model_dump(), {"type": "function_call_output", "call_id": call.call_id, "output": "Rain."}]
    second = client.responses.create(input=items, tool_choice="none", **{**asked, "max_output_tokens": 5})
    assert second.output_text


@pytest.mark.parametrize("fields, param", [
    ({"previous_response_id": "resp_1"}, "previous_response_id"),
    ({"background": True}, "background"),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
    ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
    ({"temperature": 3}, "temperature"),
])
def test_what_a_response_cannot_be(client, fields, param):
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(**{"model": MODEL, "input": "x", **fields})
    assert refused.value.param == param


# ---- Messages ----


def test_a_message_says_what_the_chat_says(client, claude):
    chat = by_chat(client, [{"role": "system", "content": "Be brief."}, *ASK])
    answer = claude.messages.create(model=MODEL, system="Be brief.", messages=ASK, max_tokens=12, extra_body=DRAWS)
    assert answer.content[0].type == "text" and answer.content[0].text == chat.choices[0].message.content
    assert answer.stop_reason == "max_tokens" and answer.id.startswith("msg_")
    usage = answer.usage
    assert usage.input_tokens + usage.cache_read_input_tokens == chat.usage.prompt_tokens
    assert usage.output_tokens == 12
    counted = claude.messages.count_tokens(model=MODEL, system="Be brief.", messages=ASK)
    assert counted.input_tokens == chat.usage.prompt_tokens


def test_a_message_as_a_stream(claude):
    whole = claude.messages.create(model=MODEL, messages=ASK, max_tokens=12, extra_body=DRAWS)
    with claude.messages.stream(model=MODEL, messages=ASK, max_tokens=12, extra_body=DRAWS) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == final.content[0].text == whole.content[0].text
    assert final.stop_reason == "max_tokens" and final.usage.output_tokens == 12


def test_a_message_with_a_call_and_what_it_gave(claude):
    asked = {"model": MODEL, "max_tokens": 80, "tools": [{"name": "weather", "input_schema": CITY}], "extra_body": DRAWS}
    choice = {"type": "tool", "name": "weather", "disable_parallel_tool_use": True}
    first = claude.messages.create(messages=WEATHER, tool_choice=choice, **asked)
    (call,) = first.content
    assert call.type == "tool_use" and call.name == "weather" and set(call.input) == {"city"}
    assert first.stop_reason == "tool_use"
    with claude.messages.stream(messages=WEATHER, tool_choice=choice, **asked) as stream:
        final = stream.get_final_message()
    assert final.content[0].input == call.input and final.stop_reason == "tool_use"
    turns = [*WEATHER, {"role": "assistant", "content": [call.model_dump()]},
             {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "Rain."}]}]
    second = claude.messages.create(messages=turns, tool_choice={"type": "none"}, **{**asked, "max_tokens": 5})
    assert second.content[0].type == "text"


def test_messages_stop_at_their_sequences(claude):
    whole = claude.messages.create(model=MODEL, messages=ASK, max_tokens=12, extra_body=DRAWS)
    word = whole.content[0].text.split()[1]
    cut = claude.messages.create(model=MODEL, messages=ASK, max_tokens=12, stop_sequences=[word], extra_body=DRAWS)
    assert cut.stop_reason == "end_turn"
    assert cut.content[0].text == whole.content[0].text[:whole.content[0].text.index(word)]


@pytest.mark.parametrize("fields, error", [
    ({"model": "other"}, anthropic.NotFoundError),
    ({"messages": [{"role": "system", "content": "x"}]}, anthropic.BadRequestError),
    ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, anthropic.BadRequestError),
    ({"extra_body": {"temperature": 7}}, anthropic.BadRequestError),
])
def test_what_a_message_cannot_be(claude, fields, error):
    with pytest.raises(error) as refused:
        claude.messages.create(**{"model": MODEL, "messages": ASK, "max_tokens": 3, **fields})
    body = refused.value.body
    assert body["type"] == "error" and body["error"]["type"].endswith("_error") and body["error"]["message"]


def test_a_message_that_is_none(server):
    answer = server.post("/v1/messages", {"model": MODEL, "messages": [*ASK, "Hi"], "max_tokens": 3})
    assert answer.status_code == 400 and "'messages[1]'" in answer.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/messages"])
def test_methods_and_bodies(server, path):
    answer = httpx.get(server.url + path)
    assert answer.status_code == 405 and "POST" in answer.headers["allow"]
    for body in ("{", "[]", "null", '{"model":5}'):
        assert httpx.post(server.url + path, content=body).status_code == 400
