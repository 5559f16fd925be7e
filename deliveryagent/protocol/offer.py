"""How a message is offered to a peer: MAIL and RCPT with the parameters this peer understands.

Guarantees: a parameter is used only if it was offered (RFC 5321 4.1.1.3) and the message needs it: SIZE
always, BODY=8BITMIME for octets above 127, SMTPUTF8 for a local part or a header outside ASCII (RFC 6531 3.4;
an international domain alone is an A-label by now), RET, ENVID, NOTIFY and ORCPT where somebody stated them,
as MT-PRIORITY, BY and REQUIRETLS. A message that is to be returned when its time is over goes to no peer that
would not do so (RFC 2852 4.1.4), one with REQUIRETLS only over an encrypted session to a host that proved its
name and offers the same (RFC 8689 4.2.1).
What this peer cannot take, and what could not be said safely, is told as a ``Failure`` instead.
"""

from collections.abc import Sequence

import msgspec

from deliveryagent.mail.delivery import (
    DeliveryRequest,
    Failure,
    Handling,
    RequestRecipient,
    Stage,
    Trouble,
)
from deliveryagent.mail.envelope import Notify
from deliveryagent.protocol import commands
from deliveryagent.protocol.capabilities import Capabilities

FLIGHT_LIMIT = 8192
"""Octets of commands sent without awaiting replies: no peer's buffer is ever filled (RFC 2920 3.1)."""

_LONGEST_TIME = 999_999_999  # seconds: RFC 2852 4 has nine digits
_LONG = 512  # octets of an address beyond which a line is measured with care

Line = tuple[Stage, int, bytes]
"""A command with its stage and, for RCPT, the index of its recipient, else -1."""


class Offer(msgspec.Struct, frozen=True, gc=False):
    """What can be said to a peer about a message.

    ``lines`` are MAIL and the RCPTs, empty when there is nobody to ask about. ``unsuitable`` says why the
    message cannot be offered at all; ``unsent`` why recipients (by index) are not among the lines.
    """

    lines: list[Line]
    unsuitable: Failure | None = None
    unsent: dict[int, Failure] = {}


def make(
    request: DeliveryRequest,
    recipients: Sequence[RequestRecipient],
    capabilities: Capabilities,
    *,
    now: float = 0.0,
) -> Offer:
    """The commands for one message and some of its recipients.

    ``now`` (seconds since the epoch) matters to a message with a deadline only.
    """
    utf8 = request.utf8 or not request.sender.isascii()
    unsuitable = _unsuitable(request, capabilities, utf8=utf8)
    if unsuitable is None and request.handling is not None:
        unsuitable = _unfit(request.handling, capabilities, now)
    if unsuitable is not None:
        return Offer([], unsuitable)
    lines: list[Line] = []
    unsent: dict[int, Failure] = {}
    for index, recipient in enumerate(recipients):
        needs_utf8 = not recipient.address.isascii()
        if needs_utf8 and not capabilities.smtputf8:
            unsent[index] = _no_utf8(capabilities)
            continue
        parameters = ""
        if capabilities.dsn and (recipient.notify or recipient.orcpt):
            parameters = commands.notify_parameter(Notify(recipient.notify))
            parameters += commands.orcpt_parameter(recipient.orcpt)
        try:
            line = commands.rcpt_to(recipient.address, parameters, utf8=needs_utf8)
        except commands.UnsafeCommandError as error:
            unsent[index] = Failure(Trouble.LOCAL, str(error))
            continue
        utf8 = utf8 or needs_utf8
        lines.append((Stage.RCPT, index, line))
    if not lines:
        return Offer([], None, unsent)
    parameters = _mail_parameters(request, capabilities, utf8=utf8)
    if request.handling is not None:
        parameters += _handling_parameters(request.handling, capabilities, now)
    try:
        mail = commands.mail_from(request.sender, parameters, utf8=utf8)
    except commands.UnsafeCommandError as error:
        return Offer([], Failure(Trouble.LOCAL, str(error)))
    lines.insert(0, (Stage.MAIL, -1, mail))
    return Offer(lines, None, unsent)


