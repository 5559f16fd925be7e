"""What is relied upon in aiosmtplib, fact by fact: a new release that changes one fails here first."""

import asyncio
import inspect
from importlib.metadata import version

import aiosmtplib
import pytest
from aiosmtplib.protocol import SMTPProtocol

from deliveryagent.mail.security import TlsLevel
from deliveryagent.wire.connection import Connection
from deliveryagent.wire.contexts import client_context
from deliveryagent.wire.stream import ReplyStream
from tests.doors.talks import QUICK, Run, both_loops, dialled, introduced, send, told
from tests.doubles.scripted_peer import Close, Raw, ScriptedPeer, Stall

AUTH = ("PIPELINING", "AUTH PLAIN LOGIN CRAM-MD5")


def client(connection: Connection) -> aiosmtplib.SMTP:
    """aiosmtplib's client on a connection of ours, through its public attributes."""
    smtp = aiosmtplib.SMTP(hostname="mx.example", local_hostname="me.example", start_tls=False)
    smtp.protocol = connection
    smtp.transport = connection.transport
    return smtp


def test_the_release_is_one_of_the_line_that_was_read() -> None:
    major, minor, patch = (int(part) for part in version("aiosmtplib").split(".")[:3])
    assert (major, minor) == (5, 1)
    assert patch >= 3


def test_the_methods_overridden_are_those_of_the_original() -> None:
    for name in ("write", "read_response", "start_tls"):
        ours, theirs = getattr(Connection, name), getattr(SMTPProtocol, name)
        assert inspect.signature(ours) == inspect.signature(theirs)
    for name in ("connection_made", "connection_lost", "pause_writing", "resume_writing"):
        assert callable(getattr(SMTPProtocol, name))


def test_no_attribute_of_ours_is_one_of_theirs() -> None:
    async def main() -> None:
        theirs = set(vars(SMTPProtocol(loop=asyncio.get_running_loop()))) - {"transport"}
        ours = set(vars(Connection("x", QUICK))) - theirs
        assert ours >= {"label", "transcript"}
        methods = {name for kind in Connection.__mro__[:2] for name in vars(kind)}
        assert not methods & theirs
        # And what is set in our constructors is not set in theirs, where it would change their meaning.
        source = inspect.getsource(ReplyStream)
        assert not [
            name for name in theirs if f"self.{name} =" in source or f"self.{name}:" in source
        ]

    asyncio.run(main())


@both_loops
def test_the_transport_is_kept_while_connected_and_dropped_afterwards(run: Run[None]) -> None:
    async def main() -> None:
        async with ScriptedPeer() as peer, introduced(peer) as (connection, _):
            assert connection.transport is not None
            connection.abort()
            await asyncio.sleep(0.01)
            assert connection.transport is None

    run(main())


@both_loops
def test_the_greeting_reaches_whoever_asks_first(run: Run[None]) -> None:
    async def main() -> None:
        async with ScriptedPeer() as peer, dialled(peer) as connection:
            response = await connection.read_response(timeout=1)
            assert response == aiosmtplib.SMTPResponse(220, "peer.example ESMTP")

    run(main())


@both_loops
@pytest.mark.parametrize("mechanism", ["plain", "login", "crammd5"])
def test_authentication_runs_on_a_connection_of_ours(run: Run[None], mechanism: str) -> None:
    async def main() -> None:
        challenge = "334 PDE4OTYuNjk3MTcwOTUyQHBvc3RvZmZpY2U+"
        script = {
            "AUTH": {"plain": "235 2.7.0 welcome"}.get(mechanism, challenge),
            "C2VJCMV0": "235 2.7.0 welcome",  # to the peer the password is one more verb
        }
        async with (
            ScriptedPeer(script, extensions=AUTH) as peer,
            introduced(peer) as (connection, capabilities),
        ):
            smtp = client(connection)
            await smtp.ehlo()
            if mechanism == "crammd5":
                with pytest.raises(aiosmtplib.SMTPAuthenticationError) as refused:
                    await smtp.auth_crammd5("kim", "secret")
                assert refused.value.code == 502
            else:
                method = getattr(smtp, f"auth_{mechanism}")
                assert (await method("kim", "secret")).code == 235
            assert told(await send(connection, capabilities)) == ["dot 250"]
            said = "\n".join(connection.transcript.lines())
            assert "(hidden)" in said
            for secret in ("c2VjcmV0", "AGtpbQBzZWNyZXQ="):
                assert secret not in said

    run(main())


@both_loops
def test_starttls_and_quit_run_on_a_connection_of_ours(run: Run[None]) -> None:
    async def main() -> None:
        async with ScriptedPeer(tls=True) as peer, introduced(peer) as (connection, _):
            smtp = client(connection)
            await smtp.ehlo()
            context = client_context(TlsLevel.MAY)
            assert (await smtp.starttls(tls_context=context)).code == 220
            assert connection.tls is not None
            assert (await smtp.ehlo()).code == 250
            assert (await smtp.quit()).code == 221

    run(main())


@both_loops
def test_a_plaintext_reply_behind_the_220_is_refused_there_too(run: Run[None]) -> None:
    async def main() -> None:
        script = {"STARTTLS": Raw(b"220 go\r\n250 fake\r\n")}
        async with ScriptedPeer(script, tls=True) as peer, introduced(peer) as (connection, _):
            smtp = client(connection)
            await smtp.ehlo()
            with pytest.raises(aiosmtplib.SMTPServerDisconnected):
                await smtp.starttls(tls_context=client_context(TlsLevel.MAY))

    run(main())


@both_loops
def test_their_exceptions_tell_our_failures_apart(run: Run[None]) -> None:
    async def main() -> None:
        actions: list[tuple[object, type[Exception]]] = [
            (Stall(), aiosmtplib.SMTPReadTimeoutError),
            (Close(), aiosmtplib.SMTPServerDisconnected),
            (Raw(b"what?\r\n"), aiosmtplib.SMTPResponseException),
        ]
        for action, kind in actions:
            async with ScriptedPeer({"NOOP": action}) as peer, introduced(peer) as (connection, _):
                with pytest.raises(kind):
                    await connection.execute_command(b"NOOP", timeout=0.2)
                with pytest.raises(aiosmtplib.SMTPServerDisconnected):
                    await connection.execute_command(b"NOOP", timeout=0.2)
        for action in (Stall(), "454 4.7.0 not now"):
            script = {"STARTTLS": action}
            async with (
                ScriptedPeer(script, tls=True) as peer,
                introduced(peer, QUICK) as (connection, _),
            ):
                with pytest.raises(
                    (aiosmtplib.SMTPReadTimeoutError, aiosmtplib.SMTPResponseException)
                ):
                    await connection.start_tls(client_context(TlsLevel.MAY), "mx.example")

    run(main())


@both_loops
def test_a_reply_nobody_asked_for_stops_their_next_command(run: Run[None]) -> None:
    async def main() -> None:
        script = {"NOOP": Raw(b"250 one\r\n250 two\r\n")}
        async with ScriptedPeer(script) as peer, introduced(peer) as (connection, _):
            with pytest.raises(aiosmtplib.SMTPResponseException):
                await connection.execute_command(b"NOOP", timeout=1)
            with pytest.raises(aiosmtplib.SMTPServerDisconnected):
                await connection.execute_command(b"NOOP", timeout=1)

    run(main())
