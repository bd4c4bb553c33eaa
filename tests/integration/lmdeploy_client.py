"""LMDeploy's own files, unmodified, of release 0.6.5: its client, lmdeploy/serve/openai/api_client.py, and the
server whose registration test_lmdeploy_node.py runs.

Each is read out of the wheel on PyPI (or the index of PIP_INDEX_URL) by ranges, checked, and kept in the cache. The
client is imported alone: of the rest of the package it wants only a logger.
"""

import functools
import hashlib
import http.client
import importlib.util
import io
import json
import logging
import os
import pathlib
import sys
import tempfile
import types
import urllib.parse
import urllib.request
import zipfile

import pytest

PROJECT, WHEEL = "lmdeploy", "lmdeploy-0.6.5-cp38-cp38-win_amd64.whl"
CLIENT = "lmdeploy/serve/openai/api_client.py"
CHECKSUMS = {
    CLIENT: "b95700c68d1ad94f86780a4d4935f0e3b23e1be16c778bd96f0141917a8e5a7f",
    "lmdeploy/serve/openai/api_server.py": "1e86ed541aaac899f5decb8a0f3d57ae8538a41d0fdcfc76631ed9c0f2f11238",
}
TIMEOUT_S = 20


class RemoteFile(io.RawIOBase):
    """A file on a server that answers ranges, as zipfile wants it."""

    def __init__(self, url):
        self.url, self.at = url, 0
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=TIMEOUT_S) as answer:
            self.size = int(answer.headers["content-length"])

    def seekable(self):
        return True

    def readable(self):
        return True

    def seek(self, offset, whence=io.SEEK_SET):
        self.at = {io.SEEK_SET: 0, io.SEEK_CUR: self.at, io.SEEK_END: self.size}[whence] + offset
        return self.at

    def tell(self):
        return self.at

    def readinto(self, buffer):
        end = min(self.at + len(buffer), self.size)
        if self.at >= end:
            return 0
        request = urllib.request.Request(self.url, headers={"Range": f"bytes={self.at}-{end - 1}"})
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            if answer.status != 206:
                raise OSError(f"{self.url} doesn't answer ranges")
            data = answer.read(end - self.at)
        buffer[:len(data)] = data
        self.at += len(data)
        return len(data)


def wheel_url():
    index = os.environ.get("PIP_INDEX_URL", "https://pypi.org/simple").rstrip("/")
    page = f"{index}/{PROJECT}/"
    request = urllib.request.Request(page, headers={"Accept": "application/vnd.pypi.simple.v1+json"})
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
        for file in json.load(answer)["files"]:
            if file["filename"] == WHEEL:
                return urllib.parse.urljoin(page, file["url"])
    raise OSError(f"{page} has no {WHEEL}")


def cache_path(member):
    cache = os.environ.get("LM_CACHE_DIR") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "lm-cluster")
    return pathlib.Path(cache) / "lmdeploy-0.6.5" / os.path.basename(member)


def is_right(member, text):
    return hashlib.sha256(text).hexdigest() == CHECKSUMS[member]


def fetch(member=CLIENT):
    """The file's path, fetched if need be; if it can't be had, the test is skipped."""
    path = cache_path(member)
    if path.exists() and is_right(member, path.read_bytes()):
        return path
    failure = try_to_fetch(member, path)
    if failure:
        pytest.skip(f"{member} of LMDeploy can't be had: {failure}")
    return path


@functools.cache  # nobody waits twice for what doesn't answer
def try_to_fetch(member, path):
    try:
        fetch_into(member, path)
    except OSError as failure:
        return str(failure)
    return None


def fetch_into(member, path):
    try:
        with zipfile.ZipFile(io.BufferedReader(RemoteFile(wheel_url()), 1 << 16)) as wheel:
            text = wheel.read(member)
    except (ValueError, KeyError, zipfile.BadZipFile, http.client.HTTPException) as failure:
        raise OSError(f"{WHEEL}: {failure}") from failure
    if not is_right(member, text):
        raise OSError(f"{member} of {WHEEL} isn't the one that the tests know")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as part:
        part.write(text)
    os.replace(part.name, path)


def load():
    """The module api_client; if it can't be had, the test is skipped."""
    path = fetch()
    utils = types.ModuleType("lmdeploy.utils")
    utils.get_logger = logging.getLogger
    sys.modules.setdefault("lmdeploy", types.ModuleType("lmdeploy"))
    sys.modules.setdefault("lmdeploy.utils", utils)
    spec = importlib.util.spec_from_file_location("lmdeploy_api_client", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
