"""The FILTER that every command on the queue takes: which recipients are meant.

``filter_options`` puts the options on a command, ``selection`` reads them. Ids may be unique
beginnings of ids, and ``-`` reads them from standard input. Guarantees: what cannot be meant is a
usage error before anything is looked up; an order without any condition needs ``--all``.
"""

import re
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from deliveryagent.mail.envelope import RecipientStatus, queue_id_range
from deliveryagent.setting import parse_duration

if TYPE_CHECKING:
    from deliveryagent.queue.filters import Filter

F = TypeVar("F", bound=Callable[..., Any])

_TRIES = re.compile(r"(?:>=|<=|>|<|=)?[0-9]{1,6}")
_CODE = re.compile(r"[245](?:[0-9]{2}|xx)|[245]\.[0-9]{1,3}\.(?:[0-9]{1,3}|x)", re.IGNORECASE)
_ID_LENGTH = 13


Callback = Callable[[click.Context, click.Parameter, Any], Any]


def _matching(form: re.Pattern[str], example: str) -> Callback:
    """A text of a given form."""

    def read(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str:
        text = (value or "").strip().replace(" ", "")
        if text and not form.fullmatch(text):
            raise click.BadParameter(f'"{value}" is not understood; write it like {example}')
        return text.lower()

    return read


def read_span(
    _context: click.Context, _parameter: click.Parameter, value: str | None
) -> float | None:
    """Callback of an option: a length of time in seconds, written as in the configuration file."""
    try:
        return None if value is None else float(parse_duration(value))
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _whom(*, null_sender: bool) -> Callback:
    """An address, or ``@domain`` for every address there; angle brackets may be left out."""

    def read(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str:
        text = (value or "").strip()
        if not text or (text == "<>" and null_sender):
            return text
        text = text.removeprefix("<").removesuffix(">")
        if "@" not in text or text.endswith("@"):
            raise click.BadParameter(f'"{value}" is neither an address nor "@domain"')
        return text

    return read


_OPTIONS = (
    click.argument("ids", nargs=-1, metavar="[ID]..."),
    click.option(
        "--to",
        callback=_whom(null_sender=False),
        metavar="A|@D",
        help="Recipient: an address, or @domain.",
    ),
    click.option(
        "--from",
        "from_",
        callback=_whom(null_sender=True),
        metavar="A|@D",
        help="Sender: an address, @domain, or <> for the null sender.",
    ),
    click.option("--domain", metavar="D", help="Destination domain."),
    click.option(
        "--status",
        multiple=True,
        type=click.Choice([status.value for status in RecipientStatus], case_sensitive=False),
        metavar="S",
        help="State: queued, deferred, held, … May be repeated.",
    ),
    click.option(
        "--older", callback=read_span, metavar="T", help="Arrived longer ago than, such as 1h."
    ),
    click.option(
        "--newer", callback=read_span, metavar="T", help="Arrived within the last, such as 30m."
    ),
    click.option(
        "--tries",
        callback=_matching(_TRIES, '"3", ">3" or "<=10"'),
        metavar="N",
        help="Attempts so far: 3, '>3', '<=10'.",
    ),
    click.option(
        "--code",
        callback=_matching(_CODE, "450, 4xx, 4.7.1 or 4.7.x"),
        metavar="C",
        help="Last answer: 450, 4xx, 4.7.1, 4.7.x.",
    ),
    click.option("--all", "all_", is_flag=True, help="Everything: no condition is meant."),
)


def filter_options(function: F) -> F:
    """Decorator: the command takes a FILTER; read it with :func:`selection`."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def selection(given: dict[str, Any], *, now: float, order: bool = False) -> "Filter":
    """The filter of a command's parameters, which are taken out of ``given``.

    ``order`` says that the command changes something and must not be meant for everything by
    accident.
    """
    from deliveryagent.queue.filters import Filter

    ids = tuple(_ids(given.pop("ids")))
    older, newer = given.pop("older"), given.pop("newer")
    found = Filter(
        ids=ids,
        to=given.pop("to"),
        from_=given.pop("from_"),
        domain=(given.pop("domain") or "").lower(),
        status=tuple(given.pop("status")),
        older=now - older if older is not None else 0.0,
        newer=now - newer if newer is not None else 0.0,
        tries=given.pop("tries"),
        code=given.pop("code"),
        all=given.pop("all_"),
    )
    conditions = found != Filter(all=found.all)
    if order and not conditions and not found.all:
        raise click.UsageError("Say which messages: ids or conditions, or --all for everything.")
    if conditions and found.all:
        raise click.UsageError("--all means everything; leave it out, or the conditions.")
    return found


def _ids(given: Iterable[str]) -> Iterable[str]:
    for word in given:
        if word == "-":
            yield from (_checked(line) for line in sys.stdin.read().split())
        else:
            yield _checked(word)


def _checked(word: str) -> str:
    try:
        queue_id_range(word)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    return word.upper()


def is_whole(identity: str) -> bool:
    """Whether a text is a full id, not the beginning of one."""
    return len(identity) == _ID_LENGTH
