"""What a peer offers in its answer to EHLO or LHLO (RFC 5321 4.1.1.1).

Guarantees: total; a malformed line or parameter counts as not said and never stops a delivery. Keywords
are compared without regard to case. Never remembers anything: a new answer (after STARTTLS, RFC 3207 4.2)
makes new capabilities. References: RFC 1870 SIZE, 2920 PIPELINING, 6152 8BITMIME, 6531 SMTPUTF8, 3461 DSN,
3207 STARTTLS, 4954 AUTH, 2034 ENHANCEDSTATUSCODES, 9422 LIMITS, 6710 MT-PRIORITY, 2852 DELIVERBY, 8689
REQUIRETLS.
"""

import re
from collections.abc import Collection

import msgspec

from deliveryagent.mail.status import SmtpReply

_KEYWORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*")
_LIMIT = re.compile(r"([A-Za-z0-9][A-Za-z0-9-]*)=([0-9]{1,6})")


class Capabilities(msgspec.Struct, frozen=True, gc=False):
    """The offer of one peer; the default is a peer that answered HELO only.

    ``name`` is how the peer calls itself, lower case. ``keywords`` holds every keyword in capitals with its
    parameters as one text. ``size`` says SIZE is offered; ``size_limit`` is its octets, 0 when none is
    stated. ``auth`` lists mechanisms in capitals in the peer's order. ``mailmax`` (transactions of a
    session), ``rcptmax`` (recipients of a transaction) and ``rcptdomainmax`` (recipient domains of a
    transaction) are the LIMITS of RFC 9422, 0 when not stated. ``lmtp`` decides how many replies follow the
    final dot. ``deliverby`` and ``mt_priority`` say that RFC 2852 and RFC 6710 are offered; ``least_time`` is
    the least the former takes with mode R, in seconds. ``protected`` is no offer: the session is encrypted,
    and the peer proved its name.
    """

    name: str = ""
    keywords: dict[str, str] = {}
    lmtp: bool = False
    pipelining: bool = False
    size: bool = False
    size_limit: int = 0
    eightbitmime: bool = False
    smtputf8: bool = False
    dsn: bool = False
    starttls: bool = False
    auth: tuple[str, ...] = ()
    mailmax: int = 0
    rcptmax: int = 0
    rcptdomainmax: int = 0
    mt_priority: bool = False
    deliverby: bool = False
    least_time: int = 0
    requiretls: bool = False
    protected: bool = False


def parse(
    reply: SmtpReply, *, lmtp: bool = False, discard: Collection[str] = frozenset()
) -> Capabilities:
    """The capabilities in a positive reply to EHLO or LHLO.

    ``discard`` names keywords (in capitals) to treat as not offered (Postfix
    ``smtp_discard_ehlo_keywords``).
    """
    keywords: dict[str, str] = {}
    auth: list[str] = []
    lines = reply.text.split("\n")[1:]
    for line in lines:
        keyword, _, parameters = line.strip().partition(" ")
        keyword = keyword.upper()
        if keyword.startswith("AUTH="):
            # How servers spoke before RFC 2554; some still say it beside or instead of AUTH.
            keyword, parameters = "AUTH", f"{keyword[5:]} {parameters}"
        if _KEYWORD.fullmatch(keyword) is None or keyword in discard:
            continue
        if keyword == "AUTH":
            auth += [word for word in parameters.upper().split() if word not in auth]
            parameters = " ".join(auth)
        keywords[keyword] = parameters.strip()
    limits = parse_limits(keywords.get("LIMITS", ""))
    return Capabilities(
        name=peer_name(reply),
        keywords=keywords,
        lmtp=lmtp,
        pipelining="PIPELINING" in keywords,
        size="SIZE" in keywords,
        size_limit=_number(keywords.get("SIZE", ""), digits=20),
        eightbitmime="8BITMIME" in keywords,
        smtputf8="SMTPUTF8" in keywords,
        dsn="DSN" in keywords,
        starttls="STARTTLS" in keywords,
        auth=tuple(auth),
        mailmax=limits.get("MAILMAX", 0),
        rcptmax=limits.get("RCPTMAX", 0),
        rcptdomainmax=limits.get("RCPTDOMAINMAX", 0),
        mt_priority="MT-PRIORITY" in keywords,
        deliverby="DELIVERBY" in keywords,
        least_time=_number(keywords.get("DELIVERBY", ""), digits=9),
        requiretls="REQUIRETLS" in keywords,
    )


def _number(text: str, *, digits: int) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= digits else 0


def peer_name(reply: SmtpReply) -> str:
    """The first word of a greeting or an EHLO answer: the peer's name, lower case, without a final dot."""
    words = reply.text.split(None, 1)
    return words[0][:255].lower().rstrip(".") if words else ""


def parse_limits(parameters: str) -> dict[str, int]:
    """The limits of RFC 9422 4; what is malformed or zero is left out.

    >>> parse_limits("RCPTMAX=20 MAILMAX=x rcptdomainmax=1")
    {'RCPTMAX': 20, 'RCPTDOMAINMAX': 1}
    """
    found: dict[str, int] = {}
    for word in parameters.split():
        match = _LIMIT.fullmatch(word)
        if match is not None and int(match[2]) > 0:
            found[match[1].upper()] = int(match[2])
    return found
