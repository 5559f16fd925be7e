"""STARTTLS: what was said in clear counts for nothing afterwards, and trouble has its right name."""

import asyncio
import ssl

import pytest

from deliveryagent.mail.delivery import Failure, Trouble
from deliveryagent.mail.security import TlsLevel
from deliveryagent.mail.status import SmtpReply
from deliveryagent.protocol import dialogue
from deliveryagent.wire.contexts import client_context
from tests.doors.talks import PATIENT, QUICK, Run, both_loops, introduced, send, told
from tests.doubles.scripted_peer import (
    Close,
    Pause,
    Raw,
    ScriptedPeer,
    Stall,
    authority,
)


@both_loops
@pytest.mark.parametrize("level", [TlsLevel.MAY, TlsLevel.ENCRYPT])
def test_a_session_goes_on_encrypted(run: Run[None], level: TlsLevel) -> None:
    async def main() -> None:
        async with ScriptedPeer(tls=True) as peer, introduced(peer) as (connection, capabilities):
            assert capabilities.starttls
            outcome = await connection.secure(client_context(level), "mx.example")
            assert isinstance(outcome, SmtpReply)
            assert connection.tls is not None
            assert connection.tls.protocol == "TLSv1.3"
            assert connection.tls.bits >= 128
            assert not connection.tls.verified
            assert connection.tls.summary().endswith("untrusted")
            hello = await connection.play(dialogue.hello("me.example"))
            assert hello.capabilities is not None
            big = (b"x" * 70 + b"\r\n") * 50_000
            assert told(await send(connection, hello.capabilities, content=big)) == ["dot 250"]
            assert peer.messages[0].raw == big
            assert peer.verbs()[:3] == ["EHLO", "STARTTLS", "EHLO"]

    run(main())


def verifying() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority().configure_trust(context)
    return context


@both_loops
def test_a_certificate_that_must_fit_fits_or_not(run: Run[None]) -> None:
    async def main() -> None:
        async with ScriptedPeer(tls=True) as peer, introduced(peer) as (connection, _):
            assert isinstance(await connection.secure(verifying(), "mx.example"), SmtpReply)
            assert connection.tls is not None
            assert connection.tls.verified
            assert connection.tls.peer_names == ("mx.example",)
        async with ScriptedPeer(tls=True) as peer, introduced(peer) as (connection, _):
            outcome = await connection.secure(verifying(), "other.example")
            assert isinstance(outcome, Failure)
            assert outcome.trouble is Trouble.TLS_UNTRUSTED
            assert connection.closed_by_peer()

    run(main())


@both_loops
@pytest.mark.parametrize(
    "injected", [b"250 fake\r\n", b"25", b"250-fake\r\n250 AUTH PLAIN\r\n", b"421 x\r\n"]
)
def test_what_follows_the_220_in_clear_ends_the_session(run: Run[None], injected: bytes) -> None:
    async def main() -> None:
        script = {"STARTTLS": Raw(b"220 go on\r\n" + injected)}
        async with ScriptedPeer(script, tls=True) as peer, introduced(peer) as (connection, _):
            outcome = await connection.secure(client_context(TlsLevel.MAY), "mx.example")
            assert isinstance(outcome, Failure)
            assert outcome.trouble is Trouble.PROTOCOL
            assert connection.tls is None
            assert connection.closed_by_peer()
            hello = await connection.play(dialogue.hello("me.example"))
            assert hello.capabilities is None
            assert peer.verbs() == ["EHLO", "STARTTLS"]

    run(main())


@both_loops
def test_what_comes_in_clear_after_the_220_breaks_the_handshake(run: Run[None]) -> None:
    async def main() -> None:
        script = {"STARTTLS": "220 go on", "HANDSHAKE": Pause(0.05, Raw(b"250 fake\r\n"))}
        async with ScriptedPeer(script, tls=True) as peer, introduced(peer) as (connection, _):
            outcome = await connection.secure(client_context(TlsLevel.MAY), "mx.example")
            assert isinstance(outcome, Failure)
            assert outcome.trouble is Trouble.TLS_FAILED
            assert connection.closed_by_peer()

    run(main())


@both_loops
@pytest.mark.parametrize("text", ["454 4.7.0 not now", "501 5.5.4 what?", "354 go"])
def test_a_refused_starttls_leaves_the_session_as_it_was(run: Run[None], text: str) -> None:
    async def main() -> None:
        script = {"STARTTLS": text}
        async with ScriptedPeer(script, tls=True) as peer, introduced(peer) as (connection, offer):
            outcome = await connection.secure(client_context(TlsLevel.MAY), "mx.example")
            assert isinstance(outcome, SmtpReply)
            assert outcome.code == int(text[:3])
            assert connection.tls is None
            assert told(await send(connection, offer)) == ["dot 250"]

    run(main())


@both_loops
@pytest.mark.parametrize(
    ("script", "trouble"),
    [
        ({"STARTTLS": Stall()}, Trouble.TIMEOUT),
        ({"STARTTLS": Close()}, Trouble.LOST),
        ({"HANDSHAKE": Stall()}, Trouble.TLS_FAILED),
        ({"HANDSHAKE": Close()}, Trouble.TLS_FAILED),
        ({"HANDSHAKE": Pause(0.1, Raw(b"\x15\x03\x01\x00\x02\x02\x28"))}, Trouble.TLS_FAILED),
    ],
    ids=str,
)
def test_a_broken_handshake_has_a_name(
    run: Run[None], script: dict[str, object], trouble: Trouble
) -> None:
    async def main() -> None:
        limits = QUICK if Stall() in script.values() else PATIENT
        async with (
            ScriptedPeer(script, tls=True) as peer,
            introduced(peer, limits) as (connection, _),
        ):
            outcome = await connection.secure(client_context(TlsLevel.MAY), "mx.example")
            assert isinstance(outcome, Failure)
            assert outcome.trouble is trouble
            assert outcome.text.isprintable()
            assert connection.closed_by_peer()
            assert connection.transcript.lines()[-1] == f"* {outcome.text}"

    run(main())


@both_loops
@pytest.mark.parametrize(
    "name", ["", ".example", "x" * 64 + ".example", "a..example", "a\0.example"]
)
def test_a_name_that_tls_cannot_use_is_a_failure(run: Run[None], name: str) -> None:
    async def main() -> None:
        async with ScriptedPeer(tls=True) as peer, introduced(peer) as (connection, _):
            outcome = await connection.secure(client_context(TlsLevel.MAY), name)
            assert isinstance(outcome, Failure)
            assert outcome.trouble is Trouble.TLS_FAILED

    run(main())


@both_loops
def test_cancelling_a_handshake_ends_the_connection(run: Run[None]) -> None:
    async def main() -> None:
        script = {"HANDSHAKE": Stall()}
        async with ScriptedPeer(script, tls=True) as peer, introduced(peer) as (connection, _):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await connection.secure(client_context(TlsLevel.MAY), "mx.example")
            assert connection.closed_by_peer()

    run(main())


def test_contexts_are_made_once_and_do_not_ask_who_the_peer_is() -> None:
    for level in (TlsLevel.MAY, TlsLevel.ENCRYPT):
        context = client_context(level)
        assert client_context(level) is context
        assert context.verify_mode is ssl.CERT_NONE
        assert not context.check_hostname
        assert context.minimum_version is ssl.TLSVersion.TLSv1_2
        assert context.options & ssl.OP_NO_COMPRESSION
    with pytest.raises(ValueError, match="clear"):
        client_context(TlsLevel.NONE)
