"""The checks. Each takes a Tree and returns a list of Finding; what it could not do goes to
tree.skipped. A finding says what to do, not only what is wrong."""

import collections
import concurrent.futures
import functools
import glob
import os
import re
import shutil
import subprocess
import tempfile

import tidy_source

Finding = collections.namedtuple("Finding", "path line text")

FILE_LINES_MAX = 1200
FUNCTION_LINES_MAX = 70
LONG_FUNCTION_LINES_MAX = 120

# Folder -> what its files may include: folders end in '/', files don't.
KERNEL_LINE = ["kernels/backend.h", "kernels/sample.h", "kernels/tensor.h", "kernels/quant.h"]
ARROWS = {
    "shared/base/": ["shared/base/"],
    "shared/net/": ["shared/net/", "shared/base/"],
    "shared/web/": ["shared/web/", "shared/net/", "shared/base/"],
    "shared/api/": ["shared/api/", "shared/web/", "shared/net/", "shared/base/"],
    "kernels/": ["kernels/", "shared/base/"],
    "engine/": ["engine/", "shared/base/"] + KERNEL_LINE,
    "agent/": ["agent/", "engine/", "shared/api/", "shared/web/", "shared/net/", "shared/base/"],
    "proxy/": ["proxy/", "shared/api/", "shared/web/", "shared/net/", "shared/base/"],
    "client/": ["client/", "shared/net/", "shared/base/"],
    "tests/": ["tests/", "agent/", "proxy/", "client/", "engine/", "kernels/", "shared/"],
}

# Third-party header (regular expression) -> files that may include it (regular expression).
THIRD_PARTY = [
    (r"(cjson/)?cJSON\.h", r"shared/base/json\.c"),
    (r"hiredis/.*", r"shared/net/redis_\w+\.[ch]"),
    (r"llhttp\.h", r"shared/net/.*"),
    (r"(uv\.h|uv/.*)", r"(shared/net|agent|proxy|client|tests)/.*"),
    (r"pcre2\w*\.h", r"engine/.*"),
    (r"openssl/.*", r"shared/net/.*|tests/unit/net/tls_test\.h|tests/bench/bench_(tls|proxy_\w+)\.c"),
    (r"(histedit|editline/.*|readline/.*)(\.h)?", r"client/.*"),
    (r"(cuda\w*|cublas\w*|nccl\w*)\.h(pp)?", r"(kernels/cuda|tests/kernels)/.*"),
]

PATH_TAG = re.compile(r"tidy: path because\s+\w")

BANNED_BESIDES_THE_LIST = {"alloca": "arena_alloc"}


class Tree:
    def __init__(self, root, include_folders=()):
        self.root = root
        self.include_folders = list(include_folders)
        self.paths = tidy_source.tree_files(root)
        self.sources = [tidy_source.Source(root, path) for path in self.paths
                        if tidy_source.looks_like_text(root, path)]
        self.known = set(self.paths)
        self.skipped = []  # texts: what was not checked, and why

    def c_sources(self):
        return [source for source in self.sources if source.is_c()]

    def headers(self):
        return [source for source in self.sources if source.is_header()]


def check_length(tree):
    """Files of at most 1200 lines, functions of at most 70 (120 with a tag)."""
    findings = []
    for source in tree.sources:
        if not source.is_source():
            continue
        if len(source.lines) > FILE_LINES_MAX:
            findings.append(Finding(source.path, FILE_LINES_MAX + 1,
                                    f"file of {len(source.lines)} lines; split it, {FILE_LINES_MAX} are the most"))
        for function in source.functions():
            findings += function_length(source, function)
    return findings


def function_length(source, function):
    length = function.length()
    if length > LONG_FUNCTION_LINES_MAX:
        return [Finding(source.path, function.first, f"{function.name}() has {length} lines; "
                        f"split it, even with a tag {LONG_FUNCTION_LINES_MAX} are the most")]
    if length > FUNCTION_LINES_MAX and not function.reason:
        return [Finding(source.path, function.first, f"{function.name}() has {length} lines; split it, or if it "
                        "is one switch or table say so above it: /* tidy: long because ... */")]
    return []


def arrow_allows(path, included):
    folder = next((name for name in ARROWS if path.startswith(name)), None)
    if folder is None:
        return True
    # The CPU's instruction-set kernels are nobody's business outside kernels/ and its tests.
    if included.startswith("kernels/cpu/") and not path.startswith(("kernels/", "tests/")):
        return False
    return any(included.startswith(target) if target.endswith("/") else included == target
               for target in ARROWS[folder])


def check_includes(tree):
    """Includes follow the arrows of docs/architecture.md; own header first; full paths."""
    findings = []
    for source in tree.c_sources():
        first = True
        own = re.sub(r"\.(c|cu)$", ".h", source.path)
        for line, name, quoted in source.includes():
            if quoted:
                findings += project_include(tree, source, line, name)
                if first and own != source.path and own in tree.known and name != own:
                    findings.append(Finding(source.path, line, f'include the own header "{own}" first: '
                                            "that proves it needs nothing before it"))
                first = False
            else:
                findings += third_party_include(source, line, name)
    return findings


