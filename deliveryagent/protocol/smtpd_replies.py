"""What the server's side says, as octets (RFC 5321 4.2, RFC 2034).

Guarantees: every line of a reply has the same code and enhanced code and ends in CRLF; a text, wherever it
came from, is printable ASCII that ends no line, and no line is longer than 512 octets. The greeting, the
answers to EHLO and HELO, 334 and 354 carry no enhanced code. Never decides what is said.
"""

from datetime import UTC, datetime
from functools import lru_cache

from deliveryagent.protocol.session import Session
from deliveryagent.protocol.smtpd_steps import Terms

_LONGEST = 480  # octets of text on a line
_MOST_LINES = 20

OK = b"250 2.0.0 Ok\r\n"
MAIL_OK = b"250 2.1.0 Ok\r\n"
RCPT_OK = b"250 2.1.5 Ok\r\n"
DATA_GO = b"354 End data with <CR><LF>.<CR><LF>\r\n"


@lru_cache(maxsize=256)
def reply(code: int, enhanced: str, text: str) -> bytes:
    """A reply; lines of ``text`` become lines of it. An empty ``enhanced`` is left out.

    >>> reply(550, "5.7.1", "No\\nnever")
    b'550-5.7.1 No\\r\\n550 5.7.1 never\\r\\n'
    """
    lines = [_tame(line) for line in text.splitlines()[:_MOST_LINES]] or [""]
    status = f"{enhanced} " if enhanced else ""
    whole = [f"{code}-{status}{line}".rstrip() for line in lines[:-1]]
    whole.append(f"{code} {status}{lines[-1]}".rstrip(" ") if lines[-1] or status else f"{code} ")
    return "".join([line + "\r\n" for line in whole]).encode("ascii")


def kept_reply(text: str) -> bytes:
    """The reply that takes a message: never the same twice, so it is not remembered.

    >>> kept_reply("Ok: queued as 0C7")
    b'250 2.0.0 Ok: queued as 0C7\\r\\n'
    """
    if "\n" in text or "\r" in text:
        return reply(250, "2.0.0", text)
    return f"250 2.0.0 {_tame(text)}\r\n".encode("ascii")


def _tame(text: str) -> str:
    if len(text) <= _LONGEST and text.isascii() and text.isprintable():
        return text
    return "".join([letter if " " <= letter <= "~" else "?" for letter in text[:_LONGEST]])


def ehlo_reply(terms: Terms, session: Session, *, xclient: bool, now: float) -> bytes:
    """The answer to EHLO or LHLO: what is on offer in this state of the session."""
    secure = session.tls is not None
    until = int(now // 60) * 60 + terms.hold_limit if terms.hold_limit else 0.0
    return _ehlo_reply(terms, secure, bool(session.user), xclient, until)


@lru_cache(maxsize=64)
def _ehlo_reply(
    terms: Terms,
    secure: bool,
    known: bool,
    xclient: bool,
    until: float,
) -> bytes:
    lines = [
        terms.hostname,
        "PIPELINING",
        f"SIZE {terms.size_limit}" if terms.size_limit else "SIZE",
    ]
    if terms.tls and not secure:
        lines.append("STARTTLS")
    mechanisms = [] if known else offered_mechanisms(terms, secure=secure)
    if mechanisms:
        lines.append("AUTH " + " ".join(mechanisms))
    lines += ["ENHANCEDSTATUSCODES", "8BITMIME", "DSN", "SMTPUTF8", "CHUNKING"]
    if secure:
        lines.append("REQUIRETLS")
    if terms.recipient_limit:
        lines.append(f"LIMITS RCPTMAX={terms.recipient_limit}")
    lines += ["DELIVERBY", "MT-PRIORITY"]
    if until:
        moment = datetime.fromtimestamp(until, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        lines.append(f"FUTURERELEASE {int(terms.hold_limit)} {moment}")
    if xclient:
        lines.append("XCLIENT NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT")
    return reply(250, "", "\n".join(lines))


def offered_mechanisms(terms: Terms, *, secure: bool) -> list[str]:
    """The mechanisms a client may choose from now: those that show the password, only under TLS."""
    if terms.require_tls and not secure:
        return []
    clear = secure or terms.auth_without_tls
    return [one for one in terms.mechanisms if clear or one not in SHOWING]


SHOWING = frozenset({"PLAIN", "LOGIN", "XOAUTH2", "OAUTHBEARER"})
"""Mechanisms in which whoever listens learns what is needed to log in."""
