"""Whatever is asked, the answer is one of those that the API's description has."""
# ctest: PROCESSORS 1

import os
import re
import subprocess
import sys

import pytest

CHECKS = ("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_headers_conformance",
          "response_schema_conformance")


@pytest.mark.timeout(800)
def test_schemathesis(start_agent, tmp_path):
    """Made-up requests, good and bad, the same ones in every run."""
    agent = start_agent("--model-name", "smollm2", "--session-len", 256)
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": "schemathesis_hooks", "LM_TEST_MODEL_NAME": "smollm2",
                   "PYTHONPATH": os.path.dirname(os.path.abspath(__file__))}
    done = subprocess.run(
        [sys.executable, "-m", "schemathesis.cli", "run", agent.url + "/openapi.json", "--no-color",
         "--phases", "examples,coverage,fuzzing", "--generation-deterministic", "--max-examples", "4", "--workers", "1",
         "--continue-on-failure", "--request-timeout", "120", "--warnings", "off", "--checks", ",".join(CHECKS)],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=780)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert int(re.search(r"(\d+) generated, \1 passed", done.stdout).group(1)) > 500
    assert agent.is_running()
