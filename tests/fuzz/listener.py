"""Looks for octets that a listener cannot cope with: ``python -m tests.fuzz.listener [SECONDS [SEED]]``.

Dialogues, good ones and bad ones, are put together, damaged at random, and played to the conversation of a
listener, whole and cut in pieces, on several kinds of door. What must hold is in ``check``. The run ends after
SECONDS (60), or at the first dialogue that breaks something: that one is made as small as it gets, and shown.
The same SEED does the same. New dialogues are worth more than time: they go into
``tests.protocol.smtp_dialogues``.
"""

import random
import re
import sys
import time
from collections.abc import Iterator

import msgspec

from deliveryagent.mail.verdict import Accept, Decision, Discard, Reject, Tempfail
from deliveryagent.protocol.arrival import ContentError, LimitSettings, Stamp
from deliveryagent.protocol.letter import take
from deliveryagent.protocol.session import Recipient
from deliveryagent.protocol.smtpd_steps import Terms
from tests.doubles.smtp_talk import LMTP, SUBMISSION, TERMS, Talk, answers, check_statuses
from tests.protocol.smtp_dialogues import BAD, ENVELOPE, GOOD

WORDS = [
    *(
        b"\r\n",
        b"\n",
        b"\r",
        b".",
        b" ",
        b"\0",
        b"\x1b",
        b"\xc3\xa4",
        b"\xff",
        b"<",
        b">",
        b'"',
        b"\\",
        b"@",
    ),
    *(
        b"=",
        b"+",
        b"LAST",
        b"0",
        b"9" * 12,
        b"SMTPUTF8",
        b"\r\n.\r\n",
        b"\n.\r\n",
        b"\r\n.\n",
        b"*\r\n",
    ),
    *(
        b"NOTIFY=NEVER",
        b"ORCPT=utf-8;\\x{E4}",
        b"HOLDUNTIL=9999-12-31T23:59:59Z",
        b"BY=1;RT",
        b"x" * 998,
    ),
]
_STAMP = Stamp(hostname="mx.host.dev", queue_id="0C7", origin="", sender="", now=0, complete=False)
_BARE = re.compile(rb"\r(?!\n)|(?<!\r)\n|\0")
_OPEN = msgspec.structs.replace(
    SUBMISSION,
    tls=True,
    mechanisms=("PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-256", "XOAUTH2", "OAUTHBEARER"),
    auth_without_tls=True,
    size_limit=3000,
    line_limit=1000,
    hold_limit=1e6,
    hard_error_limit=0,
)
KINDS: list[Terms] = [
    msgspec.structs.replace(TERMS, hard_error_limit=0, size_limit=2000),
    msgspec.structs.replace(TERMS, normalise=True, recipient_limit=3),
    _OPEN,
    msgspec.structs.replace(_OPEN, require_auth=True, require_tls=True),
    msgspec.structs.replace(LMTP, hard_error_limit=0, command_limit=5),
]


class Broken(Exception):  # noqa: N818 - what is looked for
    """A dialogue after which something did not hold."""


def damaged(rng: random.Random) -> bytes:
    """A dialogue of some pieces, and some damage."""
    hello = rng.choice([b"EHLO a.b.dev\r\n", b"LHLO a.b.dev\r\n", b""]) + rng.choice(
        [ENVELOPE, b""]
    )
    pieces = [rng.choice(GOOD if rng.random() < 0.7 else BAD) for _ in range(rng.randint(1, 25))]
    octets = bytearray(hello + b"".join(pieces))
    for _ in range(rng.choice([0, 0, 1, 1, 2, 5])):
        place = rng.randrange(len(octets) + 1)
        match rng.randrange(5):
            case 0:
                octets[place:place] = rng.choice(WORDS)
            case 1:
                del octets[place : place + rng.randint(1, 8)]
            case 2:
                octets[place : place + 1] = rng.randbytes(1)
            case 3:
                start = rng.randrange(len(octets) + 1)
                octets[place:place] = octets[start : start + rng.randint(1, 60)]
            case 4:
                octets[place : place + 1] = rng.choice(WORDS)
    return bytes(octets)


