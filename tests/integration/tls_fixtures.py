"""Certificates for tests, made by openssl in a folder of the session."""

import contextlib
import os
import ssl
import subprocess

import pytest

HERE = "DNS:localhost,IP:127.0.0.1"


class Pki:
    """A CA and pairs of it: NAME.key and NAME.pem. Contexts trust the CA alone."""

    def __init__(self, folder):
        self.folder = str(folder)
        self.ca = self.path("ca.pem")
        self.openssl("req", "-x509", *self.new_key("ca"), "-days", "2", "-out", self.ca, "-subj", "/CN=test CA")
        self.pair("here", HERE)

    def path(self, name):
        return os.path.join(self.folder, name)

    @staticmethod
    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=60)

    def new_key(self, name):
        return ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", self.path(name + ".key")]

    def pair(self, name, names):
        request, extensions = self.path(name + ".csr"), self.path(name + ".ext")
        with open(extensions, "w") as file:
            file.write(f"subjectAltName={names}\n")
        self.openssl("req", *self.new_key(name), "-out", request, "-subj", f"/CN={name}")
        self.openssl("x509", "-req", "-in", request, "-CA", self.ca, "-CAkey", self.path("ca.key"),
                     "-CAcreateserial", "-days", "2", "-extfile", extensions, "-out", self.path(name + ".pem"))

    def trust(self):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(self.ca)
        return context

    def server_context(self, name="here"):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.path(name + ".pem"), self.path(name + ".key"))
        return context

    def env(self, name="here"):
        """As LMDeploy takes them."""
        return {"SSL_KEYFILE": self.path(name + ".key"), "SSL_CERTFILE": self.path(name + ".pem")}


@pytest.fixture(scope="session")
def pki(tmp_path_factory):
    return Pki(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="session")
def foreign_pki(tmp_path_factory):
    return Pki(tmp_path_factory.mktemp("foreign-pki"))


@contextlib.contextmanager
def without_tls_environment():
    """For what must not find the files of whoever runs the tests."""
    kept = {name: os.environ.pop(name) for name in ("SSL_KEYFILE", "SSL_CERTFILE") if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)
