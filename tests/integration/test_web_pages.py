"""/chat and /dashboard in a browser, and how the files of both are served."""
# ctest: PROCESSORS 1

import os
import re

import httpx
import pytest

from browser_page import ChatPage, Page, browser  # noqa: F401
from conftest import ROOT
from fake_openai import FakeOpenai
from proxy_fixtures import fakes, serve, wait_until, wait_up  # noqa: F401

WEB = os.path.join(ROOT, "shared", "web")
SIZE_MAX = 150_000
PAGE_TYPES = (".html", ".css", ".js", ".svg")
ENTER, ESCAPE, SHIFT, TAB = "\ue007", "\ue00c", "\ue008", "\ue004"


def web_files():
    return sorted(name for name in os.listdir(WEB) if name.endswith(PAGE_TYPES))


def paths_of(name):
    return "/" + name.removesuffix(".html") if name.endswith(".html") else "/web/" + name


@pytest.fixture
def chat(browser):
    """chat(server, **options) -> ChatPage, whose console must stay clean."""
    pages = []

    def open_page(url, wait=True, **options):
        page = ChatPage(browser, url, **options)
        pages.append(page)
        if wait:
            page.wait_model()
        return page
    yield open_page
    for page in pages[-1:]:
        page.check_log()


@pytest.fixture
def node(serve):
    """(a scripted server, a proxy in front of it, which has the pages)"""
    with FakeOpenai(models=["m"]) as fake:
        proxy = serve("--node", fake.url)
        wait_until(lambda: proxy.metrics()["agents_up"] == 1, 60, "the node up")
        yield fake, proxy


# ---- files ----

def test_all_is_small():
    sizes = {name: os.path.getsize(os.path.join(WEB, name)) for name in web_files()}
    assert len(sizes) > 10
    assert sum(sizes.values()) < SIZE_MAX, sizes


def test_pages_hold_no_script_of_their_own():
    for name in web_files():
        with open(os.path.join(WEB, name)) as file:
            text = file.read()
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text), name
        assert not re.search(r"(src|href)=\"(https?:)?//|@import|url\(", text), name
        if name.endswith(".html"):
            assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=", text), name


def test_every_file_is_served(server):
    for name in web_files():
        with open(os.path.join(WEB, name), "rb") as file:
            wanted = file.read()
        path = paths_of(name)
        plain = server.get(path, headers={"accept-encoding": "identity"})
        if name == "dashboard.html" and plain.status_code == 404:
            assert server.get("/lm/status").status_code == 404  # an agent has none
            continue
        assert plain.status_code == 200 and plain.content == wanted, path
        assert "content-encoding" not in plain.headers
        packed = server.get(path, headers={"accept-encoding": "gzip"})
        assert packed.headers["content-encoding"] == "gzip" and packed.content == wanted
        assert int(packed.headers["content-length"]) < len(wanted)
        assert packed.headers["content-type"] == plain.headers["content-type"]
        policy = packed.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy
        assert packed.headers["x-content-type-options"] == "nosniff"
        again = server.get(path, headers={"if-none-match": packed.headers["etag"]})
        assert again.status_code == 304 and again.content == b""


# ---- chats ----

def told(server, messages):
    """What the model answers to the same, asked directly: (text, tokens, finish reason)"""
    body = {"model": "smollm2", "messages": messages, "temperature": 0, "max_tokens": 12}
    answer = server.post("/v1/chat/completions", body).json()
    choice = answer["choices"][0]
    return choice["message"]["content"], answer["usage"]["completion_tokens"], choice["finish_reason"]


def shown(page):
    return [(a["content"], a["stats"]["tokens"], a["finish"]) for a in page.answers]


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def settle(page, **fields):
    for name, value in {"temperature": 0, "max_tokens": 12, **fields}.items():
        page.set("#" + name, value)


