"""A page of ours in a headless Chromium, as a person uses it: by keys and clicks, and by what can be seen.

Debian's chromium and chromium-driver; without them the tests that want `browser` are skipped."""

import shutil
import time

import pytest

WAIT_S = 60  # for what takes a moment when nothing else runs
DESKTOP = (1200, 800)


@pytest.fixture(scope="session")
def browser():
    paths = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    missing = [name for name, path in paths.items() if not path]
    if missing:
        pytest.skip(f"no {' and '.join(missing)} here (scripts/install-deps installs it)")
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed (requirements.txt)")
    options = webdriver.ChromeOptions()
    options.binary_location = paths["chromium"]
    # Root has no sandbox of Chromium's, containers have a small /dev/shm.
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--no-first-run",
                     "--disable-background-networking", "--force-device-scale-factor=1"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(executable_path=paths["chromedriver"])
    driver = webdriver.Chrome(options=options, service=service)
    driver.set_script_timeout(WAIT_S)
    yield driver
    driver.quit()


class Page:
    def __init__(self, driver, url, size=DESKTOP, dark=False, expect_errors=()):
        self.driver = driver
        self.url = url
        self.expect_errors = expect_errors
        mobile = size[0] < 600
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
            "width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": mobile})
        self.prefer("dark" if dark else "light")
        driver.get("about:blank")
        driver.get_log("browser")
        driver.execute_cdp_cmd("Storage.clearDataForOrigin", {
            "origin": url.rsplit("/", 1)[0], "storageTypes": "local_storage"})
        driver.get(url)
        driver.execute_script("sessionStorage.clear()")

    def prefer(self, scheme):
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {
            "features": [{"name": "prefers-color-scheme", "value": scheme}]})

    def js(self, code, *arguments):
        return self.driver.execute_script(code, *arguments)

    def find(self, selector):
        return self.driver.find_element("css selector", selector)

    def all(self, selector):
        return self.driver.find_elements("css selector", selector)

    def texts(self, selector):
        return self.js("return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent)", selector)

    def click(self, selector):
        self.find(selector).click()

    def press(self, text, within="body"):
        """The last button of that name, whether it can be seen or only when the pointer is there. In one step: the
        page may be drawn anew at any time."""
        found = self.js("const found = [...document.querySelectorAll(arguments[0])].filter((b) => b.textContent === arguments[1]);"
                        "found.at(-1)?.click(); return found.length", f"{within} button", text)
        assert found, f"no button {text!r} in {self.texts(within + ' button')}"

    def attribute(self, selector, name):
        """Of the first such element; None: there is none."""
        return self.js("return document.querySelector(arguments[0])?.getAttribute(arguments[1]) ?? null", selector, name)

    def set(self, selector, value):
        """A field of the settings, as if it had been typed and left."""
        self.js("const e = document.querySelector(arguments[0]); e.value = arguments[1];"
                "e.dispatchEvent(new Event('change', {bubbles: true}))", selector, str(value))

    def wait(self, test, what, timeout=WAIT_S):
        """What `test` gives, once it gives something."""
        deadline = time.monotonic() + timeout
        while True:
            found = test()
            if found:
                return found
            assert time.monotonic() < deadline, f"{what}: not within {timeout} s; the page says:\n{self.find('body').text}"
            time.sleep(0.05)

    def wait_text(self, selector, part):
        self.wait(lambda: any(part in text for text in self.texts(selector)), f"{part!r} in {selector}")

    def check_log(self):
        """Nothing that the page loads, runs or is refused went wrong, but for what was expected."""
        # Links to pages that this server doesn't have are looked for by asking.
        expected = ("/dashboard - Failed to load resource", "/ - Failed to load resource", *self.expect_errors)
        bad = [entry["message"] for entry in self.driver.get_log("browser")
               if not any(part in entry["message"] for part in expected)]
        assert not bad, bad


class ChatPage(Page):
    def __init__(self, driver, server_url, **options):
        super().__init__(driver, server_url + "/chat", **options)

    def wait_model(self):
        self.wait(lambda: self.js("return document.querySelector('#model').value"), "a model")

    def type(self, text):
        self.find("#input").send_keys(text)

    def paste(self, text):
        self.js("document.querySelector('#input').value = arguments[0]", text)

    def ask(self, text, wait=True):
        self.type(text + "\ue007")  # Enter
        if wait:
            self.wait_answer()

    def is_busy(self):
        return self.js("return !document.querySelector('#stop').hidden")

    def wait_answer(self):
        self.wait(lambda: not self.is_busy(), "the end of the answer")

    @property
    def questions(self):
        return self.texts(".message.user .body")

    @property
    def answers(self):
        """What each answer says, as it is kept."""
        stored = self.js("return localStorage.getItem('lm-chat:' + location.hash.slice(1))")
        return self.js("return JSON.parse(arguments[0]).messages.filter((m) => m.role === 'assistant')", stored)
