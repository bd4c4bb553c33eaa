"""HTTPS on agent and proxy, and between them: clients, trust, ends, wrong protocols, reload."""
# ctest: PROCESSORS 1

import concurrent.futures
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import time

import httpx
import openai
import pytest

from conftest import ROOT, Starter, program, wait_until
from proxy_fixtures import FakeAgent, chat, status_of
from test_launcher import Launcher
from test_proxy_upgrade import successors  # noqa: F401
from tls_fixtures import foreign_pki, pki, without_tls_environment  # noqa: F401

CHAT = "/v1/chat/completions"
SMALL = ["--model-name", "smollm2", "--max-batch-size", 4, "--session-len", 1024]
BIG = 4 << 20  # bytes of a body that crosses in many records


@pytest.fixture(scope="module")
def cluster(model_path, pki):
    """A proxy and an agent behind it that both speak HTTPS, also to each other."""
    starter = Starter()
    proxy = starter.proxy("--ssl", "--ssl-ca", pki.ca, env=pki.env())
    proxy.trust = pki.trust()
    proxy.agent = starter.agent(model_path, *SMALL, "--ssl", "--ssl-ca", pki.ca, "--proxy-url", proxy.url, env=pki.env())
    proxy.agent.trust = pki.trust()
    wait_until(lambda: "smollm2" in proxy.get("/v1/models").text, 60, "the agent behind the proxy")
    yield proxy
    starter.stop()


@pytest.fixture(params=["agent", "cluster"])
def server(request, cluster):
    return cluster if request.param == "cluster" else cluster.agent


@pytest.fixture
def serve(starter):
    """serve(*flags, trust=None) -> a proxy that listens"""
    def start(*arguments, trust=None, **kwargs):
        proxy = starter.proxy(*arguments, ready=False, **kwargs)
        proxy.port = int(proxy.wait_log(r"\bserving .*\bport=(\d+)").group(1))
        proxy.trust = trust
        return proxy
    return start


def secure_socket(server, context=None):
    raw = socket.create_connection(("127.0.0.1", server.port), timeout=30)
    return (context or server.trust).wrap_socket(raw, server_hostname="127.0.0.1")


def ask(**fields):
    return {"model": "smollm2", "messages": [{"role": "user", "content": "Name a colour."}], "max_tokens": 8,
            "temperature": 0, **fields}


# ---- clients ----


def test_openai_client(server):
    with openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0, timeout=120,
                       http_client=httpx.Client(verify=server.trust)) as client:
        whole = client.chat.completions.create(**ask())
        pieces = list(client.chat.completions.create(**ask(stream=True)))
    text = "".join(p.choices[0].delta.content or "" for p in pieces if p.choices)
    assert whole.choices[0].message.content and text == whole.choices[0].message.content
    assert pieces[-1].choices[0].finish_reason == whole.choices[0].finish_reason


@pytest.mark.skipif(not shutil.which("curl"), reason="there is no curl")
def test_curl(server, pki, foreign_pki):
    def curl(ca, *more):
        return subprocess.run(["curl", "-sS", "--cacert", ca, *more, server.url + "/v1/models"], capture_output=True,
                              text=True, timeout=60)
    assert "smollm2" in curl(pki.ca).stdout
    assert "smollm2" in curl(pki.ca, "--tls-max", "1.2").stdout
    assert "smollm2" in curl(pki.ca, "--http2").stdout  # which offers HTTP/1.1, too
    refused = curl(foreign_pki.ca)
    assert refused.returncode == 60 and "certificate" in refused.stderr


def test_lm_client(server, pki):
    def models(*flags):
        return subprocess.run([program("lm-client"), *flags, "models", server.url], capture_output=True, text=True,
                              timeout=60)
    assert models("--ssl-ca", pki.ca).stdout == "smollm2\n"
    refused = models()
    assert refused.returncode == 1 and "its certificate is not trusted" in refused.stderr