def test_chat_round_trip(chat, server):
    page = chat(server.url)
    settle(page, system="You are brief.")
    system = {"role": "system", "content": "You are brief."}
    page.ask("Tell me of the sea.")
    first = told(server, [system, user("Tell me of the sea.")])
    assert shown(page) == [first] and first[1:] == (12, "length")
    stats = page.texts(".stats")[0]
    assert re.match(r"\d+ tokens · [\d.]+ tokens/s · first after [\d.]+ m?s · ", stats), stats
    page.wait_text(".note", "Cut at the length limit.")

    page.ask("And another one?")
    second = told(server, [system, user("Tell me of the sea."), assistant(first[0]), user("And another one?")])
    assert shown(page) == [first, second]

    page.press("Regenerate")
    page.wait_answer()
    assert page.questions == ["Tell me of the sea.", "And another one?"]
    assert shown(page) == [first, second]

    # The first message is changed: what came behind it is gone.
    page.press("Edit", ".message:nth-of-type(1)")
    area = page.find(".editor textarea")
    area.clear()
    area.send_keys("Name a fruit." + ENTER)
    page.wait_answer()
    assert page.questions == ["Name a fruit."]
    assert shown(page) == [told(server, [system, user("Name a fruit.")])]

    # It is all there after a reload, and in the list.
    page.driver.refresh()
    page.wait(lambda: page.questions == ["Name a fruit."], "the conversation again")
    assert page.texts("#conversations .open span") == ["Name a fruit."]
    page.press("Branch")
    page.wait(lambda: len(page.all("#conversations li")) == 2, "a branch")
    page.press("✕", "#conversations li.current")
    page.wait(lambda: len(page.all("#conversations li")) == 1 and not page.questions, "it deleted")


def test_sampling_is_what_the_settings_say(chat, node):
    fake, proxy = node
    page = chat(proxy.url)
    for name, value in {"temperature": 0.5, "top_p": 0.25, "max_tokens": 7, "seed": 42,
                        "extra": '{"top_k": 3}', "system": "Be kind."}.items():
        page.set("#" + name, value)
    page.ask("repeat after me")
    body = fake.requests[-1]
    assert {k: body[k] for k in ("model", "temperature", "top_p", "max_tokens", "seed", "top_k")} == {
        "model": "m", "temperature": 0.5, "top_p": 0.25, "max_tokens": 7, "seed": 42, "top_k": 3}
    assert body["messages"] == [{"role": "system", "content": "Be kind."}, user("repeat after me")]
    for name in ("temperature", "top_p", "max_tokens", "seed", "extra", "system"):
        page.set("#" + name, "")
    page.press("+ New chat")
    page.ask("repeat this")
    assert set(fake.requests[-1]) == {"model", "messages", "stream", "stream_options"}
    page.set("#extra", "[1]")
    page.ask("repeat that")
    page.wait_text(".error", "not a JSON object")
    assert len(fake.requests) == 2


def test_stop(chat, node):
    fake, proxy = node
    page = chat(proxy.url)
    page.ask("forever", wait=False)
    page.wait_text(".message.live", "and on and on")
    page.click("#stop")
    page.wait_answer()
    assert fake.client_left.wait(60)
    page.wait_text(".note", "Stopped.")
    assert "and on" in page.answers[-1]["content"]

    fake.client_left.clear()
    page.ask("forever and ever", wait=False)
    page.wait(lambda: len(page.texts(".message.assistant")) == 2 and any("and on" in text for text in page.texts(".message.live")), "text")
    page.find("#input").send_keys(ESCAPE)
    page.wait_answer()
    assert fake.client_left.wait(60)


def test_failures_are_told(chat, node):
    _, proxy = node
    page = chat(proxy.url, expect_errors=("status of 400", "ERR_INCOMPLETE_CHUNKED_ENCODING", "status of 502"))
    for text, wanted in (("failing", "the engine lost a device"), ("refuse", "I will not\nsay that"),
                         ("unfinished", "the connection was lost")):
        page.ask(text)
        page.wait(lambda: any(wanted in e for e in page.texts(".error")), wanted)
        page.press("+ New chat")
    page.ask("whole answer")
    assert page.answers[-1]["content"] == "in one piece"
    page.press("+ New chat")
    page.ask("refuse")
    page.press("Try again")
    page.wait_answer()
    assert page.questions == ["refuse"] and len(page.texts(".error")) == 1


