"""A Hugging Face hub in miniature: the model API and file downloads with ranges. Files are given as bytes or
paths; a download can be cut after some bytes or damaged, and a token can be wanted. Files of a name that the real
one keeps as large ones (LFS) are listed with their SHA-256, the others with git's name alone."""

import hashlib
import http.server
import json
import os
import threading
import urllib.parse

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub:
    def __init__(self):
        self.repositories = {}  # "OWNER/NAME" -> {file name: bytes or path}
        self.token = None       # that requests must show
        self.cuts = []          # of the next downloads: bytes after which the connection ends
        self.damage = {}        # file name -> offset: its byte there is sent wrong, until it's taken out
        self.requests = []      # (path, range)
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_GET(self):
                hub.answer(self)

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def answer(self, request):
        path = urllib.parse.urlsplit(request.path).path
        self.requests.append((path, request.headers.get("range")))
        if self.token and request.headers.get("authorization") != f"Bearer {self.token}":
            return self.say(request, 401, b"no")
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"] and parts[4:5] == ["revision"]:
            return self.describe(request, "/".join(parts[2:4]), parts[5])
        if len(parts) >= 5 and parts[2] == "resolve" and parts[3] == COMMIT:
            return self.send(request, "/".join(parts[:2]), "/".join(parts[4:]))
        return self.say(request, 404, b"nothing here")

    def describe(self, request, name, revision):
        files = self.repositories.get(name)
        if files is None or revision not in ("main", COMMIT):
            return self.say(request, 404, b"no such repository")
        siblings = [listed(file, content(data)) for file, data in files.items()]
        return self.say(request, 200, json.dumps({"id": name, "sha": COMMIT, "siblings": siblings}).encode())

    def send(self, request, name, file):
        data = content(self.repositories[name][file])
        if file in self.damage:
            at = self.damage[file]
            data = data[:at] + bytes([data[at] ^ 1]) + data[at + 1:]
        begin = int((request.headers.get("range") or "bytes=0-")[6:].split("-")[0])
        if begin >= len(data) and begin > 0:
            return self.say(request, 416, b"")
        request.send_response(206 if begin else 200)
        if begin:
            request.send_header("content-range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
        request.send_header("content-length", str(len(data) - begin))
        request.end_headers()
        end = begin + self.cuts.pop(0) if self.cuts else len(data)
        request.wfile.write(data[begin:end])
        if end < len(data):
            request.close_connection = True
            request.connection.close()

    @staticmethod
    def say(request, status, body):
        request.send_response(status)
        request.send_header("content-length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)


def listed(name, data):
    """A file as the API lists it with blobs=true."""
    entry = {"rfilename": name, "size": len(data)}
    if name.endswith((".gguf", ".safetensors")):
        pointer = f"version 1\noid sha256:{hashlib.sha256(data).hexdigest()}\nsize {len(data)}\n".encode()
        entry["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": len(pointer)}
        entry["blobId"] = git_name(pointer)
    else:
        entry["blobId"] = git_name(data)
    return entry


def git_name(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def content(data):
    if isinstance(data, bytes):
        return data
    with open(os.fspath(data), "rb") as file:
        return file.read()
