"""Tests of the checks: each bad sample is a tiny tree in which one check must find one thing at one
place, and everything else must find nothing. A check that can't fail is worth nothing."""

import os
import shutil
import subprocess
import sys
import tempfile

import tidy_checks

HEADER = "#ifndef LM_{0}_H\n#define LM_{0}_H\n\n{1}#endif\n"
BODY = "    x++;\n"
STYLE = "BasedOnStyle: LLVM\nIndentWidth: 4\nBreakBeforeBraces: Linux\nAllowShortFunctionsOnASingleLine: None\n"


def header(name, text=""):
    return HEADER.format(name, text and text + "\n")


def function(name, lines):
    """A function of that many lines in all."""
    return f"void {name}(int x)\n{{\n" + BODY * (lines - 3) + "}\n"


# A tree in which nothing is wrong, with what looks wrong and isn't.
GOOD = {
    ".clang-format": STYLE,
    "shared/base/buf.h": header("BASE_BUF", "struct buf {\n    int len;\n};\n"),
    "shared/base/banned.h": header("BASE_BANNED", "#pragma GCC poison strcpy atoi // buf_append, str_to_int"),
    "shared/base/json.c": "#include <cjson/cJSON.h>\n",
    "shared/net/loop.c": '#include "shared/base/buf.h"\n\n#include <uv.h>\n',
    "kernels/backend.h": header("BACKEND"),
    "kernels/cpu/cpu_pool.h": header("CPU_POOL"),
    "kernels/cpu/cpu_pool.c": '#include "kernels/cpu/cpu_pool.h"\n\n#include "kernels/backend.h"\n',
    "engine/engine.h": header("ENGINE"),
    "engine/engine.c": '#include "engine/engine.h"\n\n#include "kernels/backend.h"\n\n#include <pcre2.h>\n',
    "agent/agent_main.c": '#include "engine/engine.h"\n#include "shared/base/buf.h"\n',
    "tests/test.h": header("TEST"),
    "tests/unit/base/test_buf.c": '#include "shared/base/buf.h"\n\n#include "kernels/cpu/cpu_pool.h"\n',
    "engine/tables.c": "/* tidy: long because it is one table */\n" + function("table", 120)
                       + "\n" + function("edge", 70),
    "engine/words.c": "/* atoi() in a comment, \"strcpy(\" */\nstatic const char *text = \"atoi(1) // typedef struct\";\n\n"
                      "int my_atoi(int x)\n{\n    return x;\n}\n",
    "scripts/run": "#!/bin/sh\nmktemp /tmp/lm-XXXXXX\nls build/work/ ~/work/\n"
                   "# tidy: path because it lies in the image that this script makes\nls /root/x\n",
}

