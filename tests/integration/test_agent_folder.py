"""lm-agent on a Hugging Face folder of the tests: weights, tokenizer and stops from its files."""
# ctest: PROCESSORS 1

import json
import os
import shutil
import subprocess

import pytest
from conftest import ROOT, program

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


def answer(agent, **more):
    body = {"model": "m", "prompt": "abc", "max_tokens": 12, "ignore_eos": True, "seed": 5, **more}
    return agent.post("/v1/completions", body).json()["choices"][0]["text"]


def test_sampling_of_the_folder_where_a_request_says_nothing(starter, tmp_path):
    folder = tmp_path / "m"
    shutil.copytree(FOLDER, folder)
    (folder / "generation_config.json").write_text('{"temperature": 2, "top_k": 1, "eos_token_id": 0}')
    agent = starter.agent(folder, "--dtype", "float32")
    greedy = answer(agent, temperature=0)
    assert answer(agent) == greedy  # top_k 1
    assert answer(agent, top_k=0) == answer(agent, temperature=2, top_k=0) != greedy
    plain = starter.agent(folder, "--dtype", "float32", "--generation-config", "none")
    assert answer(plain) == answer(plain, temperature=1, top_p=1)
    (folder / "generation_config.json").write_text('{"temperature": "hot"}')
    bad = subprocess.run([program("lm-agent"), folder, "--server-port", "0"], capture_output=True, text=True,
                         timeout=30, check=False)
    assert bad.returncode == 1 and "generation_config.json': key 'temperature'" in bad.stderr, bad.stderr


@pytest.mark.parametrize("arguments, format_line, kv", [
    ([], "hf, floats as they are", "f16"), (["--dtype", "float16", "--model-format", "hf"], "hf, floats as float16", "f16"),
    (["--dtype", "bfloat16"], "hf, floats as bfloat16", "bf16"), (["--dtype", "float32"], "hf, floats as float32", "f32")])
def test_dry_run_says_types(arguments, format_line, kv):
    done = subprocess.run([program("lm-agent"), FOLDER, "--dry-run", *arguments], capture_output=True, text=True,
                          timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    said = dict(line.split(None, 1) for line in done.stdout.replace("KV cache", "KV_cache").splitlines())
    assert said["format"] == format_line and said["KV_cache"].startswith(kv + ", ")


def test_format_that_the_folder_does_not_have():
    done = subprocess.run([program("lm-agent"), FOLDER, "--dry-run", "--model-format", "awq"], capture_output=True,
                          text=True, timeout=30, check=False)
    assert done.returncode == 1 and "'awq' was asked for, but nothing is stored so" in done.stderr, done.stderr
    assert FOLDER in done.stderr
