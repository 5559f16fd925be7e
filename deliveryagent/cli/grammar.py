"""The options of ``dagent send``, for two readers: click, and a quick one that understands plain command lines.

The tables are the only place where these options are written down. Guarantees of :func:`read`: it
gives exactly what click would give, or nothing; what it does not know for certain (an option of
others, a help text, a slip of the pen) it leaves to click, which takes 40 ms longer to load. A test
compares the two. Imports nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Literal

    Kind = Literal["text", "many", "flag", "optional"]


class Word:
    """An option. ``kind``: a text, of which the last counts; texts; a flag; a text that may be left out."""

    __slots__ = ("choices", "help", "kind", "metavar", "name", "spellings")

    def __init__(
        self,
        name: str,
        *spellings: str,
        help: str,  # noqa: A002 - as click calls it
        kind: Kind = "text",
        metavar: str | None = None,
        choices: tuple[str, ...] = (),
    ) -> None:
        self.name = name
        self.spellings = spellings
        self.help = help
        self.kind = kind
        self.metavar = metavar
        self.choices = choices


COMMON = (
    Word(
        "config",
        *("-c", "--config"),
        metavar="FILE",
        help="Configuration file (DELIVERYAGENT_CONFIG; else /etc/deliveryagent/deliveryagent.toml).",
    ),
    Word(
        "set",
        "--set",
        kind="many",
        metavar="KEY=VALUE",
        help="Override one setting, such as smtp.connect_timeout=5s. May be repeated.",
    ),
    Word("json", "--json", kind="flag", help="Print JSON: one object, or one a line for lists."),
)
"""Those of the options that every command takes."""

SEND = (
    Word(
        "sender",
        *("-f", "--from"),
        metavar="FROM",
        help="Envelope sender; <> is the null sender. Default: you.",
    ),
    Word(
        "from_headers",
        *("-t", "--from-headers"),
        kind="flag",
        help="Take recipients from To, Cc and Bcc too.",
    ),
    Word("file", "--file", metavar="FILE", help="The message; default, or -: standard input."),
    Word(
        "at",
        "--at",
        metavar="TIME",
        help="Not before this time: 2026-01-31T08:00:00Z, or 'in 2h'.",
    ),
    Word("hold", "--hold", kind="flag", help="Keep the message until it is released."),
    Word(
        "dsn",
        "--dsn",
        metavar="WHEN",
        help="Reports wanted: never, or some of success,failure,delay.",
    ),
    Word("ret", "--ret", choices=("full", "hdrs"), help="What a report returns of it."),
    Word("envid", "--envid", metavar="TEXT", help="An identifier that reports repeat."),
    Word("priority", "--priority", metavar="N", help="From -9 to 9: a higher one is sent earlier."),
    Word("tags", "--tag", kind="many", metavar="K=V", help="A name and value to keep with it."),
    Word(
        "key", "--key", metavar="KEY", help="Sent again with the same key, it is the same message."
    ),
    Word(
        "wait",
        "--wait",
        kind="optional",
        metavar="[TIME]",
        help="Wait for the outcome, 60s unless a time is given.",
    ),
    Word(
        "patience",
        "--patience",
        metavar="TIME",
        help="How long to look for a service that is restarting; default 10s.",
    ),
)


def read(words: Sequence[str]) -> dict[str, Any] | None:
    """What a command line that begins ``dagent send`` says, by names of options and ``recipients``.

    None when it is another command, or takes click to be understood.
    """
    given = {word.name: _NOTHING[word.kind] for word in (*COMMON, *SEND)}
    recipients: list[str] = []
    known = {spelling: word for word in COMMON for spelling in word.spellings}
    command = False
    rest = iter(words)
    for text in rest:
        if text[:1] != "-" or text == "-":
            if command:
                recipients.append(text)
            elif text == "send":
                command = True
                known |= {spelling: word for word in SEND for spelling in word.spellings}
            else:
                return None
        elif text == "--" and command:
            recipients += rest
        elif not _take(given, known, text, rest):
            return None
    given["recipients"] = tuple(recipients)
    return given if command else None


_NOTHING: dict[Kind, Any] = {"text": None, "many": (), "flag": False, "optional": None}


def _take(given: dict[str, Any], known: dict[str, Word], text: str, rest: Any) -> bool:
    """Note one option, with its value from what follows; whether that was possible."""
    spelling, equals, value = text.partition("=")
    word = known.get(spelling)
    if word is None or word.kind == "optional":
        return False
    if word.kind == "flag":
        given[word.name] = True
        return not equals
    if equals:
        if not spelling.startswith("--"):
            return False
    else:
        value = next(rest, "--")
        if value[:1] == "-" and value != "-":  # most likely a value that was forgotten
            return False
    if word.choices and value not in word.choices:
        return False
    given[word.name] = (*given[word.name], value) if word.kind == "many" else value
    return True
