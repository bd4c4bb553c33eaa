"""A whole lm-agent on emulated GPUs (tests/kernels/cuda_emu): the tokens of the CPU, on one, two and four of them."""
# ctest: PROCESSORS 1

import concurrent.futures
import os
import pathlib
import re
import shutil
import subprocess

import pytest

from conftest import ROOT, Starter, program

MODEL = pathlib.Path(ROOT) / "tests/fixtures/models/llama3_rope"
MODULE = pathlib.Path(program("lm-agent")).parent.parent / "lib/liblm-cuda-emu.so"
FLAGS = ["--model-name", "tiny", "--session-len", 128, "--max-batch-size", 2, "--dtype", "float32"]
PROMPTS = [[1, 5, 9], list(range(3, 40)), [7]]
LONG = list(range(3, 100))

SCHEMA = {"type": "object", "properties": {"n": {"enum": [7, 42]}, "ok": {"type": "boolean"}}, "required": ["n", "ok"],
          "additionalProperties": False}
# Two at a time.
SAMPLED = [
    {"temperature": 1, "seed": 1},
    {"temperature": 0.8, "top_p": 0.9, "seed": 2, "logprobs": True, "top_logprobs": 3},
    {"temperature": 1.5, "top_k": 20, "min_p": 0.02, "seed": 3},
    {"temperature": 1, "top_p": 0.7, "top_k": 40, "seed": 4, "min_new_tokens": 5},
    {"temperature": 1, "seed": 5, "response_format": {"type": "json_schema",
                                                      "json_schema": {"name": "x", "schema": SCHEMA}}},
    {"temperature": 1, "seed": 6, "frequency_penalty": 0.7, "presence_penalty": 0.4, "repetition_penalty": 1.3,
     "logprobs": True, "top_logprobs": 20},
    {"temperature": 1.2, "seed": 7, "logit_bias": {"11": 3, "12": 3, "13": -100}, "n": 2},
    {"temperature": 0, "presence_penalty": 1, "logit_bias": {"20": 2}},
]


def ids_of(agent):
    """Greedy ids behind each prompt."""
    found = []
    for prompt in PROMPTS:
        answer = agent.post("/v1/completions", {"model": "tiny", "prompt": prompt, "max_tokens": 8, "temperature": 0,
                                                "ignore_eos": True, "return_token_ids": True})
        assert answer.status_code == 200, answer.text
        found.append(answer.json()["choices"][0]["token_ids"])
    return found


def sampled_of(agent):
    """Text, ids, and log-probabilities as pairs of tokens and numbers, of each choice, of requests that share steps."""
    def ask(fields):
        body = {"model": "tiny", "messages": [{"role": "user", "content": "a b"}], "max_tokens": 12,
                "return_token_ids": True, **fields}
        answer = agent.post("/v1/chat/completions", body)
        assert answer.status_code == 200, answer.text
        return [(c["message"]["content"], c["token_ids"],
                 [(t["token"], t["logprob"]) for at in (c.get("logprobs") or {}).get("content", [])
                  for t in [at, *at["top_logprobs"]]])
                for c in answer.json()["choices"]]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        return list(pool.map(ask, SAMPLED))


def tokens_alone(choice):
    text, ids, logprobs = choice
    return text, ids, [token for token, _ in logprobs]


def echo_of(agent):
    """A prompt of more tokens than a step scores, and nothing behind it: all of its log-probabilities."""
    answer = agent.post("/v1/completions", {"model": "tiny", "prompt": LONG[:40], "max_tokens": 0, "echo": True,
                                            "logprobs": 5})
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["logprobs"]


@pytest.fixture(scope="module")
def cpu_agent():
    starter = Starter()
    try:
        yield starter.agent(MODEL, *FLAGS, "--device", "cpu")
    finally:
        starter.stop()


@pytest.fixture(scope="module")
def wanted(cpu_agent):
    return ids_of(cpu_agent)


@pytest.mark.skipif(not MODULE.exists(), reason="this build has no emulated GPU")
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_tokens_of_the_cpu(start_agent, wanted, ranks):
    env = {"LM_CUDA_MODULE": str(MODULE), "LM_CUDA_EMU_DEVICES": "4"}
    agent = start_agent(*FLAGS, "--device", "cuda", "--tp", ranks, model=MODEL, env=env)
    assert "emulated GPU" in agent.log
    assert ids_of(agent) == wanted


@pytest.mark.skipif(not MODULE.exists(), reason="this build has no emulated GPU")
@pytest.mark.parametrize("ranks", [1, 2])
def test_steps_ahead(start_agent, wanted, ranks):
    """Steps that take their time: each next one begins while one runs, and the tokens stay."""
    env = {"LM_CUDA_MODULE": str(MODULE), "LM_CUDA_EMU_DEVICES": "2", "LM_CUDA_EMU_BUSY_US": "20000"}
    agent = start_agent(*FLAGS, "--device", "cuda", "--tp", ranks, model=MODEL, env=env)
    assert ids_of(agent) == wanted
    metrics = agent.metrics()
    assert 5 <= metrics["engine_steps_ahead_total"] < metrics["engine_steps_total"]  # of 24 tokens


def scores_of(agent):
    """A long prompt's ids, with log-probabilities to the last digit."""
    answer = agent.post("/v1/completions", {"model": "tiny", "prompt": LONG, "max_tokens": 6, "temperature": 0,
                                            "ignore_eos": True, "logprobs": 3})
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["logprobs"]


