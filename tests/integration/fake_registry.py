"""A proxy as far as agents see one: it takes their beats and remembers them."""

import contextlib
import http.server
import json
import socket
import threading
import time


class Registry:
    def __init__(self, port=0, status=200):
        registry = self
        self.beats = []
        self.asked = []
        self.connections = []
        self.status = status

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self):
                super().setup()
                registry.connections.append(self.connection)

            def do_GET(self):
                registry.asked.append(self.path)
                self.answer(200, b"")

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                registry.beats.append((time.monotonic(), self.path, dict(self.headers), body))
                self.answer(registry.status, b'"Added successfully"')

            def answer(self, status, body):
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        class HttpServer(http.server.ThreadingHTTPServer):
            daemon_threads = True

        self.server = HttpServer(("127.0.0.1", port), Handler)
        self.port = self.server.server_port
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
