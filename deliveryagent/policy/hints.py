"""What the text of a refusal gives away beyond its code.

Peers say in words what the codes have no place for: that they want fewer connections, that one more
recipient was too many, that the mail should simply come back. Guarantees: no hint ever turns a
failure into a success or the other way round; the search is linear and looks at the first 2,000
characters only, whatever a peer writes. RFC 3463 3.4-3.6, RFC 6647 (greylisting).
"""

import re

from deliveryagent.mail.status import SmtpReply

_LOOKED_AT = 2000

_GREYLISTING = re.compile(r"gr[ae]y-?\s?list", re.IGNORECASE)
_TOO_MANY_RECIPIENTS = re.compile(
    r"too many (?:recipients|rcpts?\b)|recipients? (?:limit|count)"
    r"|max(?:imum)? (?:number of )?recipients",
    re.IGNORECASE,
)
_ASKING_FOR_LESS = re.compile(
    r"\brate\b|\brate-?limit|throttl|slow(?:ing)? down|\bvolume\b|concurren|overload"
    r"|connection limit|too (?:many|much|fast|quickly|busy|frequent)"
    r"|\b(?:server|service|system) (?:is )?busy",
    re.IGNORECASE,
)
_CONGESTED = frozenset({"4.3.2", "4.4.5"})  # not accepting messages; congestion


def is_greylisting(reply: SmtpReply) -> bool:
    """Whether the peer turns away what it has not seen before, to see if it comes back.

    >>> is_greylisting(SmtpReply(450, "4.7.1", "Greylisted, see our rate policy"))
    True
    """
    return reply.transient and _GREYLISTING.search(reply.text, 0, _LOOKED_AT) is not None


def asks_for_less(reply: SmtpReply) -> bool:
    """Whether the peer would take the mail if it came more slowly or over fewer connections.

    >>> asks_for_less(SmtpReply(450, "4.2.1", "receiving mail at a rate that is too high"))
    True
    """
    if not reply.transient or is_greylisting(reply) or _names_recipients(reply):
        return False
    if reply.enhanced in _CONGESTED:
        return True
    return _ASKING_FOR_LESS.search(reply.text, 0, _LOOKED_AT) is not None


def is_one_too_many(reply: SmtpReply) -> bool:
    """Whether a refused RCPT means that the transaction is full, not that the recipient is bad.

    452, and 552 from older peers, say so by themselves (RFC 5321 4.5.3.1.10) unless words or an
    enhanced code give them another sense, such as 4.2.2 for a full mailbox.

    >>> is_one_too_many(SmtpReply(452, "4.5.3", "")), is_one_too_many(SmtpReply(452, "4.2.2", ""))
    (True, False)
    """
    if _names_recipients(reply):
        return True
    bare = reply.code in (452, 552) and reply.enhanced in ("", "4.0.0", "5.0.0")
    return bare and not asks_for_less(reply)


def _names_recipients(reply: SmtpReply) -> bool:
    return (
        reply.enhanced.endswith(".5.3")
        or _TOO_MANY_RECIPIENTS.search(reply.text, 0, _LOOKED_AT) is not None
    )
