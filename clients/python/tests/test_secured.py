"""A server that wants TLS and a token: who comes with what, and how it is told."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import pytest
from servers import Inference, command

from flatframe import Client, PermissionDenied, Unauthenticated, Unavailable, connect


class Secured:
    """A server with an authority and tokens of its own."""

    def __init__(self, folder: pathlib.Path) -> None:
        command(folder, "certs", "init")
        self.ca = folder / "certs" / "ca.pem"
        self.tokens = {
            role: command(folder, "tokens", "add", role, "--role", role, "--file", "tokens.toml")
            for role in ("read", "snapshot", "admin")
        }
        settings = {
            "tls.cert": "certs/server.pem",
            "tls.key": "certs/server.key",
            "auth.tokens": "tokens.toml",
            "vision.stub_engine.time_us": 1000,
        }
        self.server = Inference(folder, settings, self.ca, self.tokens["read"])


@pytest.fixture(scope="module")
def secured(services: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    made = Secured(tmp_path_factory.mktemp("secured"))
    try:
        made.server.start()
        yield made
    finally:
        made.server.end()


def test_a_token_opens_what_its_role_allows(secured: Secured) -> None:
    with connect(secured.server.address, ca=secured.ca, token=secured.tokens["read"]) as client:
        assert client.cameras() == []
        with pytest.raises(PermissionDenied, match="role read"):
            client.snapshot("door")
    with (
        connect(secured.server.address, ca=secured.ca, token=secured.tokens["snapshot"]) as client,
        pytest.raises(PermissionDenied, match="needs admin"),
    ):
        client.reset_occupancy("door", "line", 0)


def test_without_or_with_a_wrong_token_nothing_is_told(secured: Secured) -> None:
    for token, word in ((None, "a token is needed"), ("flatframe_wrong", "not known")):
        with (
            connect(secured.server.address, ca=secured.ca, token=token) as client,
            pytest.raises(Unauthenticated, match=word) as caught,
        ):
            client.cameras()
        assert not caught.value.is_passing


def test_a_server_that_is_not_trusted_gets_no_token(secured: Secured) -> None:
    with connect(secured.server.address, token=secured.tokens["read"]) as client, pytest.raises(Unavailable):
        client.cameras()


def test_what_cannot_be_a_token_or_an_authority_is_refused(secured: Secured) -> None:
    for token in ("", "two words", "line\n"):
        with pytest.raises(ValueError, match="tokens add"):
            connect(secured.server.address, ca=secured.ca, token=token)
    with pytest.raises(FileNotFoundError):
        Client(secured.server.address, ca="/no/such/file")
