"""Schemas of the public JSON Schema test suite: what lm-bench draws under each grammar is valid, by the jsonschema
package, and what the suite calls invalid is never drawn. Schemas that can't be enforced are refused, not ignored."""
# ctest: PROCESSORS 1

import json
import lzma
import pathlib
import subprocess

import pytest

from conftest import program

SUITE = pathlib.Path("/usr/share/json-schema-test-suite/tests")  # Debian's json-schema-test-suite
TOKENIZER = pathlib.Path(__file__).parents[1] / "fixtures/tokenizers/qwen2_5"
DRAFTS = {"draft4": "Draft4Validator", "draft6": "Draft6Validator", "draft7": "Draft7Validator"}
TEXTS = 4

jsonschema = pytest.importorskip("jsonschema")


def groups(draft):
    for path in sorted((SUITE / draft).glob("*.json")) + sorted((SUITE / draft / "optional").glob("*.json")):
        for group in json.loads(path.read_text()):
            yield path.stem, group


def draw(schemas, tmp_path):
    """Per schema {"texts": [...]} or {"error": ..., "code": ...}."""
    path = tmp_path / "schemas.jsonl"
    path.write_text("".join(json.dumps(schema, ensure_ascii=False) + "\n" for schema in schemas))
    packed = TOKENIZER / "tokenizer.json.xz"
    (tmp_path / "tokenizer.json").write_bytes(lzma.open(packed).read())
    (tmp_path / "tokenizer_config.json").write_bytes((TOKENIZER / "tokenizer_config.json").read_bytes())
    done = subprocess.run([program("lm-bench"), "grammar", str(tmp_path), str(path), "--texts", "--rounds", str(TEXTS),
                           "--max-tokens", "100"], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.skipif(not SUITE.is_dir(), reason="the package json-schema-test-suite isn't installed")
@pytest.mark.parametrize("draft", DRAFTS)
def test_suite(draft, tmp_path):
    validator_of = getattr(jsonschema, DRAFTS[draft])
    cases = list(groups(draft))
    results = draw([group["schema"] for _, group in cases], tmp_path)
    assert len(results) == len(cases)
    drawn, refused = 0, {}
    for (name, group), result in zip(cases, results):
        if "error" in result:
            refused.setdefault(result["code"], []).append(f"{name}: {group['description']}: {result['error']}")
            continue
        validator = validator_of(group["schema"])
        assert result["texts"], (name, group["description"])
        for text in result["texts"]:
            value = json.loads(text)
            drawn += 1
            assert validator.is_valid(value), (name, group["description"], group["schema"], text)
    assert set(refused) <= {"E_UNSUPPORTED", "E_INVALID", "E_LIMIT"}
    assert drawn > 0.6 * TEXTS * len(cases), (drawn, len(cases), refused)
    print(f"{draft}: {len(cases)} schemas, {drawn} texts, refused {({k: len(v) for k, v in refused.items()})}")
    for code in refused:
        print(*refused[code], sep="\n")