# name, check, files that make it bad, path and line of the one finding, a word of its text
BAD = [
    ("long file", "length", {"engine/big.c": "int x;\n" * 1201}, "engine/big.c", 1201, "split"),
    ("long function", "length", {"engine/big.c": "int x;\n\n" + function("f", 71)}, "engine/big.c", 3, "f() has 71"),
    ("long function, static and wrapped", "length",
     {"engine/big.c": "static struct a *\nf(int a,\n  int b)\n{\n" + BODY * 70 + "}\n"}, "engine/big.c", 1, "f() has 75"),
    ("long function behind an #else", "length",
     {"engine/big.c": "#if A\nint f(void)\n{\n#else\nint f(int x)\n{\n#endif\n" + BODY * 90 + "}\n"},
     "engine/big.c", 2, "f() has"),
    ("tag without a reason", "length",
     {"engine/big.c": "/* tidy: long because */\n" + function("f", 71)}, "engine/big.c", 2, "f() has"),
    ("tag of another function", "length",
     {"engine/big.c": "/* tidy: long because table */\nint x;\n" + function("f", 71)}, "engine/big.c", 3, "f() has"),
    ("too long even with a tag", "length",
     {"engine/big.c": "/* tidy: long because table */\n" + function("f", 121)}, "engine/big.c", 2, "even with"),
    ("long Python function", "length",
     {"tests/x.py": "def f():\n" + "    pass\n" * 70}, "tests/x.py", 1, "f() has 71"),
    ("proxy sees engine", "includes", {"proxy/peek.c": '#include "engine/engine.h"\n'}, "proxy/peek.c", 1, "proxy/"),
    ("engine sees libuv", "includes", {"engine/e.c": "\n#include <uv.h>\n"}, "engine/e.c", 2, "uv.h"),
    ("engine sees the network", "includes",
     {"shared/net/sse.h": header("NET_SSE"), "engine/e.c": '#include "shared/net/sse.h"\n'}, "engine/e.c", 1, "engine/"),
    ("engine sees a CPU kernel", "includes",
     {"engine/e.c": '#include "kernels/cpu/cpu_pool.h"\n'}, "engine/e.c", 1, "engine/"),
    ("agent sees the kernels", "includes",
     {"agent/a.c": '#include "kernels/backend.h"\n'}, "agent/a.c", 1, "agent/"),
    ("base sees net", "includes",
     {"shared/net/sse.h": header("NET_SSE"), "shared/base/a.c": '#include "shared/net/sse.h"\n'},
     "shared/base/a.c", 1, "shared/base/"),
    ("code sees tests", "includes", {"client/c.c": '#include "tests/test.h"\n'}, "client/c.c", 1, "client/"),
    ("cJSON elsewhere", "includes", {"agent/a.c": "#include <cjson/cJSON.h>\n"}, "agent/a.c", 1, "cJSON"),
    ("hiredis elsewhere", "includes", {"proxy/p.c": "#include <hiredis/async.h>\n"}, "proxy/p.c", 1, "hiredis"),
    ("llhttp elsewhere", "includes", {"proxy/p.c": "#include <llhttp.h>\n"}, "proxy/p.c", 1, "llhttp"),
    ("pcre2 elsewhere", "includes", {"agent/a.c": "#include <pcre2.h>\n"}, "agent/a.c", 1, "pcre2"),
    ("relative include", "includes", {"engine/e.c": '#include "engine.h"\n'}, "engine/e.c", 1, "full path"),
    ("own header not first", "includes",
     {"engine/e.h": header("E"), "engine/e.c": '#include "shared/base/buf.h"\n#include "engine/e.h"\n'},
     "engine/e.c", 1, "first"),
    ("same name twice", "names", {"proxy/engine.c": "int x;\n"}, "proxy/engine.c", 1, "engine/engine.c"),
    ("no guard", "guards", {"engine/e.h": "int e(void);\n"}, "engine/e.h", 1, "#ifndef"),
    ("guard of another name", "guards", {"engine/e.h": header("ENGINE_F")}, "engine/e.h", 1, "#ifndef"),
    ("typing error in the guard", "guards",
     {"engine/e.h": "#ifndef LM_E_H\n#define LM_EE_H\n\nint e(void);\n\n#endif\n"}, "engine/e.h", 2, "must follow"),
    ("comment behind the guard", "guards",
     {"engine/e.h": header("E").replace("#endif", "#endif // LM_E_H")}, "engine/e.h", 4, "#endif"),
    ("guard used twice", "guards",
     {"engine/e.h": header("E"), "agent/e.h": header("E")}, "engine/e.h", 1, "agent/e.h"),
    ("banned call", "words", {"engine/e.c": "int x;\nint y = atoi(x);\n"}, "engine/e.c", 2, "str_to_int"),
    ("banned call, spaced", "words", {"engine/e.c": "void f(void)\n{\n    strcpy (a, b);\n}\n"}, "engine/e.c", 3, "buf_append"),
    ("alloca", "words", {"engine/e.c": "char *p = alloca(3);\n"}, "engine/e.c", 1, "arena_alloc"),
    ("typedef", "words", {"engine/e.c": "typedef struct foo foo;\n"}, "engine/e.c", 1, "typedef"),
    ("open end", "words", {"engine/e.c": "int x; // TODO later\n"}, "engine/e.c", 1, "TODO"),
    ("open end in a script", "words", {"scripts/s": "#!/bin/sh\n# FIXME\n"}, "scripts/s", 2, "FIXME"),
    ("path of a machine", "words", {"docs/a.md": "see\n`/home/me/x`\n"}, "docs/a.md", 2, "/home/"),
    ("path with an empty tag", "words", {"docs/a.md": "/home/me/x tidy: path because\n"}, "docs/a.md", 1, "/home/"),
    ("header that needs another", "headers",
     {"engine/e.h": header("E", "size_t e(void);")}, "engine/e.h", 4, "size_t"),
    ("unformatted", "format", {"engine/e.c": "int x;\nint  y;\n"}, "engine/e.c", 2, "clang-format"),
]