def test_protocols(server):
    context = server.trust
    context.set_alpn_protocols(["h2", "http/1.1"])
    with secure_socket(server, context) as s:
        assert s.selected_alpn_protocol() == "http/1.1" and s.version() == "TLSv1.3"
    only_h2 = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    only_h2.check_hostname, only_h2.verify_mode = False, ssl.CERT_NONE
    only_h2.set_alpn_protocols(["h2"])
    with pytest.raises(ssl.SSLError, match="(?i)no.application.protocol"):
        secure_socket(server, only_h2)
    context.set_alpn_protocols(["http/1.1"])


def test_big_body_both_ways(cluster):
    words = "colour " * (BIG // 7)
    answer = cluster.agent.post("/v1/encode", {"input": words, "model": "smollm2"})
    assert answer.status_code == 200, answer.text[:300]
    assert answer.json()["length"] >= BIG // 7 and len(answer.content) > BIG // 4


def test_client_that_leaves(server):
    """Noticed as soon as without TLS, whether it says goodbye or not."""
    agent = getattr(server, "agent", server)
    for polite in (True, False):
        gone = agent.metrics()["requests_gone_total"]
        s = secure_socket(server)
        body = json.dumps(ask(max_tokens=900, ignore_eos=True, stream=True)).encode()
        s.sendall(b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (CHAT.encode(), len(body), body))
        assert s.recv(100).startswith(b"HTTP/1.1 200")
        if polite:
            s.settimeout(0)
            try:
                s.unwrap()
            except (ssl.SSLError, OSError):
                pass  # what it waits for is the end of the answer
        s.close()
        agent.wait_metric("requests_gone_total", lambda n, now=gone: n == now + 1)
        agent.wait_metric("running", lambda n: n == 0)


def test_healthcheck(server, start_proxy, pki):
    """The script of the images."""
    script = os.path.join(ROOT, "compose", "healthcheck")

    def check(port, **env):
        with without_tls_environment():
            return subprocess.run([script, str(port)], env={**os.environ, **env}, timeout=30).returncode
    assert check(server.port, **pki.env()) == 0
    plain = start_proxy()
    assert check(plain.port) == 0
    assert check(plain.port, **pki.env()) == 1
    assert check(server.port) == 1


# ---- wrong protocol, slow handshake ----


def test_plain_http_to_tls(server):
    answer = httpx.get(f"http://127.0.0.1:{server.port}/v1/models")
    assert answer.status_code == 400
    assert "this port speaks HTTPS" in answer.json()["error"]["message"]
    server.wait_log("plain HTTP to a port that speaks HTTPS peer=127.0.0.1")
    body = "x" * (1 << 20)  # the answer survives what comes behind the first bytes
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as s:
        s.sendall(b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body))
        s.sendall(body.encode())
        assert b"this port speaks HTTPS" in s.recv(65536)


def test_tls_to_plain(start_proxy, pki):
    proxy = start_proxy()
    with pytest.raises(ssl.SSLError):
        secure_socket(proxy, pki.trust())
    proxy.wait_log("TLS to a port that speaks plain HTTP peer=127.0.0.1")
    assert proxy.get("/health").status_code == 200


def test_slow_handshake(server):
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as s:
        s.sendall(b"\x16\x03\x01\x02\x00\x01")
        assert s.recv(1) == b""
    assert 8 < time.monotonic() - began < 40  # the header timeout is 10 s
    assert server.get("/health").status_code == 200


# ---- between proxy and agent ----


def test_cookie_is_for_tls_alone(serve, pki):
    proxy = serve("--ssl", "--session-cookie", trust=pki.trust(), env=pki.env())
    with FakeAgent("plain", [proxy.url], trust=pki.trust()):
        wait_until(lambda: "fake-model" in proxy.get("/v1/models").text, 60, "the agent")
        cookie = proxy.post(CHAT, chat()).headers["set-cookie"]
        assert cookie.startswith("lm_session=") and "Secure" in cookie.split("; ")


