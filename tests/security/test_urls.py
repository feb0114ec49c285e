"""URLs that lead a judge's requests to what only this machine reaches: none is asked, refusals are logged."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from endpoint_server import Server, says, serving
from raised import raises
from ratchet.errors import EndpointError, PlanError
from ratchet.pairs.pair import Turn
from ratchet.serving.endpoint import Endpoint, EndpointSettings
from ratchet.serving.journal import Journal
from ratchet.serving.requests import ChatRequest
from ratchet.serving.retry import RequestPace

NO_URL = [
    "file:///etc/passwd",
    "ftp://judge.example/v1",
    "gopher://127.0.0.1:{port}/_x",
    "unix:///var/run/docker.sock",
    "//127.0.0.1:{port}/v1",
    "http://user:pass@127.0.0.1:{port}/v1",
    "http://judge.example@127.0.0.1:{port}/v1",
    "http://127.0.0.1:{port}/v1?next=http://x",
    "http://127.0.0.1:{port}/v1#@judge.example",
    "http://127.0.0.1:{port}/v1\r\nHost: x",
    "http://127.0.0.1:99999/v1",
    "http://0177.0.0.1:{port}/v1",
    "http://１２７.０.０.１:{port}/v1",
]
NOT_PUBLIC = [
    "http://169.254.169.254:{port}/latest/meta-data",
    "http://169.254.169.254.:{port}/latest",
    "http://[::ffff:127.0.0.1]:{port}/v1",
    "http://[::ffff:a9fe:a9fe]:{port}/v1",
    "http://0.0.0.0:{port}/v1",
    "http://2130706433:{port}/v1",
    "http://0x7f.0.0.1:{port}/v1",
    "http://0x7f000001:{port}/v1",
    "http://127.1:{port}/v1",
    "http://localhost:{port}/v1",
    "http://LOCALHOST.:{port}/v1",
    "http://[64:ff9b::a9fe:a9fe]:{port}/v1",
    "http://[2002:7f00:1::]:{port}/v1",
    "http://[fe80::1]:{port}/v1",
    "http://[fd00:ec2::254]:{port}/v1",
    "http://168.63.129.16:{port}/machine",
    "http://192.0.0.192:{port}/opc/v2",
    "http://100.100.100.200:{port}/latest",
    "http://[::ffff:168.63.129.16]:{port}/v1",
    "http://[64:ff9b::c000:c0]:{port}/v1",
    "http://161.26.0.10:{port}/v1",
    "http://192.80.8.124:{port}/v1",
    "http://metadata.google.internal:{port}/computeMetadata/v1",
    "http://judge.example:{port}/v1",
    "https://innocent.example:{port}/v1",
]
NAMES = {
    "metadata.google.internal": "169.254.169.254",
    "judge.example": "10.0.0.7",
    "innocent.example": "127.0.0.1",
    "localhost.": "127.0.0.1",
    "169.254.169.254.": "169.254.169.254",
}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server on this machine that must see nothing, and a resolver that knows private addresses by public names."""
    real = socket.getaddrinfo

    def look_up(host: str | bytes, port: int, *args: object, **kwargs: object) -> list[object]:
        name = host.decode() if isinstance(host, bytes) else host
        return real(NAMES.get(name.lower(), name), port, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    with serving() as server:
        yield server


def ask(url: str, folder: Path, **settings: object) -> None:
    async def sleep(_: float) -> None: ...

    with Journal(folder / "journal.jsonl") as journal:
        endpoint = Endpoint(EndpointSettings(url, "m", max_attempts=2, **settings), journal, RequestPace(sleep))
        endpoint.answer([ChatRequest((Turn("user", "hi"),))])


def test_there_are_thirty_of_them_and_more() -> None:
    assert len({*NO_URL, *NOT_PUBLIC}) >= 30


@pytest.mark.parametrize("url", NO_URL)
def test_what_is_no_url_of_a_server_is_refused_before_anything_is_asked(
    url: str, server: Server, tmp_path: Path
) -> None:
    with pytest.raises(PlanError) as caught:
        ask(url.format(port=server.port), tmp_path, allow_private=True)
    assert server.bodies == []
    assert "user:pass" not in str(caught.value)


@pytest.mark.parametrize("url", NOT_PUBLIC)
def test_what_leads_inside_is_refused_and_logged(
    url: str, server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), raises("plan.private-address"):
        ask(url.format(port=server.port), tmp_path)
    assert server.bodies == []
    assert "is not of the open internet" in caplog.text


def test_a_redirect_inside_is_not_followed(server: Server, tmp_path: Path) -> None:
    with serving() as inside:
        server.always = says(302, Location="http://169.254.169.254/latest/meta-data")
        with raises("endpoint.refused", "redirect"):
            ask(server.url, tmp_path, allow_private=True)
        assert inside.bodies == []


def test_a_zone_does_not_hide_a_local_address(tmp_path: Path) -> None:
    with pytest.raises((PlanError, EndpointError)):
        ask("http://[fe80::1%25lo]:80/v1", tmp_path)
