"""The queue as ``mailq`` prints it, in the shape of Postfix with long queue ids, which other programs read.

A message: its id with ``*`` when an attempt is in flight and ``!`` when it is on hold, its size, when it
arrived, its sender; below, its recipients, each under the reason why it waits, in parentheses. The last line
counts. Guarantees: the first lines come at once, however long the queue is; what strangers wrote is one line of
printable characters. Changes nothing; works without a running service.
"""

import os
import time
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import groupby
from operator import attrgetter, itemgetter
from typing import TextIO

from deliveryagent.cli.door import Door
from deliveryagent.cli.sendmail.sysexits import SendmailError, Sysexit
from deliveryagent.config.location import locate, queue_file
from deliveryagent.mail.envelope import RecipientStatus, arrival_of, format_queue_id, parse_queue_id
from deliveryagent.protocol.diagnosis import command_name, plain, quoted
from deliveryagent.queue.reader import Reader, open_queue
from deliveryagent.queue.store import StoreError
from deliveryagent.queue.waiting import Waiting, waiting

HEADING = "----Queue ID----- --Size-- ---Arrival Time---- --Sender/Recipient------\n"
EMPTY = "Mail queue is empty\n"
_RECIPIENT = " " * 47
_REASON_ENDS = 76
_FIRST_PAGE = 200
_PAGE = 5000
_HELD = RecipientStatus.HELD.value


def print_queue(out: TextIO) -> None:
    """Print everything that waits; raises ``SendmailError`` when this user may not see it."""
    location = locate()
    active = _in_flight(Door(location.socket))
    try:
        with open_queue(location.queue_url) as reader:
            out.writelines(listed(everything(reader), active))
    except StoreError as error:
        raise _unreadable(error, location.queue_url) from None


def everything(reader: Reader) -> Iterator[Waiting]:
    """All recipients that wait, in the order of arrival."""
    after, limit = (0, 0), _FIRST_PAGE
    while page := waiting(reader, limit, after):
        yield from page
        if len(page) < limit:
            return
        after, limit = (page[-1].queue_id, page[-1].number), _PAGE


def listed(recipients: Iterable[Waiting], active: frozenset[int] = frozenset()) -> Iterator[str]:
    """The list in pieces, for recipients in order and the ids of the messages in flight."""
    size = count = 0
    for queue_id, group in groupby(recipients, attrgetter("queue_id")):
        members = list(group)
        yield "\n" if count else HEADING
        yield _message(members, active=queue_id in active)
        size += members[0].size
        count += 1
    if count:
        yield f"\n-- {size // 1024} Kbytes in {count} Request{'' if count == 1 else 's'}.\n"
    else:
        yield EMPTY


def _message(members: list[Waiting], *, active: bool) -> str:
    first = members[0]
    mark = "*" if active else "!" if all(one.status == _HELD for one in members) else ""
    arrived = _moment(int(arrival_of(first.queue_id)))
    sender = plain(first.sender) or "MAILER-DAEMON"
    identity = format_queue_id(first.queue_id) + mark
    lines = [f"{identity:<17} {first.size:8} {arrived} {sender}\n"]
    reason = ""
    for why, one in _by_reason(members):
        if why != reason:
            lines.append(f"{'':{max(0, _REASON_ENDS - len(why))}}({why})\n")
            reason = why
        lines.append(f"{_RECIPIENT}{plain(one.address)}\n")
    return "".join(lines)


@lru_cache(maxsize=16)
def _moment(second: int) -> str:
    return time.asctime(time.localtime(second))[:19]


def _by_reason(members: list[Waiting]) -> list[tuple[str, Waiting]]:
    """Those that wait for the same reason stand together, those without one in front."""
    found = [(_reason(one), one) for one in members]
    return found if len(found) == 1 else sorted(found, key=itemgetter(0))


def _reason(one: Waiting) -> str:
    """Why it waits, in the words of Postfix; empty before the first attempt."""
    said = quoted(one.code, one.enhanced, one.text)
    if not (one.code and one.host):
        return said
    peer = f"{plain(one.host)}[{one.ip}]" if one.ip else plain(one.host)
    command = command_name(one.stage)
    asked = f" (in reply to {command})" if command else ""
    return f"host {peer} said: {said}{asked}"


def _in_flight(door: Door) -> frozenset[int]:
    """Messages in flight; none when no service can be asked."""
    try:
        answer = door.look("active") or {"recipients": []}
    finally:
        door.close()
    return frozenset(parse_queue_id(place[0]) for place in answer["recipients"])


def _unreadable(error: StoreError, url: str) -> SendmailError:
    """A queue that cannot be opened: not for this user, or not there."""
    file = queue_file(url)
    hidden = file is not None and not os.access(os.path.dirname(file), os.X_OK)  # noqa: PTH120
    if hidden or isinstance(error.__cause__, PermissionError):
        text = "you may not look at the mail queue: that is for the service's user and root"
        return SendmailError(Sysexit.NO_PERMISSION, text)
    return SendmailError(
        Sysexit.UNAVAILABLE, f"{error} ({error.hint})" if error.hint else str(error)
    )
