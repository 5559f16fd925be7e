"""Milters that others have written: a library in Python, opendkim and rspamd."""

import asyncio
import base64
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from kilter.protocol import Accept as Agree
from kilter.protocol import Discard as Forget
from kilter.protocol import Header, ReplyCode
from kilter.protocol import Reject as Refuse
from kilter.service import END, START, Runner
from kilter.service import Session as Filtering

from deliveryagent.intake.hooks import Hooks
from deliveryagent.intake.message import Message
from deliveryagent.intake.milter import Milter
from deliveryagent.mail.verdict import Decision, Reject
from deliveryagent.protocol.session import Session
from tests.doors.milters import LETTER, begin, free_port, in_a_loop, installed, running, session

GTUBE = b"XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"
SPAMMY = GTUBE.replace(b"XJS", b"YJS", 1)
LEE = "lee@example.net"


def asking(address: str) -> Milter:
    def trouble(name: str, stage: str, error: BaseException) -> None:
        raise AssertionError((name, stage)) from error

    return Milter(address, timeout=30, default_action="tempfail", trouble=trouble)


async def take(
    milter: Milter, where: Session, *, raw: bytes = LETTER, sender: str = "kim@example.org"
) -> tuple[Decision | None, Message]:
    """A whole message through all stages, asked as a listener asks."""
    hooks = Hooks([], limit=1, trouble=lambda *_: None, last=[(milter.name, milter)])
    message = begin(where, LEE, sender=sender, raw=raw)
    transaction = message.transaction
    (recipient,) = transaction.recipients
    transaction.recipients = []
    verdict = None
    for stage, *given in (
        ("mail", transaction),
        ("rcpt", recipient),
        ("data",),
        ("message", message),
    ):
        answer = hooks.ask(stage, where, *given)
        verdict = await answer  # type: ignore[misc]
        if verdict is not None:
            break
        if stage == "rcpt":
            transaction.recipients.append(recipient)
    return verdict, message


# -- a library in Python ---


async def rewriting(filtering: Filtering) -> Agree | Refuse | Forget | ReplyCode:
    """A filter that looks at all there is and changes some of it."""
    name = await filtering.helo()
    sender = await filtering.envelope_from()
    recipients = [one async for one in filtering.envelope_recipients()]
    if LEE not in recipients[0]:
        return ReplyCode(b"550 5.1.1 only for lee\0")
    async with filtering.headers as fields:
        found = [field async for field in fields]
    text = b""
    async with filtering.body as body:
        async for piece in body:
            text += bytes(piece)
    await filtering.headers.insert(Header("X-Seen", f"{name} {sender}".encode()), START)
    await filtering.headers.insert(Header("X-Fields", str(len(found)).encode()), END)
    await filtering.headers.update(found[2], b"rewritten")
    await filtering.body.write(text.upper())
    await filtering.change_sender("<changed@example.org>")
    await filtering.add_recipient("<more@example.net>")
    return Agree()


@asynccontextmanager
async def kilter(path: Path) -> AsyncIterator[str]:
    listener = await anyio.create_unix_listener(path)
    serving = asyncio.create_task(listener.serve(Runner(rewriting)))
    try:
        yield f"unix:{path}"
    finally:
        serving.cancel()
        await asyncio.wait({serving})
        await listener.aclose()


@in_a_loop
async def test_a_filter_of_another_library_sees_and_changes_messages(tmp_path: Path) -> None:
    async with kilter(tmp_path / "m") as address:
        milter, where = asking(address), session()
        await milter.connect(where)
        await milter.helo(where, "client.example.org")
        verdict, message = await take(milter, where)
        milter.disconnect(where)
    assert verdict is None
    assert message.header("X-Seen") == "client.example.org <kim@example.org>"
    assert message.fields[0][0] == "X-Seen"
    assert message.header("X-Fields") == "5"
    assert message.header("Subject") == "rewritten"
    assert b"".join(message.body()) == b"HELLO\r\n.\r\n"
    assert message.sender == "changed@example.org"
    assert message.recipients == (LEE, "more@example.net")


# -- opendkim ---


