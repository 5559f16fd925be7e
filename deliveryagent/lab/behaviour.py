"""What the receiving hosts of the lab do to a recipient, decided by its local part.

==========================  ===========================================================
``ok@``, any other name     accepted
``550@``, ``452@``, …       that reply to RCPT; ``550-5.7.1@`` chooses the enhanced code too
``421@``                    421 to RCPT, then the connection is closed
``greylist@``               450 4.7.1 for the first try, accepted from the second on
``greylist-2s@``            450 4.7.1 until so many seconds after the first try
``slow@``, ``slow-3s@``     RCPT and the final dot are answered after 1 (or 3) seconds
``timeout@``                no reply to RCPT, ever
``timeout-dot@``            no reply to the final dot, ever
``drop@``                   the connection is closed instead of a reply to RCPT
``drop-dot@``               the connection is closed instead of a reply to the final dot
``data-451@``, …            that reply to DATA
``dot-550@``, …             that reply to the final dot
==========================  ===========================================================

A suffix after ``+`` is ignored, so that ``greylist+1@`` and ``greylist+2@`` are two strangers with
the same manners. Pure: the memory of greylisting is a value that the caller owns and bounds.
"""

import re
from dataclasses import dataclass
from enum import Enum

_NAME = re.compile(
    r"(?P<stage>data-|dot-)?(?P<code>[45][0-5][0-9])(?:-(?P<enhanced>[45]\.[0-9]{1,3}\.[0-9]{1,3}))?"
    r"|(?P<word>greylist|slow|timeout-dot|timeout|drop-dot|drop)(?:-(?P<seconds>[0-9.]+)s)?"
)
_TEXTS = {
    421: "4.3.2 Service shutting down",
    450: "4.2.1 Mailbox busy",
    451: "4.3.0 Local trouble, try again later",
    452: "4.2.2 Mailbox full for now",
    454: "4.7.0 Not now",
    550: "5.1.1 No such user here",
    551: "5.1.6 User has moved",
    552: "5.2.2 Mailbox full",
    553: "5.1.3 That is no mailbox",
    554: "5.7.1 Refused by policy",
}


class Manner(Enum):
    """How a reply is given."""

    ANSWER = "answer"
    SILENCE = "silence"  # never
    CLOSE = "close"  # the connection is closed instead
    FAREWELL = "farewell"  # the connection is closed after the reply


@dataclass(frozen=True)
class Reaction:
    """What happens to one recipient. Empty replies mean yes; ``delay`` and ``greylist`` are
    seconds.

    ``greylist`` below zero means no greylisting.
    """

    rcpt: str = ""
    data: str = ""
    dot: str = ""
    rcpt_manner: Manner = Manner.ANSWER
    dot_manner: Manner = Manner.ANSWER
    delay: float = 0.0
    greylist: float = -1.0


ACCEPTED = Reaction()


def reaction(address: str) -> Reaction:
    """The reaction to an address.

    >>> reaction("550@mx.test").rcpt, reaction("dot-451-4.7.0+x@mx.test").dot
    ('550 5.1.1 No such user here', '451 4.7.0 As you wish')
    >>> reaction("somebody@mx.test") is ACCEPTED
    True
    """
    local = address.partition("@")[0].partition("+")[0]
    match = _NAME.fullmatch(local)
    if match is None:
        return ACCEPTED
    if match["code"]:
        return _with_code(match["stage"] or "", int(match["code"]), match["enhanced"] or "")
    return _with_word(match["word"], match["seconds"] or "")


def _with_code(stage: str, code: int, enhanced: str) -> Reaction:
    text = _TEXTS.get(code, f"{code // 100}.0.0 As you wish")
    reply = f"{code} {enhanced} As you wish" if enhanced else f"{code} {text}"
    manner = Manner.FAREWELL if code == 421 else Manner.ANSWER
    match stage:
        case "data-":
            return Reaction(data=reply)
        case "dot-":
            return Reaction(dot=reply, dot_manner=manner)
        case _:
            return Reaction(rcpt=reply, rcpt_manner=manner)


def _with_word(word: str, seconds: str) -> Reaction:
    match word:
        case "greylist":
            return Reaction(greylist=float(seconds or 0))
        case "slow":
            return Reaction(delay=float(seconds or 1))
        case "timeout":
            return Reaction(rcpt_manner=Manner.SILENCE)
        case "timeout-dot":
            return Reaction(dot_manner=Manner.SILENCE)
        case "drop":
            return Reaction(rcpt_manner=Manner.CLOSE)
        case _:
            return Reaction(dot_manner=Manner.CLOSE)


def greylisted(seen: dict[str, float], key: str, wait: float, *, now: float) -> str:
    """The refusal of a greylisting host, empty when the stranger may pass; remembers the first
    visit.

    ``key`` names client, sender and recipient; ``seen`` maps keys to the time of their first try.
    """
    first = seen.setdefault(key, now)
    if first != now and now - first >= wait:
        return ""
    if not wait:
        return "450 4.7.1 Greylisted, please try again later"
    rest = max(1, round(first + wait - now))
    return f"450 4.7.1 Greylisted, please try again in {rest} seconds"
