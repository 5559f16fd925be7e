"""The server's side of SMTP, submission and LMTP, as a generator that never sees a socket.

``serve`` yields what it needs (``smtpd_steps``) and receives it; replies gather in ``Conversation.out``, to
be written before the player waits for anything but a ``Wait``. So pipelining (RFC 2920) costs nothing: what
came together is answered together. ``intake.smtp_session`` is the player.

A client that goes away closes the generator; ``Over``, thrown in, ends the session with a 421. Guarantees:
for any octets, cut in any way, the same replies, but for what follows STARTTLS in one write, which ends the
session; every reply has an enhanced code of its class (RFC 2034), but for those that may not; nothing is
taken without a yes to ``Keep``. Never knows the time but from ``Conversation.clock``.
"""

from collections.abc import Callable

from deliveryagent.mail.verdict import Accept, Reject, Tempfail
from deliveryagent.protocol import esmtp, smtpd_hello, smtpd_mail
from deliveryagent.protocol.esmtp import CommandError
from deliveryagent.protocol.smtpd_auth import authenticate
from deliveryagent.protocol.smtpd_conversation import Conversation
from deliveryagent.protocol.smtpd_replies import OK, reply
from deliveryagent.protocol.smtpd_steps import (
    FORGET,
    LINE_LIMIT,
    RESPONSE_LIMIT,
    Line,
    Over,
    QuitSession,
    Steps,
    Wait,
)

__all__ = ["FORGET", "Conversation", "serve"]

_LINE = Line()
_LINE_WITH_AUTH = Line(RESPONSE_LIMIT)  # tokens come with the command itself
_BEFORE_TLS = frozenset({"NOOP", "EHLO", "HELO", "LHLO", "STARTTLS", "QUIT"})
_BEFORE_AUTH = _BEFORE_TLS | {"AUTH", "RSET", "XCLIENT"}
_INTERNATIONAL = frozenset({"MAIL", "RCPT", "VRFY"})  # RFC 6531 3.3
_ELSEWHERE = frozenset({"EXPN", "ETRN", "SEND", "SOML", "SAML"})
_OTHER_PROTOCOLS = frozenset({"GET", "POST", "PUT", "HEAD", "OPTIONS", "CONNECT"})


def serve(talk: Conversation) -> Steps:
    """From the greeting to the end of the session."""
    try:
        yield from smtpd_hello.greet(talk)
        terms = talk.terms
        step = _LINE_WITH_AUTH if terms.mechanisms else _LINE
        while True:
            line = yield step
            errors = talk.errors
            try:
                yield from _begun(talk, line)
            except CommandError as fault:
                talk.say(fault.code, fault.enhanced, fault.text)
            if talk.errors == errors:
                continue
            if 0 < terms.hard_error_limit <= talk.errors:
                talk.out += reply(421, "4.7.0", "Too many errors")
                return
            if talk.errors > terms.soft_error_limit:
                yield Wait(terms.error_sleep)
    except QuitSession:
        return
    except Over as over:
        talk.out += reply(421, over.enhanced, over.text)


def _begun(talk: Conversation, line: bytes | None) -> Steps:
    """The command of a line, begun; raises ``CommandError``."""
    if line is None or (len(line) > LINE_LIMIT - 2 and line[:5].upper() != b"AUTH "):
        raise CommandError(500, "5.5.2", "Line too long")
    verb, argument = esmtp.split_command(line)
    act = _ACTS.get(verb)
    if verb in _OTHER_PROTOCOLS:  # somebody's browser may have been told to connect here
        talk.say(554, "5.5.1", "This is no web server")
        raise QuitSession
    try:
        _permit(talk, verb, argument)
    except CommandError as fault:
        if verb == "BDAT":  # its octets come all the same, and are no commands
            return smtpd_mail.bdat(talk, argument, fault)
        raise
    return _other(talk, verb, argument) if act is None else act(talk, argument)


def _permit(talk: Conversation, verb: str, argument: str) -> None:
    """Whether this may be said, before TLS and before a login too; raises ``CommandError``."""
    terms, session = talk.terms, talk.session
    if not argument.isascii() and verb not in _INTERNATIONAL:
        raise CommandError(500, "5.5.2", "Only addresses may have characters beyond ASCII")
    if terms.require_tls and session.tls is None and verb not in _BEFORE_TLS:
        raise CommandError(530, "5.7.0", "Must issue a STARTTLS command first")
    if terms.require_auth and not session.user and verb not in _BEFORE_AUTH:
        raise CommandError(530, "5.7.0", "Authentication required")


def _rset(talk: Conversation, argument: str) -> Steps:
    if argument:
        raise CommandError(501, "5.5.4", "RSET has no argument")
    yield from talk.reset()
    talk.idle()
    talk.out += OK


def _noop(talk: Conversation, argument: str) -> Steps:
    del argument
    talk.idle()
    talk.out += OK
    yield from ()


def _quit(talk: Conversation, argument: str) -> Steps:
    if argument:
        raise CommandError(501, "5.5.4", "QUIT has no argument")
    talk.out += reply(221, "2.0.0", "Bye")
    yield from talk.reset()
    raise QuitSession


def _vrfy(talk: Conversation, argument: str) -> Steps:
    """Says neither yes nor no (RFC 5321 3.5.3)."""
    talk.idle()
    if not argument:
        raise CommandError(501, "5.5.4", "Syntax: VRFY address")
    talk.out += reply(252, "2.0.0", "Send mail to find out")
    yield from ()


def _help(talk: Conversation, argument: str) -> Steps:
    del argument
    talk.idle()
    talk.out += reply(214, "2.0.0", "See RFC 5321 and the documentation of this service")
    yield from ()


def _other(talk: Conversation, verb: str, argument: str) -> Steps:
    """What is no command here, unless a hook makes it one."""
    decision = yield from talk.consult("command", verb, argument)
    if isinstance(decision, Accept):
        talk.idle()
        talk.out += reply(250, "2.0.0", decision.text or "Ok")
    elif isinstance(decision, Reject | Tempfail):
        talk.refuse(decision)
    elif verb in _ELSEWHERE:
        raise CommandError(502, "5.5.1", f"{verb} is not implemented")
    elif verb == "TURN":
        raise CommandError(500, "5.5.1", "TURN is obsolete")
    else:
        raise CommandError(500, "5.5.2", "Command not recognised")


_ACTS: dict[str, Callable[[Conversation, str], Steps]] = {
    "EHLO": smtpd_hello.ehlo,
    "HELO": smtpd_hello.helo_,
    "LHLO": smtpd_hello.lhlo,
    "STARTTLS": smtpd_hello.starttls,
    "XCLIENT": smtpd_hello.xclient,
    "AUTH": authenticate,
    "MAIL": smtpd_mail.mail,
    "RCPT": smtpd_mail.rcpt,
    "DATA": smtpd_mail.data,
    "BDAT": smtpd_mail.bdat,
    "RSET": _rset,
    "NOOP": _noop,
    "QUIT": _quit,
    "VRFY": _vrfy,
    "HELP": _help,
}