def test_node_with_tls(serve, pki):
    """One connection carries many exchanges, large ones too, and a client that leaves ends the agent's."""
    with FakeAgent("secure", tls=pki.server_context()) as fake:
        proxy = serve("--node", fake.url, "--ssl-ca", pki.ca)
        wait_until(lambda: "fake-model" in proxy.get("/v1/models").text, 60, "the node")
        for i in range(5):
            assert proxy.post(CHAT, chat(user=str(i))).json()["agent"] == "secure"
        before = fake.accepted
        for i in range(20):
            assert proxy.post(CHAT, chat(user=str(i))).json()["body"]["user"] == str(i)
        assert fake.accepted <= before + 1  # a probe may have opened one of its own
        fake.behave = "echo"
        big = chat(user="x" * BIG)
        assert proxy.post(CHAT, big).json() == big
        fake.behave = "hang_in_stream"
        with httpx.stream("POST", proxy.url + CHAT, json=chat(stream=True), timeout=30) as answer:
            assert next(answer.iter_lines()).startswith("data: ")
        assert fake.client_left.wait(60)


def test_lost_in_stream(serve, pki):
    """An agent that dies behind TLS is one that dies: the stream ends with an error event."""
    with FakeAgent("secure", behave="reset_mid_stream", tls=pki.server_context()) as fake:
        proxy = serve("--node", fake.url, "--ssl-ca", pki.ca)
        wait_until(lambda: "fake-model" in proxy.get("/v1/models").text, 60, "the node")
        text = proxy.post(CHAT, chat(stream=True)).text
        assert '"error"' in text and "[DONE]" not in text


@pytest.mark.parametrize("wrong", ["ca", "host"])
def test_agent_that_is_not_trusted(serve, pki, foreign_pki, wrong):
    """It beats, and still isn't up: the log says why. It comes up when the files are right."""
    pki.pair("other", "DNS:other.example")
    context = {"ca": foreign_pki.server_context, "host": lambda: pki.server_context("other")}[wrong]()
    reason = {"ca": "its certificate is not trusted: unable to get local issuer certificate",
              "host": "its certificate is another host's: IP address mismatch"}[wrong]
    proxy = serve("--ssl-ca", pki.ca)
    with FakeAgent("bad", [proxy.url], tls=context) as fake:
        proxy.wait_log(f'no TLS with an agent agent=bad reason="connect to 127.0.0.1:{fake.port}: {reason}', 60)
        wait_until(lambda: status_of(proxy)["bad"]["state"] == "suspect", 60, "the agent in doubt")
        assert proxy.post(CHAT, chat()).status_code in (502, 503)
        assert not fake.requests
        fake.tls = pki.server_context()
        wait_until(lambda: status_of(proxy)["bad"]["state"] == "up", 60, "the agent up")
        assert proxy.post(CHAT, chat()).json()["agent"] == "bad"


def test_proxy_that_is_not_trusted(serve, start_agent, pki, foreign_pki):
    proxy = serve("--ssl", trust=foreign_pki.trust(), env=foreign_pki.env())
    agent = start_agent(*SMALL, "--ssl-ca", pki.ca, "--proxy-url", proxy.url)
    agent.wait_log("proxy=https://.*its certificate is not trusted")
    assert status_of(proxy) == {}


# ---- files ----


def shown(server):
    """The certificate that a new connection gets."""
    return ssl.get_server_certificate(("127.0.0.1", server.port))


def text_of(path):
    with open(path) as file:
        return file.read().strip()


def copy_pair(pki, name, folder):
    for end in (".key", ".pem"):
        shutil.copy(pki.path(name + end), os.path.join(folder, "live" + end))