@pytest.mark.skipif(installed("opendkim") is None, reason="opendkim is not installed")
@in_a_loop
async def test_opendkim_signs_what_is_sent(tmp_path: Path) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    (tmp_path / "key").write_bytes(pem)
    socket = f"{tmp_path}/s"
    (tmp_path / "conf").write_text(
        f"Socket local:{socket}\nDomain example.org\nSelector one\nKeyFile {tmp_path}/key\n"
        f"PidFile {tmp_path}/pid\nRequireSafeKeys false\nMode s\nBackground no\n"
        "Canonicalization simple/simple\n"
    )
    command = [str(installed("opendkim")), "-f", "-x", f"{tmp_path}/conf"]
    raw = LETTER.replace(b"Subject: one\r\n two", b"Subject:  odd \t blanks\r\n\t folded ")
    with running(command, socket):
        milter, where = asking(f"local:{socket}"), session(user="kim", mechanism="PLAIN")
        await milter.connect(where)
        await milter.helo(where, "client.example.org")
        for _ in range(3):
            verdict, message = await take(milter, where, raw=raw)
            assert verdict is None
            signed, hashed = signature(message)
            digest = hashes.Hash(hashes.SHA256())
            digest.update(b"".join(message.body()))
            assert digest.finalize() == hashed["bh"]
            key.public_key().verify(hashed["b"], signed, padding.PKCS1v15(), hashes.SHA256())
        where.client = type(where.client)(address="192.0.2.8", port=1)
        await milter.connect(where)
        milter.disconnect(where)


def signature(message: Message) -> tuple[bytes, dict[str, bytes]]:
    """What the signature on top is made of (RFC 6376 3.7, simple), and its hashes."""
    name, value = message.fields[0]
    assert name == "DKIM-Signature"
    tags = dict(re.findall(r"\b([a-z]+)=([^;]*)", re.sub(r"\s", "", value)))
    by_name = {known.lower(): f"{known}:{text}\r\n" for known, text in message.fields[1:]}
    fields = [by_name[wanted.lower()] for wanted in tags["h"].split(":")]
    unsigned = re.sub(r"\bb=[^;]*", "b=", value)
    signed = "".join(fields) + f"{name}:{unsigned}"
    return signed.encode(), {tag: base64.b64decode(tags[tag]) for tag in ("b", "bh")}


# -- rspamd ---

RSPAMD = """
options {{ tempdir = "{home}"; pidfile = "{home}/pid"; filters = ""; control_socket = "{home}/control";
  enable_test_patterns = true; dns {{ nameserver = ["127.0.0.1:1:1"]; timeout = 0.1s; }} }}
logging {{ type = "file"; filename = "{home}/log"; level = "info"; }}
worker {{ type = "rspamd_proxy"; bind_socket = "127.0.0.1:{port}"; milter = yes; count = 1; timeout = 30s;
  upstream "local" {{ default = yes; self_scan = yes; }} }}
actions {{ reject = 15; add_header = 6; }}
"""


@pytest.mark.skipif(installed("rspamd") is None, reason="rspamd is not installed")
@in_a_loop
async def test_rspamd_refuses_marks_and_lets_through(tmp_path: Path) -> None:
    port = free_port()
    home = tmp_path / "rspamd"
    home.mkdir()
    conf = home / "conf"
    conf.write_text(RSPAMD.format(home=home, port=port))
    with running([str(installed("rspamd")), "-f", "-i", "-c", str(conf)], port):
        milter = asking(f"inet:127.0.0.1:{port}")
        where = session(kind="smtp")
        await milter.connect(where)
        await milter.helo(where, "client.example.org")
        verdict, message = await take(milter, where)
        assert verdict is None
        assert message.content == LETTER
        verdict, _ = await take(milter, where, raw=LETTER.replace(b"Hello", GTUBE))
        assert verdict == Reject(code=554, text="Gtube pattern")
        verdict, message = await take(milter, where, raw=LETTER.replace(b"Hello", SPAMMY))
        assert verdict is None
        assert message.header("X-Spam") == "Yes"
        verdict, message = await take(milter, where, sender="")
        assert verdict is None
        milter.disconnect(where)