def test_storage_is_bounded(chat, agent):
    page = chat(agent.url)
    kept = page.driver.execute_async_script("""
        const done = arguments[0];
        import("./web/store.js").then(({ loadConversations, newConversation, saveConversation }) => {
          const put = (n, text) => {
            const made = { ...newConversation("chat", ""), title: String(n), updated: n };
            made.messages.push({ role: "user", content: text });
            return saveConversation(made);
          };
          const titles = () => loadConversations().map((c) => c.title);
          for (let n = 1; n <= 205; n++) put(n, "x");
          const many = titles();
          const all = [put(300, "y".repeat(3 << 20)), put(301, "z".repeat(2 << 20))];
          all.push(put(302, "w".repeat(20 << 20)));
          localStorage.setItem("lm-chat:broken", "{");
          localStorage.setItem("lm-chat:other", "[1]");
          done([many, all, titles()]);
        });""")
    assert kept == [[str(n) for n in range(205, 5, -1)], [True, True, False], kept[2]]
    assert "301" in kept[2] and "300" not in kept[2] and "302" not in kept[2]


# ---- what models write ----

HOSTILE = """<script>window.pwned = 1</script><img src=x onerror="window.pwned = 1">

[a](javascript:window.pwned=1) [b](JaVaScRiPt:window.pwned=1) [c](data:text/html,<script>1</script>)
![d](javascript:window.pwned=1) <javascript:window.pwned=1> [e](vbscript:x) [f](//evil.example/x) [g](\tjavascript:x)
[h](https://good.example/"onmouseover="window.pwned=1) <a href="javascript:window.pwned=1">i</a>

```html"><script>window.pwned = 1</script>
</code></pre><script>window.pwned = 1</script>
```

| <b onclick=x>j</b> | `<i>` |
|---|---|
| <svg onload="window.pwned = 1"> | <iframe src="javascript:window.pwned=1"></iframe> |

[ok](https://good.example/page?a=1&b=2) https://bare.example/x. mail@me <mailto:a@b.example>
"""


def test_text_stays_text(chat, node):
    fake, proxy = node
    page = chat(proxy.url)
    fake.deltas = [{"role": "assistant", "reasoning_content": HOSTILE}, *({"content": part} for part in
                   re.findall(r"(?s).{1,7}", HOSTILE)),
                   {"tool_calls": [{"index": 0, "function": {"name": HOSTILE, "arguments": HOSTILE}}]}]
    page.paste("deltas " + HOSTILE)
    page.ask("")
    page.driver.refresh()
    page.wait_text(".message.assistant", "ok")
    assert page.js("return window.pwned ?? null") is None
    names = set(page.js("return [...document.querySelectorAll('#thread *')].map((e) => e.localName)"))
    assert not names & {"script", "img", "iframe", "svg", "object", "embed", "style", "link", "form", "base", "meta"}
    attributes = set(page.js("return [...document.querySelectorAll('#thread *')].flatMap((e) => e.getAttributeNames())"))
    assert not [name for name in attributes if name.startswith("on") or name in ("style", "src", "srcdoc")], attributes
    links = page.js("return [...document.querySelectorAll('#thread a')].map((a) => [a.href, a.rel, a.target])")
    assert links and all(re.match(r"https://(good|bare)\.example/|mailto:a@b\.example$", href) for href, _, _ in links), links
    assert all("noopener" in rel and target == "_blank" for _, rel, target in links)
    assert "https://bare.example/x" in [href for href, _, _ in links]
    assert "window.pwned = 1" in page.texts(".message.assistant > .body")[0]  # shown, as text


OUTLINE = """
const [text, done] = arguments;
import("./web/markdown.js").then(({ Rendered }) => {
  const outline = (node) => node.nodeType === 3 ? node.data
    : `(${node.localName} ${[...node.childNodes].map(outline).join("")})`;
  const parent = document.createElement("div");
  new Rendered(parent).set(text);
  done([...parent.childNodes].map(outline).join(""));
}, (error) => done(String(error)));
"""

