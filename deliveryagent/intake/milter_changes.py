"""What a milter wants to have changed, carried out on a message.

Guarantees: the changes are made in the order in which they were asked for, places of fields counted as
libmilter counts them; a change that would make a message no message raises ``ValueError``. Never speaks to a
filter.
"""

import re
from collections.abc import Iterable

from deliveryagent.intake.message import Message
from deliveryagent.protocol import esmtp
from deliveryagent.protocol.milter import Terms, field_value
from deliveryagent.protocol.milter_answers import (
    AddHeader,
    AddRecipient,
    Change,
    ChangeHeader,
    ChangeSender,
    DropRecipient,
    InsertHeader,
    Quarantine,
    ReplaceBody,
)

_LINE_END = re.compile(rb"\r\n|\r|\n")
_UNLIMITED = esmtp.Offers(default_domain="localhost", hold_limit=float("inf"), require_tls=True)


def carry_out(changes: Iterable[Change], message: Message, terms: Terms) -> None:
    """Make them; raises ``ValueError``."""
    above = 0  # fields over the Received field of this host, which is not there yet, but counted
    body: list[bytes] = []
    replaced = False
    for change in changes:
        match change:
            case AddHeader(name=name, value=value):
                message.add_header(name, field_value(value, terms))
            case InsertHeader(index=index, name=name, value=value):
                place = index if index <= above else index - 1
                above += index <= above
                message.add_header(name, field_value(value, terms), place=place)
            case ChangeHeader(index=index, name=name, value=value):
                text = field_value(value, terms) if value else None
                message.change_header(name, text, number=max(1, index))
            case ReplaceBody(content=content):
                replaced = True
                body.append(content)
            case Quarantine():
                message.transaction.hold = True
            case _:
                _readdress(change, message)
    if replaced:
        message.replace_body(_lines(b"".join(body)))


def _readdress(change: ChangeSender | AddRecipient | DropRecipient, message: Message) -> None:
    path = change.address if change.address.startswith("<") else f"<{change.address}>"
    try:
        match change:
            case ChangeSender(parameters=parameters):
                argument = f"FROM:{path} {parameters}".rstrip()
                wish = esmtp.read_mail(argument, _UNLIMITED, 0.0)
                message.sender = wish.sender
                message.transaction.ret = wish.ret or message.transaction.ret
                message.transaction.envid = wish.envid or message.transaction.envid
            case AddRecipient(parameters=parameters):
                argument = f"TO:{path} {parameters}".rstrip()
                wanted = esmtp.read_rcpt(argument, _UNLIMITED, utf8=True)
                message.add_recipient(wanted.address, notify=wanted.notify, orcpt=wanted.orcpt)
            case DropRecipient():
                message.drop_recipient(path)
    except esmtp.CommandError as fault:
        raise ValueError(f"{change}: {fault.text}") from None


def _lines(body: bytes) -> bytes:
    """With CRLF at the end of each line."""
    body = _LINE_END.sub(b"\r\n", body)
    return body if not body or body.endswith(b"\r\n") else body + b"\r\n"
