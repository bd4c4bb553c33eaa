"""Reading source files: which files the tree has, C text without comments and strings, C functions.

No parser: brace depth and what stands before a brace are enough for this tree, whose style clang-format
fixes. The self-test pins what must be recognised."""

import ast
import os
import re
import subprocess

C_SUFFIXES = (".c", ".h", ".cu", ".cuh", ".cc")
SCRIPT_SUFFIXES = (".py", ".sh", ".cmake")
TEXT_SUFFIXES = (".md", ".yaml", ".yml", ".json", ".txt", ".lua", ".html", ".css", ".js")
SKIPPED_FOLDERS = {".git", "build", ".venv", "__pycache__", ".pytest_cache", "node_modules"}


class Function:
    def __init__(self, name, first, last, reason):
        self.name = name
        self.first = first  # line of the signature, from 1
        self.last = last  # line of the closing brace
        self.reason = reason  # text of a "tidy: long because" tag, or None

    def length(self):
        return self.last - self.first + 1


class Source:
    """One file. Texts are computed when asked for, and kept."""

    def __init__(self, root, path):
        self.path = path  # relative, with '/'
        self.name = path.rsplit("/", 1)[-1]
        with open(os.path.join(root, path), "rb") as file:
            self.bytes = file.read()
        self.text = self.bytes.decode("utf-8", "replace")
        self.lines = self.text.split("\n")
        if self.lines and self.lines[-1] == "":
            self.lines.pop()
        self._code = None

    def is_c(self):
        return self.path.endswith(C_SUFFIXES)

    def is_header(self):
        return self.path.endswith((".h", ".cuh"))

    def is_python(self):
        return self.path.endswith(".py") or self.text.startswith("#!/usr/bin/env python3")

    def is_script(self):
        return self.path.endswith(SCRIPT_SUFFIXES) or self.text.startswith("#!")

    def is_source(self):
        return self.is_c() or self.is_script() or self.name in ("CMakeLists.txt", "Dockerfile")

    def code(self):
        """C text with comments and the contents of strings blanked; same lines, same columns."""
        if self._code is None:
            self._code = blank_comments_and_strings(self.text)
        return self._code

    def includes(self):
        """(line, name, quoted) of each #include."""
        code = self.code().split("\n")
        for number, line in enumerate(self.lines, 1):
            if not re.match(r"\s*#\s*include\b", code[number - 1]):
                continue
            match = re.match(r'\s*#\s*include\s*(["<])([^">]+)[">]', line)
            if match:
                yield number, match.group(2), match.group(1) == '"'

    def functions(self):
        if self.is_c():
            return c_functions(self)
        return python_functions(self) if self.is_python() else []


def tree_files(root):
    """Paths of the tree's files: what git has or would add, else every file that is not built."""
    try:
        listing = subprocess.run(
            ["git", "-C", root, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            capture_output=True, check=True).stdout.decode()
        paths = [path for path in listing.split("\0") if path]
    except (OSError, subprocess.CalledProcessError):
        paths = walk(root)
    return sorted(path for path in paths
                  if os.path.isfile(os.path.join(root, path))
                  and not os.path.islink(os.path.join(root, path)))


def walk(root):
    paths = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in SKIPPED_FOLDERS]
        paths += [os.path.relpath(os.path.join(folder, name), root).replace(os.sep, "/")
                  for name in names]
    return paths


def looks_like_text(root, path):
    if path.endswith(C_SUFFIXES + SCRIPT_SUFFIXES + TEXT_SUFFIXES):
        return True
    if "." in path.rsplit("/", 1)[-1].lstrip("."):
        return False
    with open(os.path.join(root, path), "rb") as file:
        return b"\0" not in file.read(4096)


TOKEN = re.compile(r"""//(?:[^\n\\]|\\.|\\\n)*      # line comment
                     | /\*.*?(?:\*/|\Z)             # block comment
                     | "(?:[^"\\\n]|\\.|\\\n)*"?    # string
                     | '(?:[^'\\\n]|\\.|\\\n)*'?    # character
                     """, re.VERBOSE | re.DOTALL)


def blank_comments_and_strings(text):
    def blank(match):
        token = match.group(0)
        if token[0] in "\"'":  # keep the quotes: they end statements and initializers look right
            return token[0] + re.sub(r"[^\n]", " ", token[1:-1]) + token[-1] if len(token) > 1 else " "
        return re.sub(r"[^\n]", " ", token)
    return TOKEN.sub(blank, text)


def blank_directives(code):
    """Without preprocessor lines, and of each #if only the first branch: braces balance then."""
    lines, skip_depth, depth, continued = [], None, 0, False
    for line in code.split("\n"):
        directive = re.match(r"\s*#\s*(\w+)", line)
        if directive and not continued:
            word = directive.group(1)
            if word in ("if", "ifdef", "ifndef"):
                depth += 1
            elif word in ("else", "elif") and skip_depth is None:
                skip_depth = depth
            elif word == "endif":
                if skip_depth == depth:
                    skip_depth = None
                depth -= 1
        is_dropped = continued or directive is not None or skip_depth is not None
        continued = (continued or directive is not None) and line.endswith("\\")
        lines.append("" if is_dropped else line)
    return "\n".join(lines)


SIGNATURE_END = re.compile(r"\)\s*(?:const|noexcept|override|\s)*$")


def c_functions(source):
    code = blank_directives(source.code())
    functions, depth, start, line = [], 0, 0, 1
    opened = None  # (signature's text, its first line)
    for at, char in enumerate(code):
        if char == "\n":
            line += 1
        elif char == "{":
            if depth == 0:
                head = code[start:at]
                is_function = SIGNATURE_END.search(head) and "=" not in head.split("(")[0]
                opened = (head, line - head.lstrip().count("\n")) if is_function else None
            depth += 1
        elif char == "}":
            depth = max(0, depth - 1)
            if depth == 0:
                if opened:
                    functions.append(make_function(source, opened, line))
                opened, start = None, at + 1
        elif char == ";" and depth == 0:
            start = at + 1
    return functions


def make_function(source, opened, last):
    head, first = opened
    names = re.findall(r"(\w+)\s*\(", re.sub(r"__\w+__\s*\(\(.*?\)\)", "", head, flags=re.DOTALL))
    return Function(names[0] if names else "?", first, last, tag_above(source, first))


def tag_above(source, first):
    """The reason in a comment that ends on the line above the function, or None."""
    above = []
    for line in reversed(source.lines[max(0, first - 6):first - 1]):
        if not line.strip() or not re.match(r"\s*(/\*|\*|//|#)|.*\*/\s*$", line):
            break
        above.insert(0, line)
    match = re.search(r"tidy: long because\s+([^\s*][^*]*)", " ".join(above))
    return match.group(1).strip() if match else None


def python_functions(source):
    try:
        tree = ast.parse(source.text)
    except SyntaxError:
        return []  # whoever runs it will say so
    return [Function(node.name, node.lineno, node.end_lineno, tag_above(source, node.lineno))
            for node in ast.walk(tree)
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