MARKDOWN = [
    ("plain", "(p plain)"),
    ("a\nb\n\nc", "(p a(br )b)(p c)"),
    ("**b** *i* ***bi*** __b__ _i_ ~~d~~", "(p (strong b) (em i) (em (strong bi)) (strong b) (em i) (del d))"),
    ("**a *b* c** 2*3*4 snake_case_name", "(p (strong a (em b) c) 2(em 3)4 snake_case_name)"),
    ("**open *and `*code*` \\*not\\*", "(p **open *and (code *code*) *not*)"),
    ("``a ` b`` and `open", "(p (code a ` b) and `open)"),
    ("# One\n## Two ##\n#no", "(h3 One)(h4 Two)(p #no)"),
    ("- a\n- b\n  - c\n    - d\n- e", "(ul (li a)(li b(ul (li c(ul (li d)))))(li e))"),
    ("3. a\n4. b\n\ntext", "(ol (li a)(li b))(p text)"),
    ("1. a\n\n   more\n\n2. b", "(ol (li (p a)(p more))(li (p b)))"),
    ("- [x] done\n- [ ] open", "(ul (li (input )done)(li (input )open))"),
    ("> a\n> - b\n\nc", "(blockquote (p a)(ul (li b)))(p c)"),
    ("a\n\n---\n\nb", "(p a)(hr )(p b)"),
    ("|a|b|\n|-|:-:|\n|1|2 \\| 3|\nend",
     "(div (table (thead (tr (th a)(th b)))(tbody (tr (td 1)(td 2 | 3)))))(p end)"),
    ("[t **b**](https://x.example/a_(b)) <https://y.example/>",
     "(p (a t (strong b)) (a https://y.example/))"),
    ("see https://x.example/a_b_c, ok", "(p see (a https://x.example/a_b_c), ok)"),
    ("a<br>b &lt;c&gt; <d>", "(p a(br )b <c> <d>)"),
    ("", ""),
]


def test_what_gets_in_does_not_run(chat, agent, serve):
    """The second wall: even an element that were made of a text runs nothing and asks nobody else."""
    other = serve()
    assert other.get("/health", headers={"origin": agent.url}).headers["access-control-allow-origin"] == "*"
    page = chat(agent.url, expect_errors=("Content Security Policy",))
    page.js("""for (const tag of ['script', 'style']) {
        const made = document.createElement(tag);
        made.textContent = tag === 'script' ? 'window.pwned = 1' : 'body { color: rgb(1, 2, 3) !important }';
        document.body.append(made);
      }
      const image = new Image();
      document.body.append(image);
      image.setAttribute('onerror', 'window.pwned = 1');
      image.src = 'data:,broken';
      const frame = document.createElement('iframe');
      frame.src = 'javascript:parent.pwned = 1';
      document.body.append(frame);""")
    ask = "fetch(arguments[0]).then((r) => arguments[1](r.status), (e) => arguments[1](e.message))"
    assert page.driver.execute_async_script(ask, agent.url + "/health") == 200
    assert page.driver.execute_async_script(ask, other.url + "/health") == "Failed to fetch"
    page.wait(lambda: page.js("return document.querySelector('img').complete"), "the image to fail")
    assert page.js("return window.pwned ?? null") is None
    assert page.js("return getComputedStyle(document.body).color") != "rgb(1, 2, 3)"


def test_markdown(chat, agent):
    page = chat(agent.url)
    for text, wanted in MARKDOWN:
        assert page.driver.execute_async_script(OUTLINE, text) == wanted, text
    code = page.driver.execute_async_script(OUTLINE, "x\n```python\nif a:  # c\n    b(\"d\")\n```\ny\n~~~\nopen")
    assert re.sub(r"\(span ([^()]*)\)", r"\1", code).startswith("(p x)(figure (figcaption (span"[:20])
    plain = re.sub(r"\((?:span|pre|code) ?", "", code).replace(")", "")
    assert "if a:  # c\n    b(\"d\"" in plain and "open" in plain, code


def test_markdown_takes_any_text(chat, agent):
    """Long repetitions of what has a meaning: rendered within the browser's patience, nothing lost."""
    page = chat(agent.url)
    for piece in ("[", "![", "](", "*", "**a", "_a ", "`", "`` ` ", "> ", "- ", "#", "|", "|-", "~", "<", "&lt;", "\\",
                  "https://", "1. ", " ", "\n", "```\n", "[a](b", "***a** b*", "|a|\n|-|\n", "- a\n  - b\n"):
        for text in (piece * 20000, "x " + piece * 5000 + "x"):
            shown = page.driver.execute_async_script(OUTLINE, text)
            assert "Error" not in shown[:200], (piece, shown[:200])
    deep = "\n".join("> " * n + "- " * n + "x" for n in range(60))
    assert "x" in page.driver.execute_async_script(OUTLINE, deep)
    # What a heading's pattern could go back and forth in: minutes for one such line.
    spaced = ("# " + " " * 3900 + "a\u2028b\n") * 4
    assert page.driver.execute_async_script(OUTLINE, spaced).count("(h3 a\u2028b)") == 4


