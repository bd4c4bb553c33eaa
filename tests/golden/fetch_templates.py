#!/usr/bin/env python3
"""Fetch the chat templates of other projects that templates/peers.json.xz has answers for.

    fetch_templates.py PEERS_JSON_XZ FOLDER

They come out of a source archive on PyPI (or the index of PIP_INDEX_URL); nothing is built or run, and only
texts with the checksum that the answers were made from are kept, as FOLDER/NAME.jinja. What is there already
isn't fetched again. Exit 1, with one line on stderr, if some can't be had.
"""

import hashlib
import json
import lzma
import os
import pathlib
import sys
import tarfile
import tempfile
import urllib.parse
import urllib.request

PROJECT, ARCHIVE = "llama-cpp-python", "llama_cpp_python-0.3.36.tar.gz"
MEMBERS = "/vendor/llama.cpp/models/templates/"
MEMBER_MAX = 1 << 20
TIMEOUT_S = 60


def missing(wanted, folder):
    """Names whose text isn't in the folder yet."""
    def sum_of(name):
        try:
            return hashlib.sha256((folder / f"{name}.jinja").read_bytes()).hexdigest()
        except OSError:
            return None
    return {name for name, checksum in wanted.items() if sum_of(name) != checksum}


def archive_url():
    index = os.environ.get("PIP_INDEX_URL", "https://pypi.org/simple").rstrip("/")
    page = f"{index}/{PROJECT}/"
    request = urllib.request.Request(page, headers={"Accept": "application/vnd.pypi.simple.v1+json"})
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
        for file in json.load(answer)["files"]:
            if file["filename"] == ARCHIVE:
                return urllib.parse.urljoin(page, file["url"])
    raise OSError(f"{page} has no {ARCHIVE}")


def keep(text, path):
    """Under its final name only when it is whole."""
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as part:
        part.write(text)
    os.replace(part.name, path)


def fetch(wanted, names, folder):
    """Reads the archive as it comes, until nothing is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    with urllib.request.urlopen(archive_url(), timeout=TIMEOUT_S) as answer, \
            tarfile.open(fileobj=answer, mode="r|gz") as archive:
        for member in archive:
            name = pathlib.PurePosixPath(member.name).stem
            if MEMBERS not in member.name or name not in names or not 0 < member.size <= MEMBER_MAX:
                continue
            text = archive.extractfile(member).read()
            if hashlib.sha256(text).hexdigest() == wanted[name]:
                keep(text, folder / f"{name}.jinja")
                names.discard(name)
            if not names:
                return


def main(argv):
    if len(argv) != 3:
        sys.exit(__doc__)
    folder = pathlib.Path(argv[2])
    with lzma.open(argv[1]) as f:
        wanted = {name: entry["sha256"] for name, entry in json.load(f)["templates"].items()}
    names = missing(wanted, folder)
    try:
        if names:
            fetch(wanted, names, folder)
    except (OSError, tarfile.TarError, ValueError, EOFError) as e:
        sys.exit(f"fetch_templates: {len(names)} of {len(wanted)} templates are missing: {e}")
    if names:
        sys.exit(f"fetch_templates: {ARCHIVE} lacks {len(names)} templates, {sorted(names)[0]} among them")


if __name__ == "__main__":
    main(sys.argv)