def hook(one: Recipient) -> Decision | None:
    """A hook with an opinion on some recipients."""
    if one.address == "e@f.dev":
        return Accept(address="z@f.dev")
    return Discard() if one.address == "c@d.dev" else None


def talk_of(kind: int, octets: bytes) -> Talk:
    """A session on a door of this kind; some hooks follow from the octets alone."""
    hooks = {}
    if len(octets) % 3 == 0:
        hooks = {"rcpt": hook, "data": [None, Tempfail(), Reject(close=True)][len(octets) % 9 // 3]}
    address = "10.0.0.1" if len(octets) % 2 else "192.0.2.1"
    return Talk(KINDS[kind], address=address, hooks=hooks, xclient=len(octets) % 5 == 0)


def check(kind: int, octets: bytes, cuts: list[int]) -> None:
    """Play a dialogue; raises ``Broken``."""
    try:
        talk = talk_of(kind, octets)
        said = talk.hear(octets)
        check_statuses(answers(said))
        _check_kept(talk)
        if b"STARTTLS" not in octets.upper():
            again = talk_of(kind, octets)
            marks = sorted({place % (len(octets) + 1) for place in cuts})
            ends = [*marks, len(octets)]
            replies = again.hear(*(octets[a:b] for a, b in zip([0, *marks], ends, strict=True)))
            assert replies == said, "cut otherwise, answered otherwise"
            assert again.kept == talk.kept, "cut otherwise, another message"
        if not talk.closed:
            talk.end()
    except Exception as error:
        raise Broken(f"{type(error).__name__}: {error}") from error


def _check_kept(talk: Talk) -> None:
    for parcel in talk.kept:
        hooked = "rcpt" in talk.hooks
        assert hooked or talk.logged_in or talk.session.trusted or talk.talk.xclient, (
            "kept for a stranger"
        )
        assert parcel.recipients, "kept for nobody"
        if not talk.talk.terms.normalise:
            assert not _BARE.search(parcel.content), "a lone CR or LF, or a NUL"
        try:
            whole, _ = take(parcel.content, _STAMP, limits=LimitSettings(), part_size=1 << 20)
        except ContentError:
            continue
        assert not _BARE.search(b"".join(whole)), "a lone CR or LF in what is stored"


def smaller(kind: int, octets: bytes, cuts: list[int]) -> bytes:
    """The same fault with fewer octets."""
    size = len(octets) // 2
    while size:
        for start in range(0, len(octets), size):
            fewer = octets[:start] + octets[start + size :]
            if _breaks(kind, fewer, cuts):
                octets = fewer
                break
        else:
            size //= 2
    return octets


def _breaks(kind: int, octets: bytes, cuts: list[int]) -> bool:
    try:
        check(kind, octets, cuts)
    except Broken:
        return True
    return False


def run(seconds: float, seed: int) -> Iterator[tuple[int, bytes, list[int]]]:
    """Every dialogue that was played within so many seconds; raises ``Broken``."""
    rng = random.Random(seed)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        kind, octets = rng.randrange(len(KINDS)), damaged(rng)
        cuts = [rng.randrange(5000) for _ in range(rng.randint(0, 12))]
        yield kind, octets, cuts
        check(kind, octets, cuts)


def main(arguments: list[str]) -> int:
    """Run for some seconds; 1 when something broke."""
    seconds = float(arguments[0]) if arguments else 60.0
    seed = int(arguments[1]) if len(arguments) > 1 else random.randrange(1 << 32)
    sys.stdout.write(f"seed {seed}\n")
    count, last = 0, (0, b"", [0])
    try:
        for count, last in enumerate(run(seconds, seed), 1):  # noqa: B007 - told afterwards
            pass
    except Broken as broken:
        kind, octets, cuts = last
        sys.stdout.write(f"{broken}\non a door of kind {kind}, cut at {cuts}:\n")
        sys.stdout.write(f"{smaller(kind, octets, cuts)!r}\n")
        return 1
    sys.stdout.write(f"{count} dialogues, nothing broke\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