DEPTH = """
const [text, done] = arguments;
import("./web/markdown.js").then(({ Rendered }) => {
  const parent = document.createElement("div");
  new Rendered(parent).set(text);
  let deepest = 0;
  for (let nodes = [parent]; nodes.length; deepest++) nodes = nodes.flatMap((node) => [...node.children]);
  done([deepest, parent.textContent]);
});
"""


def test_emphasis_nests_only_so_deep(chat, agent):
    """A browser walks a page by recursion: thousands of elements in each other could end the tab."""
    page = chat(agent.url)
    depth, text = page.driver.execute_async_script(DEPTH, "*a " * 3000 + "b" + " c*" * 3000)
    assert depth < 100 and text == "a " * 3000 + "b" + " c" * 3000


def test_growing_text_ends_as_the_whole(chat, agent):
    page = chat(agent.url)
    text = "# T\n\nsome *text* here\n\n- a\n- b\n\n```c\nint x;\n```\n\n|a|b|\n|-|-|\n|1|2|\n\nend"
    grown, whole = page.driver.execute_async_script("""
        const [text, done] = arguments;
        import("./web/markdown.js").then(({ Rendered }) => {
          const parent = document.createElement("div"), other = document.createElement("div");
          const growing = new Rendered(parent);
          for (let n = 0; n <= text.length; n++) growing.set(text.slice(0, n));
          new Rendered(other).set(text);
          done([parent.innerHTML, other.innerHTML]);
        });""", text)
    assert grown == whole and "<table>" in grown


def test_reasoning_and_tool_calls(chat, node):
    fake, proxy = node
    page = chat(proxy.url)
    fake.deltas = [{"role": "assistant", "content": ""}, {"reasoning_content": "First I "}, {"reasoning_content": "**think**."},
                   {"content": "Then I say."},
                   {"tool_calls": [{"index": 0, "id": "c1", "type": "function", "function": {"name": "weather", "arguments": ""}}]},
                   {"tool_calls": [{"index": 0, "function": {"arguments": "{\"city\":"}}]},
                   {"tool_calls": [{"index": 0, "function": {"arguments": "\"Rome\"}"}}]},
                   {"tool_calls": [{"index": 1, "function": {"name": "time", "arguments": "{}"}}]}]
    page.ask("deltas")
    assert page.texts(".reasoning .body") == ["First I think."]
    assert not page.find(".reasoning").get_attribute("open")  # it has thought
    assert page.texts(".assistant > .body") == ["Then I say."]
    assert page.texts(".tool figcaption") == ["Tool call: weather", "Tool call: time"]
    assert page.texts(".tool code")[0] == '{\n  "city": "Rome"\n}'
    page.ask("repeat next")
    assert fake.requests[-1]["messages"][1] == assistant("Then I say.")  # what was thought isn't told again


# ---- sessions ----

def sessions_of(server):
    return {s["session_id"]: s for s in server.get("/v1/sessions").json()["data"]}