def project_include(tree, source, line, name):
    if any(re.fullmatch(header, name) for header, _ in THIRD_PARTY):
        return third_party_include(source, line, name)
    if name not in tree.known:
        return [Finding(source.path, line, f'"{name}" is no file of the tree; quoted includes give the '
                        "full path from the root, others stand in <>")]
    if not arrow_allows(source.path, name):
        folder = next(folder for folder in ARROWS if source.path.startswith(folder))
        return [Finding(source.path, line, f'{folder} must not include "{name}" (CONTRIBUTING.md, "Where '
                        'things are"); go through what it may include: ' + " ".join(ARROWS[folder]))]
    return []


def third_party_include(source, line, name):
    for header, allowed in THIRD_PARTY:
        if re.fullmatch(header, name) and not re.fullmatch(allowed, source.path):
            return [Finding(source.path, line, f"<{name}> belongs to {allowed} only; use that module")]
    return []


def check_names(tree):
    """File names are unique over the tree (x.c beside its x.h is one name)."""
    by_name = collections.defaultdict(list)
    for source in tree.sources:
        if source.path.endswith(tidy_source.C_SUFFIXES + (".py",)) and source.name not in (
                "__init__.py", "conftest.py"):
            by_name[source.name].append(source.path)
    return [Finding(path, 1, f"the name {name} is taken by {paths[0]}; names are unique, so that a name "
                    "alone finds the file")
            for name, paths in by_name.items() for path in paths[1:]]


def check_guards(tree):
    """#ifndef LM_..._NAME_H, the same #define, a bare #endif at the end."""
    findings, seen = [], {}
    for source in tree.headers():
        tail = re.sub(r"\W", "_", source.name).upper()
        code = [(number, line.strip()) for number, line in enumerate(source.code().split("\n"), 1)
                if line.strip()]
        opening = re.fullmatch(r"#ifndef (LM_\w+)", code[0][1]) if code else None
        guard = opening.group(1) if opening else None
        if not guard or not guard.endswith("_" + tail):
            findings.append(Finding(source.path, code[0][0] if code else 1,
                                    f"begin with the guard #ifndef LM_<FOLDER>_{tail}"))
            continue
        if len(code) < 3 or code[1][1] != f"#define {guard}":
            findings.append(Finding(source.path, code[1][0] if len(code) > 1 else 1,
                                    f"#define {guard} must follow its #ifndef"))
        if source.lines[-1].strip() != "#endif":
            findings.append(Finding(source.path, len(source.lines),
                                    "end with the guard's #endif, with nothing behind it"))
        if guard in seen:
            findings.append(Finding(source.path, code[0][0], f"{guard} is also the guard of {seen[guard]}"))
        seen[guard] = source.path
    return findings


def check_words(tree):
    """No TODO, FIXME or XXX, no paths of one machine, no typedef'd structs, no banned calls."""
    findings = []
    banned = banned_calls(tree)
    for source in tree.sources:
        if source.path.startswith("tests/tidy/"):
            continue  # it names what it forbids
        for number, line in enumerate(source.lines, 1):
            findings += plain_words(source, number, line)
        if source.is_c():
            findings += c_words(source, banned)
    return findings


def plain_words(source, number, line):
    marker = re.search(r"\b(TODO|FIXME|XXX)\b", line) if source.is_source() else None
    if marker:
        return [Finding(source.path, number, f"{marker.group(1)}: do it now or leave it out")]
    machine = re.search(r"(?<![\w.~/}-])/(work|root|home)/", line)
    above = source.lines[number - 2] if number > 1 else ""
    if machine and not PATH_TAG.search(line) and not PATH_TAG.search(above):
        return [Finding(source.path, number, f"{machine.group(0)} is a path of one machine; find it at run "
                        "time or take it as an argument; if it is the path inside a machine that we make, "
                        "say so on the line or above it: tidy: path because ...")]
    return []


def banned_calls(tree):
    """{name: what to use instead}, from shared/base/banned.h."""
    banned = dict(BANNED_BESIDES_THE_LIST)
    for source in tree.sources:
        if source.path == "shared/base/banned.h":
            for line in source.lines:
                match = re.match(r"#pragma GCC poison ([\w ]+?)\s*//\s*(.*)", line)
                if match:
                    banned.update((name, match.group(2)) for name in match.group(1).split())
    return banned


def c_words(source, banned):
    findings = []
    calls = re.compile(r"(?<![\w.>])(" + "|".join(map(re.escape, sorted(banned))) + r")\s*\(")
    for number, line in enumerate(source.code().split("\n"), 1):
        for match in calls.finditer(line):
            findings.append(Finding(source.path, number,
                                    f"{match.group(1)}() is banned; use {banned[match.group(1)]}"))
        if re.match(r"\s*typedef\s+(struct|union|enum)\b", line):
            findings.append(Finding(source.path, number, "no typedef on a struct, union or enum: "
                                    "write the keyword where it is used"))
    return findings


