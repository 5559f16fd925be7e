"""What becomes of a client, a sender, a recipient or a message: the words in which hooks answer.

A hook that has no opinion answers None, and the next one is asked; the first that answers decides. A verdict
at CONNECT, EHLO, MAIL or DATA is about everything that follows it, at RCPT about that recipient, at the end
of the content about the whole message (over LMTP, about each recipient that is named). Never decides
anything itself.
"""

import msgspec


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What all verdicts have: ``text`` for the reply (of an ``Accept`` at CONNECT, for the greeting).

    For ``delay`` seconds the reply is kept back.
    """

    text: str = ""
    delay: float = 0.0


class Accept(Verdict, frozen=True, kw_only=True):
    """Go on, without asking any other hook. ``address`` is used in place of the sender or recipient given.

    ``user`` at AUTH: who this is from now on, if not the name that was given.
    """

    address: str | None = None
    user: str = ""


class Reject(Verdict, frozen=True, kw_only=True):
    """Refuse for good (RFC 3463: class 5). With ``close`` the session ends after the reply."""

    code: int = 550
    enhanced: str = "5.7.1"
    close: bool = False


class Tempfail(Verdict, frozen=True, kw_only=True):
    """Refuse for now (RFC 3463: class 4). With ``close`` the session ends after the reply."""

    code: int = 451
    enhanced: str = "4.7.1"
    close: bool = False


class Defer(Verdict, frozen=True, kw_only=True):
    """Take the message, but do not try to deliver it for so many ``seconds``."""

    seconds: float


class Discard(Verdict, frozen=True, kw_only=True):
    """Say yes, and forget the recipient, or the whole message."""


class Hold(Verdict, frozen=True, kw_only=True):
    """Take the message and keep it on hold until somebody releases it."""


Decision = Accept | Reject | Tempfail | Defer | Discard | Hold
"""Any of them."""

Refusal = Reject | Tempfail
"""Those that say no."""