def test_sessions(chat, server):
    page = chat(server.url)
    settle(page)
    page.click("[name=kind][value=session]")
    page.ask("Name a colour.")
    page.ask("And a fruit?")
    ident = page.js("return Number(document.querySelector('#badge').textContent.split(' ')[1])")
    first, second = page.answers
    assert sessions_of(server)[ident]["turns"] == 2
    assert second["span"]["from"] == first["span"]["to"] == first["stats"]["tokens"] + first["stats"]["prompt"]

    page.press("Regenerate")  # goes back, and comes to the same
    page.wait_answer()
    assert page.answers[1]["span"] == second["span"] and page.answers[1]["content"] == second["content"]
    assert sessions_of(server)[ident]["turns"] == 2

    page.press("Branch", ".message:nth-of-type(2)")  # behind the first answer
    page.wait_text("#badge", f"Fork of {ident}")
    page.ask("And a fruit?")
    fork = page.js("return Number(document.querySelector('#badge').textContent.split(' ')[1])")
    assert fork != ident and page.answers[1]["span"] == second["span"]
    assert page.answers[1]["content"] == second["content"]
    assert {ident, fork} <= set(sessions_of(server))

    page.press("Rewind", ".message:nth-of-type(2)")
    assert page.questions == ["Name a colour."]
    page.ask("And a fruit?")
    assert page.answers[1]["span"] == second["span"]

    # From the list of the server's: one that this browser has no text of goes on; each is ended.
    page.js("localStorage.clear()")
    page.driver.get(page.url)
    page.wait_model()
    settle(page)
    page.js("document.querySelector('#sessions').open = true")
    page.wait(lambda: any(f"Session {ident}" in t for t in page.texts("#session-list .open")), "the session listed")
    page.js("[...document.querySelectorAll('#session-list .open')].find((b) => b.textContent.includes(arguments[0])).click()",
            f"Session {ident}")
    page.wait_text(".unseen", "2 turns")
    page.ask("Go on.")
    assert page.answers[0]["span"]["from"] == sessions_of(server)[ident]["history_tokens"] - (
        page.answers[0]["stats"]["tokens"] + page.answers[0]["stats"]["prompt"])
    assert sessions_of(server)[ident]["turns"] == 3
    for title in ("Go on.", f"Session {fork}"):
        page.wait(lambda: page.all(f"[aria-label='End: {title}']"), f"{title} in the list")
        page.js("document.querySelector(arguments[0]).click()", f"[aria-label='End: {title}']")
    page.wait(lambda: not {ident, fork} & set(sessions_of(server)), "both ended")


def test_stopped_turn_keeps_its_place(chat, agent):
    """A turn that is stopped is what was sampled; the conversation knows how long that is."""
    page = chat(agent.url)
    page.set("#temperature", 0)
    page.set("#extra", '{"ignore_eos": true}')
    page.click("[name=kind][value=session]")
    page.ask("Count.", wait=False)
    page.wait(lambda: any(page.texts(".message.live > .body")), "text")
    page.click("#stop")
    page.wait_answer()
    page.wait_text(".note", "Stopped.")
    turn = page.answers[0]
    ident = page.js("return Number(document.querySelector('#badge').textContent.split(' ')[1])")
    assert sessions_of(agent)[ident]["history_tokens"] == turn["span"]["to"]
    agent_answer = httpx.delete(f"{agent.url}/v1/sessions/{ident}", timeout=30)
    assert agent_answer.status_code == 200


# ---- keys ----

def test_key(chat, serve):
    with FakeOpenai(models=["m"]) as fake:
        proxy = serve("--node", fake.url, "--api-keys", "right-key")
        wait_until(lambda: proxy.metrics()["agents_up"] == 1, 60, "the node up")
        page = chat(proxy.url, wait=False, expect_errors=("status of 401",))
        for key in ("wrong-key", "right-key"):
            page.wait(lambda: page.all("dialog[open] #key-input"), "the dialog")
            page.find("#key-input").send_keys(key)
            page.find("#key-input").send_keys(ENTER)
            if key == "wrong-key":
                page.wait_text("#key-why", "Incorrect")
        page.wait_model()
        page.ask("repeat it")
        assert page.answers[-1]["content"] == "repeat it"
        stored = page.js("return JSON.stringify([{...localStorage}, document.cookie, location.href])")
        assert "right-key" not in stored
        assert "right-key" in page.js("return JSON.stringify({...sessionStorage})")
        page.driver.refresh()  # the same tab
        page.wait_model()
        # Not asked when dismissed, and no endless asking.
        page.set("#key", "other-key")
        page.wait(lambda: page.all("dialog[open]"), "the dialog again")
        page.press("Cancel", "dialog")
        page.wait_text("#status", "Incorrect")
        page.set("#key", "copied\u2026")  # which no header can carry
        page.wait_text("#status", "no key can have")
        page.set("#key", "")


def test_pages_need_no_key(start_agent):
    agent = start_agent("--api-keys", "k")
    for path in ("/chat", "/web/chat.js"):
        assert agent.get(path).status_code == 200
    assert agent.get("/dashboard").status_code == 404  # that is a proxy's
    for path in ("/v1/models", "/web/", "/web/none", "/chat/x"):
        assert agent.get(path).status_code == 401


