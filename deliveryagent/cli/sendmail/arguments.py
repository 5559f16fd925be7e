"""Reads a command line of ``sendmail`` as Postfix's does, and as the programs that call it expect.

Options may be joined with their value or stand before it (``-fkim``, ``-f kim``), be gathered (``-ti``), and
stand behind recipients; ``--`` ends them; of two that contradict each other the last one counts. What Postfix
ignores is ignored. Guarantees: any list of words gives an :class:`Arguments` or raises ``SendmailError`` with
status 64. Never opens anything; imports nothing but its neighbour.
"""

from __future__ import annotations

from deliveryagent.cli.sendmail.sysexits import SendmailError, Sysexit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Literal

    Mode = Literal["send", "smtp", "list", "flush", "probe", "aliases"]

WITH_VALUE = frozenset("ABCFLNORVXbefhopr")
"""Options with a value; that of ``-q`` may be left out, so it stands apart."""

ALONE = frozenset("GIUcimntvx")
"""Options without one."""

_REPORTS = frozenset({"success", "failure", "delay"})
_LONGEST_ENVID = 100  # RFC 3461 4.4
_MODES: dict[str, Mode] = {
    "i": "aliases",
    "m": "send",
    "p": "list",
    "s": "smtp",
    "v": "probe",
}
_DAEMON = (
    "-b{} would start a daemon; the service is started with: systemctl start deliveryagent, "
    "or dagent serve"
)


class Arguments:
    """What a command line asks for.

    ``sender`` is None when it is left to the service, ``recipients`` are as they were written. ``queue_id``
    and ``site`` narrow ``flush``. ``warnings`` are for people: options that make no sense and were ignored.
    """

    __slots__ = (
        "dsn",
        "envid",
        "from_headers",
        "full_name",
        "keep_dots",
        "mode",
        "queue_id",
        "recipients",
        "require_tls",
        "ret",
        "sender",
        "site",
        "warnings",
    )

    def __init__(self, mode: Mode) -> None:
        self.mode: Mode = mode
        self.sender: str | None = None
        self.full_name: str | None = None
        self.recipients: list[str] = []
        self.from_headers = False
        self.keep_dots = False
        self.require_tls = False
        self.dsn = ""
        self.ret = ""
        self.envid = ""
        self.queue_id = ""
        self.site = ""
        self.warnings: list[str] = []


def read(words: Sequence[str], mode: Mode = "send") -> Arguments:
    """The meaning of the words behind the command's name; ``mode`` is what that name asks for.

    >>> found = read(["-ti", "-fshop@example.org", "kim@example.net"])
    >>> found.sender, found.recipients, found.from_headers, found.keep_dots
    ('shop@example.org', ['kim@example.net'], True, True)
    """
    found = Arguments(mode)
    rest = iter(words)
    for word in rest:
        if word == "--":
            found.recipients += rest
        elif word[:1] != "-" or word == "-":
            found.recipients.append(word)
        else:
            _take_cluster(found, word[1:], rest)
    return found


def _take_cluster(found: Arguments, letters: str, rest: Iterator[str]) -> None:
    """Note the options of one word; a value is the rest of the word, or the next one."""
    for place, letter in enumerate(letters):
        behind = letters[place + 1 :]
        if letter == "q":
            name = behind if behind not in ("I", "R") else behind + next(rest, "")
            _take_queue(found, name)
            return
        if letter in WITH_VALUE:
            value = behind or next(rest, None)
            if value is None:
                raise _usage(f"the option -{letter} takes a value")
            _take(found, letter, value)
            return
        if letter not in ALONE:
            raise _usage(f"there is no option -{letter}")
        _take(found, letter, "")


def _take(found: Arguments, letter: str, value: str) -> None:
    match letter:
        case "f" | "r":
            found.sender = value
        case "F":
            found.full_name = value
        case "t":
            found.from_headers = True
        case "i":
            found.keep_dots = True
        case "o":
            found.keep_dots = found.keep_dots or value == "i"
        case "O":
            name, _, wish = value.lower().partition("=")
            if name == "requiretls":
                found.require_tls = wish == "yes"
        case "b":
            found.mode = _mode(found.mode, value)
        case "I":
            found.mode = "aliases"
        case "N" | "R" | "V":
            _take_report(found, letter, value)
        case "X" if value.startswith("V"):
            raise SendmailError(
                Sysexit.UNAVAILABLE,
                "-XV: variable return paths (VERP) are not offered; send one message a recipient, each "
                "with its own -f",
            )
        case _:
            pass  # of no meaning here, as in Postfix


def _mode(mode: Mode, value: str) -> Mode:
    letter = value[:1]
    if letter in ("d", "D", "l"):
        raise _usage(_DAEMON.format(letter))
    if letter in ("h", "H"):  # host status: there is none, and nothing to be done
        return mode
    if letter not in _MODES:
        raise _usage(f"there is no mode -b{letter}")
    return _MODES[letter]


def _take_queue(found: Arguments, value: str) -> None:
    """``-q``: all that waits; ``-qI`` one message, ``-qR`` a site; a time is for daemons and ignored."""
    kind, name = value[:1], value[1:]
    if kind.isdigit():
        return
    if kind not in ("", "I", "R") or (kind and not name):
        wanted = (
            f"-q{kind} takes a name behind it" if kind in ("I", "R") else f"there is no -q{kind}"
        )
        raise _usage(f"{wanted}; write -q, -qIqueueid or -qRsite")
    found.mode = "flush"
    found.queue_id = name if kind == "I" else ""
    found.site = name if kind == "R" else ""


def _take_report(found: Arguments, letter: str, value: str) -> None:
    """What a sender wants to hear of a message; nonsense is ignored with a warning, as in Postfix."""
    word = value.strip().lower()
    if letter == "N":
        kinds = [kind.strip() for kind in word.split(",")]
        if word == "never" or _REPORTS.issuperset(kinds):
            found.dsn = ",".join(kinds)
            return
    elif letter == "R":
        if word in ("full", "hdrs"):
            found.ret = word
            return
    elif value and len(value) <= _LONGEST_ENVID and value.isascii() and value.isprintable():
        found.envid = value
        return
    found.warnings.append(f"the value of -{letter} makes no sense and is ignored")


def _usage(text: str) -> SendmailError:
    return SendmailError(Sysexit.USAGE, text)
