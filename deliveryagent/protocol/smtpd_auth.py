"""AUTH (RFC 4954): the exchange of base64 lines around a mechanism of ``protocol.sasl``.

Guarantees: a mechanism that shows the password is not offered in clear unless the terms say so; who guesses
is slowed down and, after some failures, sent away; a response that is no base64, too long, or cancelled ends
the exchange with the reply of the RFC. Never logs or keeps a response.
"""

import binascii
import re
from collections.abc import Generator
from typing import Any

from deliveryagent.mail.verdict import Reject, Tempfail
from deliveryagent.protocol import sasl
from deliveryagent.protocol.esmtp import CommandError
from deliveryagent.protocol.smtpd_conversation import Conversation
from deliveryagent.protocol.smtpd_replies import offered_mechanisms, reply
from deliveryagent.protocol.smtpd_steps import (
    RESPONSE_LIMIT,
    Attempt,
    Failed,
    Line,
    QuitSession,
    Step,
    Steps,
    Succeeded,
    Wait,
)

_RESPONSE = Line(RESPONSE_LIMIT)
_MECHANISM = re.compile(r"[A-Z0-9_-]{1,20}")


def authenticate(talk: Conversation, argument: str) -> Steps:
    """The command AUTH, to the reply that ends it."""
    name, _, response = argument.partition(" ")
    name = name.upper()
    _check(talk, name)
    barred = yield Attempt()
    if isinstance(barred, Reject | Tempfail):
        talk.refuse(barred)
        return
    initial = _decoded(response) if response else None
    nonce: str = talk.nonce()
    session = talk.session
    session.mechanism = name
    exchange = sasl.begin(name, initial, nonce=nonce, hostname=talk.terms.hostname)
    try:
        outcome, asked = yield from _exchange(talk, exchange)
        session.user = outcome.user if isinstance(outcome, sasl.Login) else ""
    finally:
        if not session.user:
            session.mechanism = ""
    if isinstance(outcome, sasl.Login):
        talk.login_failures = 0
        yield Succeeded(outcome.user)
        talk.out += reply(235, "2.7.0", "Authentication successful")
        return
    if isinstance(outcome, Tempfail):
        talk.refuse(outcome)
        return
    talk.login_failures += 1
    yield Wait((yield Failed(asked)))
    talk.say(outcome.code, outcome.enhanced, outcome.text)
    if 0 < talk.terms.auth_error_limit <= talk.login_failures:
        talk.say(421, "4.7.0", "Too many failed logins")
        raise QuitSession


def _check(talk: Conversation, name: str) -> None:
    """Whether this mechanism may be used now; raises ``CommandError``."""
    terms, session = talk.terms, talk.session
    if not terms.mechanisms:
        raise CommandError(502, "5.5.1", "AUTH is not available")
    if session.verb not in {"EHLO", "LHLO"}:
        raise CommandError(503, "5.5.1", "Send EHLO first")
    if session.user:
        raise CommandError(503, "5.5.1", "Logged in already")
    if session.transaction is not None:
        raise CommandError(503, "5.5.1", "Not while a message is at hand")
    if _MECHANISM.fullmatch(name) is None:
        raise CommandError(501, "5.5.4", "Syntax: AUTH mechanism [response]")
    if name in offered_mechanisms(terms, secure=session.tls is not None):
        return
    if name in terms.mechanisms:
        raise CommandError(538, "5.7.11", "Encryption is required for this mechanism")
    raise CommandError(504, "5.5.4", f"{name} is not offered")


def _exchange(
    talk: Conversation, exchange: sasl.Exchange
) -> Generator[Step, Any, tuple[sasl.End | Tempfail, str]]:
    """Play a mechanism; how it ended, and the name it was about."""
    user, answer = "", None
    try:
        while True:
            try:
                step = exchange.send(answer)
            except StopIteration as end:
                return end.value, user
            if isinstance(step, sasl.Challenge):
                answer = yield from _ask(talk, step.data)
                continue
            user = step.user
            answer = yield step
            if isinstance(answer, Tempfail):
                return answer, user
    finally:
        exchange.close()


def _ask(talk: Conversation, challenge: bytes) -> Generator[Step, Any, bytes]:
    """One challenge and its response; raises ``CommandError`` when that is none."""
    talk.out += b"334 " + binascii.b2a_base64(challenge, newline=False) + b"\r\n"
    line: bytes | None = yield _RESPONSE
    if line is None:
        raise CommandError(500, "5.5.6", "The response is too long")
    if line == b"*":
        raise CommandError(501, "5.7.0", "Authentication cancelled")
    return _decoded(line)


def _decoded(response: bytes | str) -> bytes:
    if response in {"=", b"="}:
        return b""
    try:
        return binascii.a2b_base64(response, strict_mode=True)
    except ValueError:
        raise CommandError(501, "5.5.2", "The response is not base64") from None