def test_pages_can_be_closed(serve):
    proxy = serve("--no-web-pages", "--admin-port", 0)
    for path in ("/chat", "/dashboard", "/web/chat.js"):
        answer = proxy.get(path)
        assert answer.status_code == 404 and answer.json()["error"]["code"] == "unknown_url"
    port = proxy.wait_log(r"admin.*\bport=(\d+)").group(1)
    assert httpx.get(f"http://127.0.0.1:{port}/dashboard").status_code == 200
    assert httpx.get(f"http://127.0.0.1:{port}/chat").status_code == 404


# ---- looks and keys ----

WIDE = "# " + "long " * 30 + "\n\n`" + "x" * 300 + "`\n\n```\n" + "y" * 300 + "\n```\n\n|" + "cell | " * 20 + "\n|" + "-|" * 20 + \
    "\n|" + "value | " * 20 + "\n\n" + "z" * 300 + "\n\nhttps://example.example/" + "u" * 300


# Of what doesn't scroll in itself.
OUTSIDE = """return [...document.querySelectorAll('.top *, .composer *, .message > *, .bar *, .empty *')].filter((e) => {
  const { left, right, width } = e.getBoundingClientRect();
  return width && (left < 0 || right > innerWidth + 0.5) && !e.closest('.visually-hidden');
}).map((e) => e.outerHTML.slice(0, 100))"""


def test_a_session_fits_a_phone(chat, agent):
    page = chat(agent.url, size=(320, 700))
    settle(page, max_tokens=4)
    page.click("[name=kind][value=session]")
    page.ask("Name a colour.")
    page.wait_text("#badge", "Session")
    assert page.js(OUTSIDE) == []
    assert page.find("#settings-open").is_displayed() and page.find("#model").size["width"] > 60


@pytest.mark.parametrize("width", [320, 390])
def test_phone(chat, node, width):
    fake, proxy = node
    page = chat(proxy.url, size=(width, 700))
    assert page.js(OUTSIDE) == []
    overflow = "return document.documentElement.scrollWidth - innerWidth"
    assert page.js(overflow) <= 0
    fake.deltas = [{"content": WIDE}]
    page.ask("deltas " + "w" * 300)
    assert page.js(overflow) <= 0
    assert page.js("const s = document.querySelector('#scroll'); return s.scrollWidth - s.clientWidth") <= 0
    assert page.js(OUTSIDE) == []
    assert page.js("return document.querySelector('.code pre').scrollWidth > document.querySelector('.code pre').clientWidth")
    assert not page.find("#side").is_displayed()
    page.click("#side-open")
    page.wait(lambda: page.find("#side").is_displayed() and page.find("#new").is_displayed(), "the list")
    page.wait(lambda: page.js("return document.querySelector('#side').getBoundingClientRect().left") == 0, "the list in place")
    page.click("#side-close")
    page.wait(lambda: not page.find("#side").is_displayed(), "the list away")
    page.click("#settings-open")
    page.wait(lambda: page.find("#temperature").is_displayed(), "the settings")
    assert page.js(overflow) <= 0
    page.find("body").send_keys(ESCAPE)
    page.wait(lambda: not page.find("#settings").is_displayed(), "the settings away")


def test_keyboard(chat, node):
    fake, proxy = node
    page = chat(proxy.url)
    assert page.js("return document.activeElement.id") == "input"
    page.type("repeat one" + SHIFT + ENTER + SHIFT + "two")
    assert page.js("return document.querySelector('#input').value") == "repeat one\ntwo" and not page.questions
    page.type(ENTER)
    page.wait(lambda: page.questions == ["repeat one\ntwo"], "it sent")
    page.wait_answer()
    assert page.js("return document.querySelector('#input').value") == ""
    page.type("  " + ENTER)
    assert len(fake.requests) == 1  # nothing to say
    # Everything that can be clicked has a name and can be reached.
    nameless = page.js("""return [...document.querySelectorAll('button, input, textarea, select, a')].filter((e) =>
        !(e.getAttribute('aria-label') || e.textContent.trim() || e.labels?.length)).map((e) => e.outerHTML)""")
    assert nameless == []
    reached = set()
    for _ in range(30):
        page.js("return document.activeElement").send_keys(TAB)
        reached.add(page.js("return document.activeElement.id || document.activeElement.textContent.trim()"))
    assert {"input", "new", "model", "theme", "settings-open", "Regenerate", "Copy", "Edit"} <= reached, reached


