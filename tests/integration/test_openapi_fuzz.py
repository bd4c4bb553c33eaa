"""Whatever is asked, the answer is one of those that the API's description has."""
# ctest: PROCESSORS 1

import os
import re
import subprocess
import sys

import pytest

CHECKS = ("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_headers_conformance",
          "response_schema_conformance")
# Those that change the fleet; a node that can't be reached is a true 502.
LEFT_OUT = "^/nodes/(add|remove|terminate)"


@pytest.fixture
def small_agent(start_agent):
    """small_agent(*flags) -> one whose answers can't get long"""
    return lambda *flags: start_agent("--model-name", "smollm2", "--session-len", 256, "--embedding", "mean",
                                      "--enable-abort-handling", *flags)


@pytest.mark.timeout(430)
@pytest.mark.parametrize("behind_proxy, phases, least", [(False, "examples,coverage,fuzzing", 500),
                                                         (True, "examples,fuzzing", 50)], ids=["agent", "proxy"])
def test_schemathesis(small_agent, start_proxy, tmp_path, behind_proxy, phases, least):
    """Made-up requests, good and bad, the same ones in every run. What a proxy passes on the agent has answered
    in all its variants: fewer will do there."""
    if behind_proxy:
        server = start_proxy()
        agent = small_agent("--proxy-url", server.url)
        server.wait_metric("agents_up", lambda value: value == 1, 60)
    else:
        server = agent = small_agent()
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": "schemathesis_hooks", "LM_TEST_MODEL_NAME": "smollm2",
                   "PYTHONPATH": os.path.dirname(os.path.abspath(__file__))}
    done = subprocess.run(
        [sys.executable, "-m", "schemathesis.cli", "run", server.url + "/openapi.json", "--no-color",
         "--phases", phases, "--generation-deterministic", "--max-examples", "3", "--workers", "1",
         "--continue-on-failure", "--request-timeout", "120", "--warnings", "off", "--exclude-path-regex", LEFT_OUT,
         "--checks", ",".join(CHECKS)],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=420)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert int(re.search(r"(\d+) generated, \1 passed", done.stdout).group(1)) > least
    assert agent.is_running() and server.is_running()