def brief(request: DeliveryRequest, capabilities: Capabilities) -> bytes:
    """MAIL and RCPT of a message that is ASCII through and through and for one recipient, with no wishes.

    The same octets as the lines of :func:`make`; empty for any other message, or if anything speaks against it.
    """
    recipient = request.recipients[0]
    sender, address, size = request.sender, recipient.address, request.size
    if (
        request.eightbit
        or request.utf8
        or request.handling is not None
        or len(sender) > _LONG
        or not address.isascii()
        or not sender.isascii()
        or 0 < capabilities.size_limit < size
        or (
            capabilities.dsn
            and (request.ret or request.envid or recipient.notify or recipient.orcpt)
        )
    ):
        return b""
    try:
        mail = commands.mail_path(sender)
        rcpt = commands.rcpt_to(address)
    except commands.UnsafeCommandError:
        return b""
    return (
        b"%b SIZE=%d\r\n%b" % (mail, size, rcpt)
        if capabilities.size
        else b"%b\r\n%b" % (mail, rcpt)
    )


def flights(lines: list[Line], *, pipelining: bool) -> list[list[Line]]:
    """Cut commands into groups to send at once: small ones, or without PIPELINING one by one.

    What must be the last of a group (DATA, RFC 2920 3.1) must be the last of the lines.
    """
    if not pipelining:
        return [[line] for line in lines]
    groups: list[list[Line]] = [[]]
    octets = 0
    for line in lines:
        octets += len(line[2])
        if octets > FLIGHT_LIMIT and groups[-1]:
            groups.append([])
            octets = len(line[2])
        groups[-1].append(line)
    return groups


def _unsuitable(
    request: DeliveryRequest, capabilities: Capabilities, *, utf8: bool
) -> Failure | None:
    host = capabilities.name or "the host"
    if capabilities.size_limit and request.size > capabilities.size_limit:
        text = f"{request.size} octets; {host} takes at most {capabilities.size_limit}"
        return Failure(Trouble.TOO_LARGE, text)
    if utf8 and not capabilities.smtputf8:
        return _no_utf8(capabilities)
    if request.eightbit and not capabilities.eightbitmime:
        return Failure(Trouble.NEEDS_8BIT, f"{host} does not take 8-bit content (8BITMIME)")
    return None


def _unfit(asked: Handling, capabilities: Capabilities, now: float) -> Failure | None:
    """Why this peer cannot do what the message asks of its way."""
    host = capabilities.name or "the host"
    if asked.require_tls and not capabilities.protected:
        text = f"the session with {host} is not encrypted, or to nobody knows whom (REQUIRETLS)"
        return Failure(Trouble.NEEDS_PROTECTION, text)
    if asked.require_tls and not capabilities.requiretls:
        text = f"{host} does not promise protected transport (REQUIRETLS)"
        return Failure(Trouble.NEEDS_REQUIRETLS, text)
    if not asked.returns:
        return None
    left = int(asked.deliver_by - now)
    if left < 1:
        return Failure(Trouble.LATE, f"no time was left when {host} was to be asked")
    if not capabilities.deliverby and not capabilities.lmtp:
        return Failure(Trouble.NEEDS_DELIVERBY, f"{host} keeps no deadlines (DELIVERBY)")
    if left < capabilities.least_time:
        text = f"{left} seconds are left; {host} wants at least {capabilities.least_time}"
        return Failure(Trouble.NEEDS_DELIVERBY, text)
    return None


def _handling_parameters(asked: Handling, capabilities: Capabilities, now: float) -> str:
    parameters = ""
    if asked.priority and capabilities.mt_priority:
        parameters += f" MT-PRIORITY={asked.priority}"
    if asked.deliver_by and capabilities.deliverby:
        left = max(-_LONGEST_TIME, min(int(asked.deliver_by - now), _LONGEST_TIME))
        parameters += f" BY={left};{asked.by_mode}"
    if asked.require_tls:
        parameters += " REQUIRETLS"
    return parameters


def _no_utf8(capabilities: Capabilities) -> Failure:
    host = capabilities.name or "the host"
    text = f"{host} does not take internationalised mail (SMTPUTF8)"
    return Failure(Trouble.NEEDS_UTF8, text)


def _mail_parameters(request: DeliveryRequest, capabilities: Capabilities, *, utf8: bool) -> str:
    parameters = f" SIZE={request.size}" if capabilities.size else ""
    if request.eightbit:
        parameters += " BODY=8BITMIME"
    if utf8:
        parameters += " SMTPUTF8"
    if capabilities.dsn:
        if request.ret:
            parameters += f" RET={request.ret}"
        if request.envid:
            parameters += f" ENVID={commands.xtext(request.envid)}"
    return parameters