@pytest.mark.parametrize("kind", ["agent", "proxy"])
def test_reload(serve, start_agent, pki, tmp_path, kind):
    pki.pair("next", "DNS:localhost,IP:127.0.0.1")
    copy_pair(pki, "here", tmp_path)
    files = ["--ssl-keyfile", tmp_path / "live.key", "--ssl-certfile", tmp_path / "live.pem"]
    server = serve(*files) if kind == "proxy" else start_agent(*SMALL, *files)
    server.trust = pki.trust()
    assert shown(server).strip() == text_of(pki.path("here.pem"))
    with httpx.Client(verify=pki.trust(), base_url=server.url) as client:
        assert client.get("/health").status_code == 200
        copy_pair(pki, "next", tmp_path)
        server.signal(signal.SIGHUP)
        server.wait_log("config: reloaded|main: reloaded")
        assert shown(server).strip() == text_of(pki.path("next.pem"))
        assert client.get("/health").status_code == 200  # on the connection that it has
        shutil.copy(pki.path("here.key"), tmp_path / "live.key")  # not the key of this certificate
        server.signal(signal.SIGHUP)
        server.wait_log("reload refused, nothing has changed reason=\"--ssl-keyfile: .* is not the key of")
        assert shown(server).strip() == text_of(pki.path("next.pem"))
        assert client.get("/health").status_code == 200


def test_upgrade(serve, successors, pki, tmp_path):
    """The next process reads the files anew; who is connected to the old one gets his answer."""
    pki.pair("next", "DNS:localhost,IP:127.0.0.1")
    copy_pair(pki, "here", tmp_path)
    proxy = serve("--ssl-keyfile", tmp_path / "live.key", "--ssl-certfile", tmp_path / "live.pem", trust=pki.trust())
    proxy.wait_ready()
    with FakeAgent("slow", [proxy.url], behave="slow", trust=pki.trust()) as fake:
        wait_until(lambda: "fake-model" in proxy.get("/v1/models").text, 60, "the agent")
        with httpx.Client(verify=pki.trust(), base_url=proxy.url, timeout=60) as client, \
                concurrent.futures.ThreadPoolExecutor() as pool:
            answer = pool.submit(client.post, CHAT, json=chat())
            wait_until(lambda: fake.requests, 60, "the request at its agent")
            copy_pair(pki, "next", tmp_path)
            successors.upgrade(proxy)
            proxy.wait_log("draining")
            wait_until(lambda: shown(proxy).strip() == text_of(pki.path("next.pem")), 60, "the next process")
            fake.release.set()
            assert answer.result().json()["agent"] == "slow"
    assert proxy.popen.wait(60) == 0


@pytest.mark.parametrize("name", ["lm-agent", "lm-proxy"])
def test_bad_settings(pki, name, model_path):
    def run(*flags, **env):
        model = [model_path] if name == "lm-agent" else []
        with without_tls_environment():
            port = "--server-port" if name == "lm-agent" else "--port"
            done = subprocess.run([program(name), *model, port, "0", *map(str, flags)], capture_output=True, text=True,
                                  timeout=60, env={**os.environ, **env})
        assert done.returncode == 2, done.stderr
        return done.stderr
    here = pki.env()
    assert "set SSL_KEYFILE or give --ssl-keyfile" in run("--ssl")
    assert "set SSL_CERTFILE or give --ssl-certfile" in run("--ssl", SSL_KEYFILE=here["SSL_KEYFILE"])
    assert "set SSL_KEYFILE or give" in run("--ssl-certfile", here["SSL_CERTFILE"])
    assert "cannot read '/nonexistent'" in run("--ssl", **{**here, "SSL_KEYFILE": "/nonexistent"})
    assert "no usable certificate" in run("--ssl", **{**here, "SSL_CERTFILE": here["SSL_KEYFILE"]})
    assert "is not the key of" in run("--ssl", **{**here, "SSL_KEYFILE": pki.path("ca.key")})
    assert "--ssl-ca: no certificates" in run("--ssl-ca", here["SSL_KEYFILE"])


def test_launcher(starter, model_path, pki):
    """It asks its replicas by TLS, whatever name their certificates have."""
    pki.pair("far", "DNS:far.example")
    launcher = Launcher(model_path, "--ssl", "--health-timeout", 6, "--log-level", "debug", replicas=1,
                        env=pki.env("far"))
    starter.started.append(launcher)
    launcher.wait_all_ready()
    launcher.wait_log("replica is well", count=4)
    assert len(launcher.children()) == 1, launcher.log
