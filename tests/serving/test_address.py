"""Where an endpoint's URL may lead. No test leaves this machine."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from endpoint_server import Server, says, serving
from raised import raises
from ratchet.pairs.pair import Turn
from ratchet.serving.address import is_public
from ratchet.serving.endpoint import Endpoint, EndpointSettings
from ratchet.serving.journal import Journal
from ratchet.serving.requests import ChatRequest
from ratchet.serving.retry import RequestPace

HI = ChatRequest((Turn("user", "hi"),))


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, list[list[str]]]]:
    """Names that only this test knows: for each, the addresses that each look-up in turn gives.

    It stands in for the system's resolver. A look-up too many, by any connection, fails the test.
    """
    table: dict[str, list[list[str]]] = {}
    too_many: list[str] = []
    real = socket.getaddrinfo

    def look_up(host: str | bytes, port: int, *args: object, **kwargs: object) -> list[object]:
        host = host.decode() if isinstance(host, bytes) else host  # anyio, below httpx, asks in bytes
        if host not in table:
            return real(host, port, *args, **kwargs)
        if not table[host]:
            too_many.append(host)
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [entry for address in table[host].pop(0) for entry in real(address, port, *args, **kwargs)]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    yield table
    assert not too_many


def ask(url: str, folder: Path, **settings: object) -> str:
    async def sleep(seconds: float) -> None:
        """Wait for nothing."""

    with Journal(folder / "journal.jsonl") as journal:
        endpoint = Endpoint(EndpointSettings(url, "m", max_attempts=2, **settings), journal, RequestPace(sleep))
        return endpoint.answer([HI])[0].text


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0.0.0.0",  # noqa: S104
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[64:ff9b::7f00:1]",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.0.1",
        "100.64.0.1",
        "169.254.169.254",
        "[fd00::1]",
        "[fe80::1]",
        "224.0.0.1",
    ],
)
def test_an_address_that_is_not_public_is_refused_at_once(server: Server, tmp_path: Path, host: str) -> None:
    with raises("plan.private-address") as caught:
        ask(f"http://{host}:{server.port}/v1", tmp_path)
    assert "allow_private: true" in caught.value.fix
    assert server.bodies == []


@pytest.mark.parametrize("host", ["127.0.0.1", "2130706433", "localhost"])
def test_it_is_asked_by_leave(server: Server, tmp_path: Path, host: str) -> None:
    assert ask(f"http://{host}:{server.port}/v1", tmp_path, allow_private=True) == "re: hi"


def test_a_name_is_refused_for_any_private_address_of_it(server: Server, tmp_path: Path, names) -> None:
    names["judge.example"] = [["93.184.215.14", "127.0.0.1"]]
    with raises("plan.private-address") as caught:
        ask(f"http://judge.example:{server.port}/v1", tmp_path)
    assert caught.value.where == "judge.example" and "127.0.0.1" in caught.value.what
    assert server.bodies == []


def test_the_address_that_was_checked_is_the_one_that_is_connected_to(
    server: Server, tmp_path: Path, names, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A proxy would have nobody at its end.
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    names["judge.example"] = [["127.0.0.1"]]
    assert ask(f"http://judge.example:{server.port}/v1", tmp_path, allow_private=True) == "re: hi"
    assert names["judge.example"] == []
    assert server.headers[0]["Host"] == f"judge.example:{server.port}"


def test_a_name_that_changes_between_attempts_is_checked_again(
    server: Server, tmp_path: Path, names, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The first address counts as public here, so that the first attempt reaches the server.
    monkeypatch.setattr("ipaddress.IPv4Address.is_global", property(lambda ip: str(ip) == "127.0.0.1"))
    names["judge.example"] = [["127.0.0.1"], ["127.0.0.2"]]
    server.always = says(500)
    with raises("plan.private-address") as caught:
        ask(f"http://judge.example:{server.port}/v1", tmp_path)
    assert "127.0.0.2" in caught.value.what
    assert len(server.bodies) == 1


def test_the_next_address_is_tried_where_one_does_not_answer(server: Server, tmp_path: Path, names) -> None:
    names["judge.example"] = [["::1", "127.0.0.1"]]  # the server listens on the second alone
    assert ask(f"http://judge.example:{server.port}/v1", tmp_path, allow_private=True) == "re: hi"


def test_a_name_that_nobody_knows_is_asked_again_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> list[object]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with raises("endpoint.unreachable") as caught:
        ask("https://judge.example/v1", tmp_path)
    assert "attempt 2" in caught.value.what


def test_a_redirect_is_not_followed(server: Server, tmp_path: Path) -> None:
    with serving() as inside:
        server.always = says(307, Location=inside.url + "/chat/completions")
        with raises("endpoint.refused"):
            ask(server.url, tmp_path, allow_private=True)
        assert inside.bodies == []


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.215.14", True),
        ("2606:4700::1111", True),
        ("::ffff:93.184.215.14", True),
        ("64:ff9b::5db8:d70e", True),  # NAT64 of a public address
        ("64:ff9b::a9fe:a9fe", False),  # and of 169.254.169.254
        ("2002:a9fe:a9fe::1", False),  # the same by 6to4
        ("::ffff:169.254.169.254", False),
        ("::7f00:1", False),
        ("fec0::1", False),
        ("ff02::1", False),
        ("255.255.255.255", False),
        ("240.0.0.1", False),
        ("198.18.0.1", False),
    ],
)
def test_which_addresses_are_public(address: str, public: bool) -> None:
    assert is_public(address) is public


def test_tls_proves_the_name_and_not_the_address(tmp_path: Path, names, monkeypatch: pytest.MonkeyPatch) -> None:
    if not shutil.which("openssl"):
        pytest.skip("no openssl to make a certificate with")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-days", "2", "-subj", "/CN=judge", "-addext", "subjectAltName=DNS:judge.example"),
            *("-keyout", key, "-out", certificate),
        ],
        capture_output=True,
        check=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    names["judge.example"] = [["127.0.0.1"]]
    names["other.example"] = [["127.0.0.1"], ["127.0.0.1"]]
    with serving(context) as server:
        assert ask(f"https://judge.example:{server.port}/v1", tmp_path, allow_private=True) == "re: hi"
        (tmp_path / "journal.jsonl").unlink()
        with raises("endpoint.unreachable") as caught:
            ask(f"https://other.example:{server.port}/v1", tmp_path, allow_private=True)
        assert "other.example" in caught.value.what
        assert len(server.bodies) == 1
