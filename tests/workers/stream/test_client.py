"""Whom outgoing connections believe, and how long they wait."""

import asyncio
import datetime as dt
import ipaddress
import ssl

import aiohttp
import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from workers.stream.client import open_session, trust


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """Self-signed, for 127.0.0.1: path of a PEM with certificate and key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "vendor")])
    now = dt.datetime.now(dt.UTC)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "vendor.pem"
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(signed.public_bytes(serialization.Encoding.PEM) + secret)
    return path


@pytest.fixture
async def url(certificate):
    async def hello(request):
        return web.Response(text="hello", headers={"Set-Cookie": "who=first"} if not request.cookies else {"Seen": "1"})

    app = web.Application()
    app.router.add_get("/", hello)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    yield f"https://127.0.0.1:{runner.addresses[0][1]}/"
    await runner.cleanup()


@pytest.fixture(autouse=True)
def no_bundles(monkeypatch):
    for variable in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "AWS_CA_BUNDLE", "https_proxy", "HTTPS_PROXY"):
        monkeypatch.delenv(variable, raising=False)


async def test_a_stranger_is_not_believed(url):
    async with open_session() as session:
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await session.get(url)


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "AWS_CA_BUNDLE"])
async def test_bundles_of_the_environment(url, certificate, monkeypatch, variable):
    monkeypatch.setenv(variable, str(certificate))
    async with open_session() as session:
        for _ in range(2):
            async with session.get(url) as reply:
                assert await reply.text() == "hello"
                assert "Seen" not in reply.headers  # no cookie came back


def test_a_folder_of_certificates_is_a_bundle(tmp_path, monkeypatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path))
    trust()


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_an_unreadable_bundle_is_told_at_the_start(tmp_path, monkeypatch, content):
    if content is not None:
        (tmp_path / "bundle").write_text(content)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "bundle"))
    with pytest.raises((OSError, ssl.SSLError)):
        trust()


async def test_who_accepts_and_says_nothing_is_left():
    async def say_nothing(reader, writer):
        await reader.read()
        writer.close()

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, open_session(connect_timeout_seconds=0.2, read_timeout_seconds=0.2) as session:
        for scheme in ("http", "https"):  # waiting for the first byte, and for the end of the TLS handshake
            with pytest.raises(TimeoutError):
                await session.get(f"{scheme}://127.0.0.1:{port}/")
