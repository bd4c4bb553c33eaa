"""lm-client at a terminal (a pty): commands, editing, history, Ctrl-C, what reaches the screen."""

import errno
import os
import pathlib
import pty
import re
import select
import signal
import time

import pytest
from fake_openai import FakeOpenai

CLIENT = pathlib.Path(os.environ.get("LM_BIN_DIR", "build/check/bin")) / "lm-client"
PROMPT = ">>> "
CTRL_C, CTRL_D, UP, LEFT, BACKSPACE = "\x03", "\x04", "\x1b[A", "\x1b[D", "\x7f"


class Terminal:
    """lm-client (or another program) on a pty of its own, with the screen's text so far."""

    def __init__(self, *arguments, home, locale="C.UTF-8", program=CLIENT):
        self.text = ""
        self.seen = 0
        environment = {k: v for k, v in os.environ.items()
                       if not k.startswith(("LM_CLIENT_", "LC_", "XDG_", "LANG"))}
        environment.update(HOME=str(home), TERM="xterm", LANG=locale)
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execve(program, [str(program), *arguments], environment)

    def read_more(self, timeout):
        ready, _, _ = select.select([self.fd], [], [], timeout)
        if not ready:
            return False
        try:
            data = os.read(self.fd, 65536)
        except OSError as e:
            if e.errno != errno.EIO:
                raise
            data = b""
        self.text += data.decode(errors="replace")
        return bool(data)

    def expect(self, wanted, timeout=60):
        """Wait for a text after the last one expected; returns what stood between."""
        deadline = time.monotonic() + timeout
        while (at := self.text.find(wanted, self.seen)) < 0:
            left = deadline - time.monotonic()
            assert left > 0, f"no {wanted!r} in {self.text[self.seen:]!r}"
            assert self.read_more(left) or self.text.find(wanted, self.seen) >= 0, \
                f"ended without {wanted!r}: {self.text[self.seen:]!r}"
        between = self.text[self.seen:at]
        self.seen = at + len(wanted)
        return between

    def send(self, keys):
        os.write(self.fd, keys.encode())

    def say(self, line):
        """Type a line at the prompt and return what the program printed until the next prompt."""
        self.send(line + "\r")
        self.expect("\n")
        return plain(self.expect(PROMPT))

    def wait(self, timeout=60):
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            while self.read_more(0.02):
                pass
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.pid = None
                return os.waitstatus_to_exitcode(status)
        raise AssertionError(f"still running: {self.text[self.seen:]!r}")

    def close(self):
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.fd)


