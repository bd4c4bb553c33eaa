"""A Hugging Face hub in miniature: the model API and file downloads with ranges. Files are given as bytes or
paths; a download can be cut after some bytes, and a token can be wanted."""

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
        siblings = [{"rfilename": file, "size": len(content(data))} for file, data in files.items()]
        return self.say(request, 200, json.dumps({"id": name, "sha": COMMIT, "siblings": siblings}).encode())

    def send(self, request, name, file):
        data = content(self.repositories[name][file])
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


def content(data):
    if isinstance(data, bytes):
        return data
    with open(os.fspath(data), "rb") as file:
        return file.read()
