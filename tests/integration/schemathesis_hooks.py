"""Loaded by schemathesis (SCHEMATHESIS_HOOKS): most of what it makes up should reach the engine, and none should keep
it busy for long."""

import os

import schemathesis

MODEL = os.environ["LM_TEST_MODEL_NAME"]
# Path -> the member that bounds its answers' length.
GENERATES = {"/v1/chat/completions": "max_tokens", "/v1/completions": "max_tokens",
             "/v1/chat/interactive": "request_output_len", "/v1/responses": "max_output_tokens",
             "/v1/messages": "max_tokens"}
MOST = {"max_tokens": 2, "max_completion_tokens": 2, "max_output_tokens": 2, "request_output_len": 2, "n": 2, "best_of": 2}


@schemathesis.hook
def before_call(context, case, kwargs):
    body = case.body
    if not isinstance(body, dict):
        return
    if isinstance(body.get("model"), str):
        body["model"] = MODEL
    length = GENERATES.get(case.operation.path)
    if length:
        body.setdefault(length, MOST[length])
        if isinstance(body.get("prompt"), list):
            body["prompt"] = body["prompt"][:4]
        for name, most in MOST.items():
            if isinstance(body.get(name), (int, float)) and most < body[name] < 1e6:
                body[name] = most
