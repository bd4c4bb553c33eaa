"""lm-agent on a Hugging Face folder of the tests: weights, tokenizer and stops from its files."""

import json
import os

from conftest import ROOT

FOLDER = os.path.join(ROOT, "tests", "fixtures", "models", "llama3_rope")


def read(name):
    with open(os.path.join(FOLDER, name)) as file:
        return json.load(file)


def test_folder_answers_as_its_reference(starter):
    reference = read("reference.json")
    special = {token["id"] for token in read("tokenizer.json")["added_tokens"] if token["special"]}
    agent = starter.agent(FOLDER, "--dtype", "float32")
    assert agent.get("/v1/models").json()["data"][0]["id"] == "llama3_rope"
    for prompt, greedy in zip(reference["prompts"], reference["greedy"]):
        plain = [token for token in greedy if token not in special]
        want = agent.post("/detokenize", {"tokens": plain}).json()["prompt"]
        got = agent.post("/v1/completions", {"model": "llama3_rope", "prompt": prompt, "temperature": 0,
                                             "max_tokens": len(greedy), "ignore_eos": True}).json()
        assert got["usage"]["completion_tokens"] == len(greedy)
        assert got["choices"][0]["text"] == want
