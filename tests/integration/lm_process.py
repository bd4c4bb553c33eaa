"""Programs under test as objects: started on a free port, watched, ended.

A program says where it listens in its log line `... ready url=http://127.0.0.1:PORT ...` on stderr."""

import os
import re
import signal
import subprocess
import threading
import time

import httpx

READY_URL = re.compile(r"\bready url=https?://(\S+):(\d+)")
COMPLAINTS = re.compile(r"AddressSanitizer|LeakSanitizer|ThreadSanitizer|runtime error:|CHECK\(.*failed|out of memory:")
READY_S = 90  # a sanitizer build loads slowly on a busy machine


class ProcessError(Exception):
    pass


class Process:
    """One running program. Its stderr is collected by a thread, so it never blocks on a full pipe."""

    def __init__(self, path, *arguments, env=None, name=None):
        self.name = name or os.path.basename(path)
        self.lines = []
        self.changed = threading.Condition()
        self.expect_status = 0  # what stop() wants; None: whatever
        self.stopped = False
        self.started_at = time.monotonic()
        self.popen = subprocess.Popen([path, *map(str, arguments)], stdin=subprocess.DEVNULL,
                                      stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                                      errors="replace", env={**os.environ, **(env or {})})
        self.reader = threading.Thread(target=self.read_log, daemon=True)
        self.reader.start()

    def read_log(self):
        for line in self.popen.stderr:
            with self.changed:
                self.lines.append(line)
                self.changed.notify_all()
        with self.changed:
            self.lines.append("")  # the end
            self.changed.notify_all()

    @property
    def log(self):
        with self.changed:
            return "".join(self.lines)

    def is_running(self):
        return self.popen.poll() is None

    def wait_log(self, pattern, timeout=READY_S, count=1):
        """Wait for `count` lines that match; returns the last match."""
        deadline = time.monotonic() + timeout
        pattern = re.compile(pattern)
        with self.changed:
            while True:
                found = [m for m in map(pattern.search, self.lines) if m]
                if len(found) >= count:
                    return found[count - 1]
                ended = bool(self.lines) and self.lines[-1] == ""
                left = deadline - time.monotonic()
                if ended or left <= 0:
                    why = "ended" if ended else f"said nothing of the kind within {timeout} s"
                    raise ProcessError(f"{self.name} {why}: {pattern.pattern}\n{''.join(self.lines)}")
                self.changed.wait(left)

    def signal(self, number=signal.SIGTERM):
        self.popen.send_signal(number)

    def wait(self, timeout=30):
        """Wait for the end; returns the exit status."""
        try:
            status = self.popen.wait(timeout)
        except subprocess.TimeoutExpired:
            raise ProcessError(f"{self.name} did not end within {timeout} s\n{self.log}") from None
        self.reader.join(timeout=5)
        return status

    def kill(self):
        """kill -9, as a lost machine would."""
        self.expect_status = None
        self.popen.kill()
        self.wait()

    def stop(self, timeout=30):
        """End it as an operator would, and complain about what it left behind. Once is enough."""
        if self.stopped:
            return
        self.stopped = True
        if self.is_running():
            self.signal()
        try:
            status = self.wait(timeout)
        except ProcessError:
            self.popen.kill()
            self.popen.wait(timeout)
            raise
        finally:
            self.save_log()
        if self.expect_status is not None and status != self.expect_status:
            raise ProcessError(f"{self.name} ended with {status}\n{self.log}")
        if COMPLAINTS.search(self.log):
            raise ProcessError(f"{self.name} complained\n{self.log}")

    def save_log(self):
        folder = os.environ.get("LM_TEST_LOG")
        if folder:
            with open(os.path.join(folder, f"{self.name}-{self.popen.pid}.log"), "w") as file:
                file.write(self.log)


class Server(Process):
    """lm-agent or lm-proxy on a port of its own choice."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.port = None
        self.trust = None  # an ssl.SSLContext: it serves https

    def wait_ready(self, timeout=READY_S):
        match = self.wait_log(READY_URL, timeout)
        self.port = int(match.group(2))
        self.ready_after = time.monotonic() - self.started_at
        return self

    @property
    def url(self):
        return f"{'https' if self.trust else 'http'}://127.0.0.1:{self.port}"

    def get(self, path, **kwargs):
        return httpx.get(self.url + path, timeout=60, verify=self.trust or True, **kwargs)

    def post(self, path, body, **kwargs):
        return httpx.post(self.url + path, json=body, timeout=120, verify=self.trust or True, **kwargs)

    def post_raw(self, path, text, headers):
        return httpx.post(self.url + path, content=text.encode(), timeout=120,
                          headers={"content-type": "application/json", **headers})

    def stream(self, path, body, headers):
        return httpx.stream("POST", self.url + path, json=body, headers=headers, timeout=120)

    def metrics(self):
        """The metrics without labels, by name without the program's prefix."""
        values = {}
        for line in self.get("/metrics").text.splitlines():
            if not line.startswith("#") and "{" not in line:
                name, value = line.split()
                values[re.sub(r"^lm_(agent|proxy)_", "", name)] = float(value)
        return values

    def wait_metric(self, name, test, timeout=30):
        """Wait until test(value) is true; returns the seconds that it took."""
        begin = time.monotonic()
        while not test(self.metrics()[name]):
            if time.monotonic() - begin > timeout:
                raise ProcessError(f"{self.name}: {name} stays {self.metrics()[name]}")
            time.sleep(0.01)
        return time.monotonic() - begin