@pytest.mark.skipif(not MODULE.exists(), reason="this build has no emulated GPU")
def test_deterministic(start_agent):
    """Bit for bit, in a prompt's one step or in many: without the flag few rows and many differ. (Ranks: test_cuda_ranks.)"""
    env = {"LM_CUDA_MODULE": str(MODULE), "LM_CUDA_EMU_DEVICES": "4"}
    flags = ["--model-name", "tiny", "--session-len", 128, "--max-batch-size", 2, "--device", "cuda",
             "--deterministic"]
    at_once = start_agent(*flags, model=MODEL, env=env)
    in_parts = start_agent(*flags, "--max-prefill-token-num", 3, model=MODEL, env=env)
    assert "bfloat16, deterministic" in at_once.log
    assert scores_of(at_once) == scores_of(in_parts)


@pytest.mark.skipif(not MODULE.exists(), reason="this build has no emulated GPU")
def test_float16(start_agent, wanted):
    """On two ranks. Its rounding is far below these tokens' margins."""
    env = {"LM_CUDA_MODULE": str(MODULE), "LM_CUDA_EMU_DEVICES": "2"}
    agent = start_agent(*FLAGS[:-1], "float16", "--device", "cuda", "--tp", 2, model=MODEL, env=env)
    assert re.search("GiB, float16, sums", agent.log)
    assert ids_of(agent) == wanted


def end_of_agent(env, *flags):
    """An agent on two emulated GPUs that can't start: what it says. What a lost rank can reach is never freed."""
    done = subprocess.run([program("lm-agent"), str(MODEL), *map(str, FLAGS), "--device", "cuda", "--tp", "2",
                           "--server-port", "0", *flags], capture_output=True, text=True, timeout=60,
                          env={**os.environ, "LM_CUDA_MODULE": str(MODULE), "LM_CUDA_EMU_DEVICES": "2",
                               "ASAN_OPTIONS": "detect_leaks=0", **env})
    assert done.returncode == 1, done.stderr
    return done.stderr


@pytest.mark.skipif(not MODULE.exists(), reason="this build has no emulated GPU")
@pytest.mark.parametrize("env, flags, reason", [
    ({"LM_CUDA_EMU_MEMORY_1": "0"}, [], "rank 1: can't get 0 MiB for weights: out of memory"),
    ({"LM_CUDA_EMU_DEVICES": "1"}, [], "rank 1: no device 1: there are 1"),
    ({"LM_CUDA_EMU_NCCL_FAILS": "0"}, [], "NCCL, rank 0 of 2: unhandled system error"),
    ({"LM_CUDA_EMU_NCCL": "21805"}, [], "several GPUs need NCCL 2.19 or later; libnccl.so.2 is 2.18.5"),
    ({"LM_CUDA_EMU_HANGS": "1"}, ["--tp-timeout", "1"], "rank 1 did not answer the other ranks for 4 s"),
])
def test_a_rank_that_can_not_start(env, flags, reason):
    """The others don't wait for it, and the agent ends with its reason."""
    assert reason in end_of_agent(env, *flags)


@pytest.mark.skipif(not MODULE.exists(), reason="this build has no emulated GPU")
@pytest.mark.parametrize("ranks", [1, 2])
def test_sampled_tokens_of_the_cpu(start_agent, cpu_agent, ranks):
    env = {"LM_CUDA_MODULE": str(MODULE), "LM_CUDA_EMU_DEVICES": "2", "LM_CUDA_EMU_BUSY_US": "3000"}
    agent = start_agent(*FLAGS, "--device", "cuda", "--tp", ranks, model=MODEL, env=env)
    found, wanted = sampled_of(agent), sampled_of(cpu_agent)
    for fields, ours, cpus in zip(SAMPLED, found, wanted):
        assert [tokens_alone(c) for c in ours] == [tokens_alone(c) for c in cpus], fields
        for one, other in zip(ours, cpus):
            assert [p for _, p in one[2]] == pytest.approx([p for _, p in other[2]], rel=1e-4, abs=1e-4), fields
    ours, cpus = echo_of(agent), echo_of(cpu_agent)
    assert [list(at or {}) for at in ours["top_logprobs"]] == [list(at or {}) for at in cpus["top_logprobs"]]
    assert ours["tokens"] == cpus["tokens"] and len(ours["tokens"]) == 40
    assert ours["token_logprobs"][0] is None
    assert ours["token_logprobs"][1:] == pytest.approx(cpus["token_logprobs"][1:], rel=1e-4, abs=1e-4)


@pytest.mark.skipif(not MODULE.exists(), reason="this build has no emulated GPU")
@pytest.mark.parametrize("place", ["bin", "lib"])
def test_where_the_module_is(tmp_path, place):
    """Beside the program, or in ../lib."""
    for folder in ("bin", "lib"):
        (tmp_path / folder).mkdir()
    agent = shutil.copy(program("lm-agent"), tmp_path / "bin")
    shutil.copy(MODULE, tmp_path / place / "liblm-cuda.so")
    env = {name: value for name, value in os.environ.items() if name != "LM_CUDA_MODULE"}
    done = subprocess.run([agent, str(MODEL), "--device", "cuda", "--dry-run"], capture_output=True, text=True, timeout=60,
                          env=env)
    assert done.returncode == 0, done.stderr
    assert "emulated GPU" in done.stdout


def test_without_a_module(start_agent, tmp_path):
    """Asked for, a GPU that isn't there is an error that says why; else the CPU computes."""
    env = {"LM_CUDA_MODULE": str(tmp_path / "nothing.so")}
    agent = start_agent(*FLAGS, "--device", "auto", model=MODEL, env=env)
    assert "cpu" in agent.wait_log(r"\bready .*backend=\"([^\"]*)").group(1)
    lost = subprocess.run([program("lm-agent"), str(MODEL), "--server-port", "0", "--device", "cuda"],
                          capture_output=True, text=True, timeout=60, env={**os.environ, **env})
    assert lost.returncode == 1
    assert "backend 'cuda' can't be used" in lost.stderr and "nothing.so" in lost.stderr