def write_tree(root, files):
    for path, text in files.items():
        full = os.path.join(root, path)
        os.makedirs(os.path.dirname(full), exist_ok=True)
        with open(full, "w", encoding="utf-8") as file:
            file.write(text)


def findings_of(files, check):
    """(findings, skipped) of one check on a tree of these files."""
    root = tempfile.mkdtemp(prefix="lm-tidy-")
    try:
        write_tree(root, files)
        tree = tidy_checks.Tree(root)
        return tidy_checks.CHECKS[check](tree), tree.skipped
    finally:
        shutil.rmtree(root)


def good_sample_errors():
    errors, skipped = [], []
    for check in tidy_checks.CHECKS:
        files = GOOD
        if check == "format":  # the samples are written for brevity, not for the formatter
            files = {".clang-format": STYLE, "engine/e.c": "int x;\n"}
        findings, not_done = findings_of(files, check)
        errors += [f"good sample: {check} finds {finding}" for finding in findings]
        skipped += not_done
    return errors, skipped


def bad_sample_error(sample):
    """(error or None, whether the check could not run here)."""
    name, check, files, path, line, word = sample
    findings, skipped = findings_of({**GOOD, **files}, check) if check != "format" else findings_of(
        {".clang-format": STYLE, **files}, check)
    if skipped:
        return None, True
    if [(finding.path, finding.line) for finding in findings] != [(path, line)] or word not in findings[0].text:
        return f"{name}: expected one finding at {path}:{line} with '{word}', got {findings}", False
    return None, False


DOC = "# Options\n\n<!-- options:lm-x -->\n{}<!-- /options -->\n"


def docs_errors():
    """docs_in_sync.py on a document and a program that prints a table."""
    root = tempfile.mkdtemp(prefix="lm-tidy-")
    script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "docs_in_sync.py")
    document, program = os.path.join(root, "docs", "a.md"), os.path.join(root, "bin", "lm-x")
    errors = []

    def expect(what, status, *arguments):
        done = subprocess.run([sys.executable, script, os.path.join(root, "bin"), "--root", root, *arguments],
                              capture_output=True, text=True)
        if done.returncode != status:
            errors.append(f"docs, {what}: exit status {done.returncode}, expected {status}: {done.stdout}")

    try:
        write_tree(root, {"bin/lm-x": "#!/bin/sh\necho '| --a | A |'\n", "docs/b.md": "no table\n"})
        os.chmod(program, 0o755)
        expect("no table at all", 77)
        write_tree(root, {"docs/a.md": DOC.format("\n| --a | B |\n\n")})
        expect("an old table", 1)
        expect("rewriting", 0, "--fix")
        expect("a rewritten table", 0)
        with open(document, encoding="utf-8") as file:
            if file.read() != DOC.format("\n| --a | A |\n\n"):
                errors.append("docs: --fix wrote something else")
        write_tree(root, {"docs/a.md": "<!-- options:lm-x -->\n| --a | A |\n"})
        expect("no end marker", 1)
        write_tree(root, {"docs/a.md": DOC.format("")})
        os.remove(program)
        expect("no such program", 77)
    finally:
        shutil.rmtree(root)
    return errors


def run():
    errors, skipped = good_sample_errors()
    idle = 0
    for sample in BAD:
        error, was_skipped = bad_sample_error(sample)
        idle += was_skipped
        if error:
            errors.append(error)
    errors += docs_errors()
    for error in errors:
        print("FAIL " + error)
    for text in skipped:
        print("skipped: " + text)
    unproven = set(tidy_checks.CHECKS) - {sample[1] for sample in BAD}
    if unproven:
        errors.append("no bad sample")
        print("FAIL checks with no bad sample: " + ", ".join(sorted(unproven)))
    print(f"self-test: {len(BAD)} bad samples, {idle} skipped, {len(errors)} errors")
    return 1 if errors else 0
