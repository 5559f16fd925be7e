"""Command lines: what the client may say, as octets that end in CRLF.

Guarantees: every line returned is one line. Whatever an address, a name or an identifier contains, there
is no second CR or LF, no NUL or other control character, no blank or angle bracket outside a quoted local
part, and never more than ``LINE_LIMIT`` octets; anything else raises ``UnsafeCommandError``. This is the last
check before the wire: addresses were parsed long before (``mail.address``), but rows in a database can be
edited by hand. Parameters are encoded here: xtext (RFC 3461 4) and its UTF-8 sibling (RFC 6533 3).

Never decides which parameter a peer understands; that is ``dialogue``. References: RFC 5321 4.1, RFC 1870,
RFC 6152, RFC 6531, RFC 3461, RFC 6533, RFC 2033.
"""

import re
from functools import lru_cache

from deliveryagent.mail.envelope import Notify

LINE_LIMIT = 2048
"""Octets of a command line with CRLF: RFC 5321 4.5.3.1.4 plus every extension used here, twice over."""

STARTTLS = b"STARTTLS\r\n"
DATA = b"DATA\r\n"
RSET = b"RSET\r\n"
QUIT = b"QUIT\r\n"

_PATH = re.compile(
    r'(?:"(?:[^"\\\x00-\x1f\x7f]|\\[\x20-\x7e])*"|[^\x00-\x20\x7f<>()\[\],:;"\\@]+)'
    r'@[^\x00-\x20\x7f<>()",;\\@]+'
)
_NAME = re.compile(r"[!-~]{1,255}")
_PARAMETERS = re.compile(r"(?: [^\x00-\x20\x7f]+)*")
_XTEXT_UNSAFE = re.compile(r"[^!-~]|[+=]")
_UNITEXT_UNSAFE = re.compile(r"[^!-~]|[+=\\]")


class UnsafeCommandError(ValueError):
    """Something that would not stay one command on the wire; nothing was sent."""


def hello(verb: str, name: str) -> bytes:
    """``EHLO``, ``HELO`` or ``LHLO`` with our name: a domain in A-labels or an address literal."""
    if _NAME.fullmatch(name) is None:
        raise UnsafeCommandError(f"{name!r} cannot be our name in {verb}")
    return f"{verb} {name}\r\n".encode("ascii")


def mail_from(sender: str, parameters: str = "", *, utf8: bool = False) -> bytes:
    """``MAIL FROM:<sender>`` and parameters, each with a leading blank; an empty sender is the null path.

    ``utf8`` says that the SMTPUTF8 parameter is among them; without it the sender must be ASCII.
    """
    return _line("MAIL FROM:<", sender, parameters, utf8=utf8)


@lru_cache(maxsize=1024)
def mail_path(sender: str) -> bytes:
    """``MAIL FROM:<sender>`` of an ASCII sender, without parameters and line end, as in :func:`mail_from`."""
    return mail_from(sender)[:-2]


def rcpt_to(address: str, parameters: str = "", *, utf8: bool = False) -> bytes:
    """``RCPT TO:<address>`` and parameters, each with a leading blank; ``utf8`` as for ``mail_from``."""
    if not address:
        raise UnsafeCommandError("a recipient cannot be empty")
    return _line("RCPT TO:<", address, parameters, utf8=utf8)


def xtext(text: str) -> str:
    """RFC 3461 4: printable ASCII but ``+`` and ``=`` as it is, other octets as ``+XX``.

    >>> xtext("a+b=c d")
    'a+2Bb+3Dc+20d'
    """
    return _XTEXT_UNSAFE.sub(
        lambda match: "".join(f"+{octet:02X}" for octet in match[0].encode()), text
    )


def notify_parameter(wish: Notify) -> str:
    """`` NOTIFY=…`` with its leading blank, empty when no wish was stated (RFC 3461 4.1)."""
    if not wish:
        return ""
    if wish & Notify.NEVER:
        return " NOTIFY=NEVER"
    kinds = (Notify.SUCCESS, Notify.FAILURE, Notify.DELAY)
    return " NOTIFY=" + ",".join(str(kind.name) for kind in kinds if wish & kind)


def orcpt_parameter(original: str) -> str:
    r"""`` ORCPT=type;address`` with its leading blank, empty when none was given (RFC 3461 4.2).

    ``original`` is ``type;address`` decoded. An address outside ASCII is sent as type ``utf-8`` in the form
    that any peer can pass on (RFC 6533 3).

    >>> orcpt_parameter("rfc822;a+b@example.org"), orcpt_parameter("utf-8;ä@example.org")
    (' ORCPT=rfc822;a+2Bb@example.org', ' ORCPT=utf-8;\\x{E4}@example.org')
    """
    if not original:
        return ""
    kind, _, address = original.partition(";")
    if kind.lower() == "utf-8" or not address.isascii():
        points = _UNITEXT_UNSAFE.sub(lambda match: f"\\x{{{ord(match[0]):X}}}", address)
        return f" ORCPT=utf-8;{points}"
    return f" ORCPT={kind};{xtext(address)}"


def _line(verb: str, path: str, parameters: str, *, utf8: bool) -> bytes:
    if path and _PATH.fullmatch(path) is None:
        raise UnsafeCommandError(f"{path[:320]!r} cannot be an address on the wire")
    if parameters and _PARAMETERS.fullmatch(parameters) is None:
        raise UnsafeCommandError(f"{parameters[:320]!r} cannot be parameters on the wire")
    text = f"{verb}{path}>{parameters}\r\n"
    if not utf8 and not text.isascii():
        raise UnsafeCommandError(f"{text[:320]!r} needs SMTPUTF8")
    try:
        line = text.encode()
    except UnicodeEncodeError as error:
        raise UnsafeCommandError(f"{text[:320]!r} is not Unicode text") from error
    if len(line) > LINE_LIMIT:
        raise UnsafeCommandError(f"a command of {len(line)} octets")
    return line
