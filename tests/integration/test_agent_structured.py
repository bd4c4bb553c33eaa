"""response_format through the official client: whatever the model would like to say, what it says has the form."""
# ctest: PROCESSORS 1

import json
import re

import jsonschema
import openai
import pytest

ASK = [{"role": "user", "content": "Describe a cat as JSON."}]
CAT = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 20},
        "legs": {"type": "integer", "minimum": 3, "maximum": 4},
        "colours": {"type": "array", "items": {"enum": ["black", "white", "grey"]}, "minItems": 1, "maxItems": 2},
        "kitten": {"anyOf": [{"type": "null"}, {"$ref": "#"}]},
    },
    "required": ["name", "legs", "colours"],
    "additionalProperties": False,
}


def of_schema(schema, **more):
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, **more}}


def chat(client, form, **fields):
    return client.chat.completions.create(**{"model": "smollm2", "messages": ASK, "max_tokens": 200,
                                             "response_format": form, **fields})


@pytest.mark.parametrize("fields", [{"temperature": 0}, {"temperature": 1.5, "seed": 3},
                                    {"temperature": 1, "n": 4, "seed": 1},
                                    {"temperature": 0.7, "logprobs": True, "top_logprobs": 5, "seed": 1},
                                    {"temperature": 1, "frequency_penalty": 0.5, "seed": 9}])
def test_schema(client, fields):
    answer = chat(client, of_schema(CAT, strict=True), **fields)
    for choice in answer.choices:
        if choice.finish_reason == "length":
            continue  # kittens of kittens
        value = json.loads(choice.message.content)
        jsonschema.validate(value, CAT)
    assert any(c.finish_reason == "stop" for c in answer.choices)
    if "logprobs" in fields:
        assert all(t.logprob > -9999 for t in answer.choices[0].logprobs.content)


def test_stream(client):
    whole = chat(client, of_schema(CAT), temperature=0)
    chunks = list(chat(client, of_schema(CAT), temperature=0, stream=True))
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == whole.choices[0].message.content
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason == "stop"


def test_json_object(client):
    for seed in range(4):
        answer = chat(client, {"type": "json_object"}, temperature=1, seed=seed, max_tokens=120)
        text = answer.choices[0].message.content
        assert text.startswith("{")
        if answer.choices[0].finish_reason == "stop":
            assert isinstance(json.loads(text), dict)


def test_a_name_without_a_schema_is_json_mode(client):
    answer = chat(client, {"type": "json_schema", "json_schema": {"name": "x"}}, max_tokens=4)
    assert answer.choices[0].message.content.startswith("{")


def test_regex(client):
    form = {"type": "regex_schema", "regex_schema": r"(yes|no), \d{2}\."}
    answers = {chat(client, form, temperature=1.5, seed=seed).choices[0].message.content for seed in range(6)}
    assert all(re.fullmatch(r"(yes|no), \d{2}\.", text) for text in answers)
    assert len(answers) > 1


def test_one_choice_leaves_no_choice(client):
    answer = chat(client, of_schema({"const": {"a": [1, "zwölf", None]}}), temperature=2)
    assert json.loads(answer.choices[0].message.content) == {"a": [1, "zwölf", None]}


def test_many_grammars_at_once(agent):
    """Streams with grammars, the same and different ones, beside streams without: each as when it runs alone."""
    import concurrent.futures
    def run(n):
        with openai.OpenAI(base_url=agent.url + "/v1", api_key="none", timeout=120) as client:
            form = {"type": "text"} if n % 4 == 3 else of_schema({"type": "array", "minItems": 1 + n % 4, "maxItems": 4,
                                                                  "items": {"type": "string", "maxLength": 8}})
            return chat(client, form, temperature=1, seed=n % 8, max_tokens=60).choices[0].message.content
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        together = list(pool.map(run, range(24)))
    assert together == [run(n) for n in range(24)]
    assert together[:8] == together[8:16]


@pytest.mark.parametrize("form, code, words", [
    (of_schema({"type": "array", "uniqueItems": True}), "unsupported_value", "uniqueItems"),
    (of_schema({"type": "object", "properties": {"a": {"$ref": "#/$defs/b"}}}), "invalid_value", "$ref"),
    (of_schema({"$ref": "#"}), "invalid_value", "without end"),
    (of_schema({"type": "integer", "minimum": 2, "maximum": 1}), "invalid_value", "nothing can satisfy"),
    (of_schema({"type": "string", "pattern": "(a{1000}){1000}"}), "invalid_value", "too large"),
    (of_schema([1]), "invalid_value", "must be an object"),
    ({"type": "regex_schema", "regex_schema": "a("}, "invalid_value", "')' is missing"),
    ({"type": "regex_schema", "regex_schema": "(?=a)b"}, "unsupported_value", "lookaround"),
    ({"type": "regex_schema"}, "missing_required_parameter", "regex_schema"),
    ({"type": "json_schema"}, "missing_required_parameter", "json_schema"),
    ({"type": "json_schema", "json_schema": {"schema": {}}}, "missing_required_parameter", "name"),
    ({"type": "json_schema", "json_schema": {"name": "a b", "schema": {}}}, "invalid_value", "name"),
])
def test_refusals(client, form, code, words):
    with pytest.raises(openai.BadRequestError) as e:
        chat(client, form)
    assert e.value.code == code
    assert words in e.value.message