@functools.lru_cache(None)
def package_flags():
    if not shutil.which("pkg-config"):
        return []
    flags = []
    for package in ("libuv", "hiredis", "libssl", "libcrypto", "libpcre2-8", "libcjson", "libedit"):  # one may be missing
        found = subprocess.run(["pkg-config", "--cflags", package], capture_output=True, text=True)
        flags += found.stdout.split()
    return flags


def compiler_flags(tree, path):
    folders = [tree.root] + tree.include_folders
    folders += glob.glob("/usr/share/include/llhttp")  # where Debian's node-llhttp puts it
    flags = [f"-I{folder}" for folder in folders] + package_flags()
    if "avx512" in path:
        flags += ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vnni"]
    if "avx2" in path or "avx512" in path:
        flags += ["-mavx2", "-mfma", "-mf16c"]
    return flags


def language_flags(tree, path):
    """Headers of the CUDA backend are C++, read here as the emulated device reads them."""
    if not path.startswith("kernels/cuda/"):
        return ["-std=gnu11"]
    return ["-xc++", "-std=c++20", "-DLM_CUDA_EMULATED=1", f"-I{os.path.join(tree.root, 'tests/kernels/cuda_emu')}"]


def compile_alone(tree, compiler, header):
    """A Finding, the name of a third-party header that is missing, or None."""
    with tempfile.NamedTemporaryFile("w", suffix=".c") as unit:
        unit.write(f'#include "{header.path}"\n')
        unit.flush()
        done = subprocess.run(
            [compiler, *language_flags(tree, header.path), "-fsyntax-only", "-Wall", "-Wextra", "-Werror",
             "-D_GNU_SOURCE", '-DLM_VERSION="0"', *compiler_flags(tree, header.path), unit.name],
            capture_output=True, text=True)
    if done.returncode == 0:
        return None
    missing = re.search(r"fatal error: ([^:]+): No such file", done.stderr)
    if missing and any(re.fullmatch(pattern, missing.group(1)) for pattern, _ in THIRD_PARTY):
        return missing.group(1)
    error = next((text for text in done.stderr.split("\n") if "error" in text), done.stderr.strip())
    place = re.match(r"(?:.*/)?" + re.escape(header.path) + r":(\d+)", error)
    return Finding(header.path, int(place.group(1)) if place else 1,
                   "does not compile alone; include what it uses: " + error.split("error: ")[-1])


def check_headers(tree):
    """Every header compiles alone."""
    compiler = shutil.which("gcc") or shutil.which("cc") or shutil.which("clang")
    headers = [source for source in tree.headers() if source.path.endswith(".h")]
    if not compiler:
        tree.skipped.append(f"headers: no C compiler, {len(headers)} headers not compiled")
        return []
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        results = list(pool.map(lambda header: compile_alone(tree, compiler, header), headers))
    for header, result in zip(headers, results):
        if isinstance(result, str):
            tree.skipped.append(f"headers: {header.path}, <{result}> is not installed")
    return [result for result in results if isinstance(result, Finding)]


def find_clang_format():
    """Version 14, as in Debian 12: other versions format some lines differently."""
    for name in ("clang-format-14", "clang-format"):
        path = shutil.which(name)
        if path:
            version = subprocess.run([path, "--version"], capture_output=True, text=True).stdout
            if re.search(r"version 14\.", version):
                return path
    return None


def check_format(tree):
    """C files are as clang-format 14 writes them."""
    sources = tree.c_sources()
    formatter = find_clang_format()
    if not formatter:
        tree.skipped.append(f"format: no clang-format 14, {len(sources)} files not checked")
        return []
    findings = []
    for source in unformatted(tree, formatter, sources):
        done = subprocess.run([formatter, "--style=file", f"--assume-filename={source.path}"],
                              input=source.bytes, capture_output=True, cwd=tree.root)
        if done.returncode != 0 or done.stdout == source.bytes:
            continue
        want = done.stdout.decode("utf-8", "replace").split("\n")
        line = next((number for number, (have, good) in enumerate(zip(source.text.split("\n"), want), 1)
                     if have != good), len(source.lines))
        findings.append(Finding(source.path, line, f"run clang-format -i {source.path}"))
    return findings


def unformatted(tree, formatter, sources):
    """Those of them that it would change, or can't read: many files a process, most of whose time is its start."""
    found = []
    for first in range(0, len(sources), 64):
        batch = sources[first:first + 64]
        done = subprocess.run([formatter, "--style=file", "--dry-run", *[source.path for source in batch]],
                              capture_output=True, text=True, errors="replace", cwd=tree.root)
        named = set(re.findall(r"^(\S+?):\d+:\d+: ", done.stderr, re.MULTILINE))
        rest = [source for source in batch if source.path in named]
        found += rest if rest or (done.returncode == 0 and not done.stderr) else batch
    return found


CHECKS = {
    "length": check_length,
    "includes": check_includes,
    "names": check_names,
    "guards": check_guards,
    "words": check_words,
    "headers": check_headers,
    "format": check_format,
}