def test_colours(chat, agent):
    background = "return getComputedStyle(document.body).backgroundColor"
    page = chat(agent.url)
    light = page.js(background)
    page.prefer("dark")
    dark = page.js(background)
    assert light != dark
    page.click("#theme")
    assert page.js(background) == light and page.js("return document.documentElement.dataset.theme") == "light"
    page.click("#theme")
    assert page.js(background) == dark
    page.prefer("light")
    assert page.js(background) == dark
    page.driver.refresh()
    assert page.js(background) == dark  # chosen once, kept
    page.click("#theme")
    assert page.js(background) == light


# ---- the dashboard ----

AS_STATE = """
const [id, state] = arguments;
window.trueFetch = window.fetch;
window.fetch = async (path, options) => {
  const response = await window.trueFetch(path, options);
  if (path !== "lm/status") return response;
  const status = await response.json();
  for (const agent of status.agents) if (agent.id === id) agent.state = state;
  return new Response(JSON.stringify(status), { headers: { "content-type": "application/json" } });
};
"""


def test_dashboard(browser, serve, fakes):
    proxy = serve()
    first, second = fakes("one", [proxy]), fakes("two", [proxy])
    wait_up(proxy, "one", "two")
    page = Page(browser, proxy.url + "/dashboard")
    page.wait(lambda: page.texts("#agents tbody b") == ["one", "two"], "both agents")
    page.wait(lambda: page.texts("#agents .state") == ["up", "up"] and page.texts("#alerts li") == [] and
              page.texts("#tiles dd")[0].startswith("2"), "both up")
    for _ in range(4):
        proxy.post("/v1/chat/completions", {"model": "fake-model", "messages": [user("hi")]})
    page.wait(lambda: any("4 in all" in text for text in page.texts("#tiles dd")), "four requests")
    page.wait(lambda: "M" in (page.attribute(".plots figure:first-child path", "d") or ""), "a line")
    assert page.texts(".plots figcaption")[0].startswith("First byte")

    # The proxy remembers what was before the page was opened.
    def recent_now():
        return proxy.get("/lm/recent").json()
    wait_until(lambda: recent_now()["samples"][-1]["requests"] == 4 and len(recent_now()["samples"]) >= 2, 60, "a new sample")
    recent = recent_now()
    assert sum(recent["samples"][-1]["first_byte"]) == 4
    assert recent["samples"][0]["age_s"] > recent["samples"][-1]["age_s"]
    page.driver.refresh()
    page.wait(lambda: (page.attribute(".plots figure:nth-of-type(5) path", "d") or "").count("L") >= len(recent["samples"]) - 1,
              "what was before")

    # A suspect is one for a second or two, which the page may miss: it is made to see one.
    page.js(AS_STATE, "two", "suspect")
    page.wait_text("#alerts .warn", "two is suspect")
    page.wait(lambda: page.texts("#agents .state") == ["suspect", "up"], "those in trouble first")
    page.wait_text("#log", "two: up → suspect")
    page.js("window.fetch = window.trueFetch")
    page.wait(lambda: page.texts("#alerts li") == [], "no alert")

    first.behave = "broken500"
    for _ in range(40):
        proxy.post("/v1/chat/completions", {"model": "fake-model", "messages": [user("hi")]})
    page.wait(lambda: any("one: its breaker" in text or "one fails" in text for text in page.texts("#alerts .warn")), "its failures")

    second.die()
    page.wait_text("#alerts .bad", "two is lost")
    page.wait(lambda: page.texts("[data-agent=two] .state") == ["lost"], "its row")
    page.wait_text("#log", "two is lost")
    first.die()
    page.wait_text("#alerts .bad", "No agent is up")
    page.check_log()


def test_dashboard_on_a_phone(browser, serve, fakes):
    proxy = serve()
    fakes("an-agent-with-a-rather-long-name.of-some-rack.example", [proxy])
    page = Page(browser, proxy.url + "/dashboard", size=(360, 700), dark=True)
    page.wait(lambda: page.texts("#agents .state") == ["up"], "the agent")
    assert page.js("return document.documentElement.scrollWidth - innerWidth") <= 0
    proxy.stop()
    page.wait_text("#alerts .bad", "can't be reached")