def plain(text):
    """Without our own dimming, the editor's cursor movements and line ends' CRs."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r", "").strip()


@pytest.fixture
def server():
    with FakeOpenai() as fake:
        yield fake


@pytest.fixture
def terminal(server, tmp_path):
    t = Terminal(server.url, home=tmp_path)
    t.expect(PROMPT)
    yield t
    t.close()


def test_greeting_names_model_and_server(server, terminal):
    assert f"fake-model at {server.url}" in terminal.text


def test_turns_carry_the_conversation(server, terminal):
    assert terminal.say("hello there") == "hello there"
    assert terminal.say("again please") == "again please"
    assert server.requests[1]["messages"] == [
        {"role": "user", "content": "hello there"},
        {"role": "assistant", "content": "hello there"},
        {"role": "user", "content": "again please"}]


def test_a_person_may_think(server, terminal):
    """Longer than a connect may take: the wait for the next answer begins with its question."""
    assert terminal.say("one") == "one"
    time.sleep(5.5)
    assert terminal.say("two") == "two"


def test_reset_forgets(server, terminal):
    terminal.say("one")
    terminal.say("/reset")
    terminal.say("two")
    assert [m["content"] for m in server.requests[1]["messages"]] == ["two"]


def test_model_lists_and_switches(server, terminal):
    listing = terminal.say("/model")
    assert re.search(r"^\* fake-model\n +other-model$", listing, re.M)
    assert "other-model" in terminal.say("/model oth")
    terminal.say("hi")
    assert server.requests[0]["model"] == "other-model"
    assert "no such model" in terminal.say("/model nope")


def test_help_unknown_commands_and_blank_lines(server, terminal):
    help_text = terminal.say("/help")
    for command in ("/model", "/reset", "/exit", "/help"):
        assert command in help_text
    assert "unknown command" in terminal.say("/nonsense")
    assert terminal.say("") == ""
    assert terminal.say("   ") == ""
    assert server.requests == []
    assert terminal.say(" /reset is what I typed") != ""
    assert server.requests[0]["messages"][0]["content"] == " /reset is what I typed"


def test_a_backslash_continues_the_line(server, terminal):
    terminal.send("first\\\r")
    terminal.expect("... ")
    terminal.say("second")
    assert server.requests[0]["messages"][0]["content"] == "first\nsecond"


@pytest.mark.parametrize("leave", ["/exit\r", "/quit\r", CTRL_D, CTRL_C])
def test_ways_to_leave(terminal, leave):
    terminal.send(leave)
    assert terminal.wait() == 0


def test_ctrl_c_with_text_only_drops_the_line(server, terminal):
    terminal.send("never mind")
    terminal.expect("never mind")
    terminal.send(CTRL_C)
    terminal.expect(PROMPT)
    assert terminal.say("still here") == "still here"
    assert len(server.requests) == 1


def test_ctrl_c_cancels_the_answer_and_forgets_the_turn(server, terminal):
    terminal.send("forever\r")
    terminal.expect("and on and on")
    terminal.send(CTRL_C)
    terminal.expect("stopped")
    terminal.expect(PROMPT)
    assert server.client_left.wait(10)
    assert terminal.say("hi") == "hi"
    assert [m["content"] for m in server.requests[1]["messages"]] == ["hi"]
    terminal.send(CTRL_C)
    assert terminal.wait() == 0


def test_errors_leave_the_conversation_going(server, terminal):
    assert "I will not say that" in terminal.say("refuse")
    assert "cut off" in terminal.say("cut")
    assert "the engine lost a device" in terminal.say("failing")
    assert terminal.say("fine") == "fine"
    assert [m["content"] for m in server.requests[-1]["messages"]] == ["fine"]


def test_length_is_remarked(terminal):
    assert "token limit" in terminal.say("length")


def test_editing_keys(server, terminal):
    terminal.say("helo" + LEFT + "l" + "x" + BACKSPACE)
    assert server.requests[0]["messages"][0]["content"] == "hello"


def test_arrow_up_brings_lines_back_also_in_the_next_run(server, terminal, tmp_path):
    terminal.say("remember me")
    terminal.say(UP)
    assert server.requests[1]["messages"][-1]["content"] == "remember me"
    terminal.send(CTRL_D)
    assert terminal.wait() == 0
    history = tmp_path / ".local/state/lm-client/history"
    assert history.stat().st_mode & 0o777 == 0o600
    again = Terminal(server.url, home=tmp_path)
    try:
        again.expect(PROMPT)
        again.say(UP)
        assert server.requests[2]["messages"][-1]["content"] == "remember me"
    finally:
        again.close()


def test_no_history_file_when_not_wanted(server, tmp_path):
    t = Terminal("--history-file=", server.url, home=tmp_path)
    try:
        t.expect(PROMPT)
        t.say("secret")
        t.send(CTRL_D)
        assert t.wait() == 0
    finally:
        t.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("locale", ["C.UTF-8", "C", "xx_YY.nonsense"])
def test_typing_beyond_ascii(server, tmp_path, locale):
    t = Terminal(server.url, home=tmp_path, locale=locale)
    try:
        t.expect(PROMPT)
        t.say("grüße 你好 🙂" + BACKSPACE + "!")
    finally:
        t.close()
    assert server.requests[0]["messages"][0]["content"] == "grüße 你好 !"


def test_escape_sequences_of_a_model_are_shown_not_obeyed(terminal):
    terminal.send("escape\r")
    terminal.expect("\n")
    shown = terminal.expect("end")
    assert "^[[31m" in shown and "^[]0;gotcha^G" in shown and "\\u009b2J" in shown
    assert "\x1b[31m" not in shown and "\x1b]" not in shown


def test_the_terminal_is_restored(server, tmp_path):
    import termios
    t = Terminal(server.url, home=tmp_path)
    try:
        before = termios.tcgetattr(t.fd)
        t.expect(PROMPT)
        t.send("/exit\r")
        assert t.wait() == 0
        assert termios.tcgetattr(t.fd)[:4] == before[:4]
    finally:
        t.close()


def test_unreachable_server_ends_at_once(tmp_path):
    t = Terminal("127.0.0.1:1", home=tmp_path)
    try:
        assert t.wait() == 1
        assert "refused" in t.text
    finally:
        t.close()
