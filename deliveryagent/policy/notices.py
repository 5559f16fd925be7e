"""Who is told what: the sender's report on an outcome, and the postmaster's notices.

Guarantees: the null sender never gets a report (RFC 5321 6.1), NOTIFY is obeyed (RFC 3461 5.2), a recipient
owes at most one report per outcome and one delay warning in its life. Never writes a message.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from deliveryagent.mail.envelope import Notify, RecipientStatus
from deliveryagent.policy.deadline import warning_due
from deliveryagent.policy.retry import RetrySettings
from deliveryagent.setting import ByteSize, key, parse_size


class NoticeClass(StrEnum):
    """Postfix's words for what the postmaster can be told."""

    BOUNCE = "bounce"  # headers of mail that went back to its sender
    DOUBLE_BOUNCE = "2bounce"  # a report that could not be delivered itself
    DATA = (
        "data"  # something this system needs to deliver, such as a certificate file, cannot be used
    )
    DELAY = "delay"  # headers of mail whose sender was warned
    POLICY = "policy"  # mail refused when it was handed in
    PROTOCOL = "protocol"  # the dialogue with a peer that broke the protocol
    RESOURCE = "resource"  # disk full, database away
    SOFTWARE = "software"  # crashes, poison messages, corrupt content


@dataclass(frozen=True, kw_only=True)
class NoticeSettings:
    """Reports to senders and to the postmaster."""

    notify_classes: Annotated[
        tuple[NoticeClass, ...],
        key(
            "What the postmaster is told of: bounce, 2bounce, data, delay, policy, protocol, "
            "resource, software.",
            postfix="notify_classes",
        ),
    ] = (NoticeClass.RESOURCE, NoticeClass.SOFTWARE)
    error_notice_recipient: Annotated[
        str, key("Who gets these notices.", postfix="error_notice_recipient")
    ] = "postmaster"
    bounce_size_limit: Annotated[
        ByteSize,
        key(
            "Of a larger message a failure report returns the header only.",
            postfix="bounce_size_limit",
        ),
    ] = parse_size(50000)


class Report(StrEnum):
    """The report a sender is owed about one recipient."""

    NONE = ""
    FAILURE = "failure"
    DELAY = "delay"
    SUCCESS = "success"


class Incident(StrEnum):
    """What happened that the postmaster may want to know."""

    BOUNCED = "bounced"  # a failure report was written
    REPORT_UNDELIVERABLE = "report_undeliverable"  # mail from the null sender failed
    DELAYED = "delayed"  # a delay report was written
    REFUSED = "refused"  # a submission was refused by policy
    PROTOCOL_BROKEN = "protocol_broken"  # a peer sent what no reply can be
    LOCAL_DATA = "local_data"  # a file or table needed for delivery cannot be used
    STORE_UNAVAILABLE = "store_unavailable"  # outcomes cannot be recorded
    CORRUPT = "corrupt"  # a stored content is unreadable
    CRASHED = "crashed"  # a worker or the manager died
    POISON = "poison"  # a message was there too often when a process died, and is held


CLASS_OF: dict[Incident, NoticeClass] = {
    Incident.BOUNCED: NoticeClass.BOUNCE,
    Incident.REPORT_UNDELIVERABLE: NoticeClass.DOUBLE_BOUNCE,
    Incident.DELAYED: NoticeClass.DELAY,
    Incident.REFUSED: NoticeClass.POLICY,
    Incident.PROTOCOL_BROKEN: NoticeClass.PROTOCOL,
    Incident.LOCAL_DATA: NoticeClass.DATA,
    Incident.STORE_UNAVAILABLE: NoticeClass.RESOURCE,
    Incident.CORRUPT: NoticeClass.SOFTWARE,
    Incident.CRASHED: NoticeClass.SOFTWARE,
    Incident.POISON: NoticeClass.SOFTWARE,
}


def owed(
    *,
    status: RecipientStatus,
    sender: str,
    notify: Notify,
    relayed: bool,
    warned: bool,
    arrival: float,
    now: float,
    settings: RetrySettings,
    deliver_by: float = 0.0,
    by_mode: str = "",
) -> Report:
    """The report a sender is owed now that a recipient has this status.

    ``relayed``: the message went to a host that does not speak DSN and so cannot report success itself.
    ``warned``: a delay was reported before. ``deliver_by`` and ``by_mode`` as in ``policy.deadline``.
    """
    if not sender:
        return Report.NONE
    match status:
        case RecipientStatus.BOUNCED | RecipientStatus.EXPIRED:
            return Report.FAILURE if notify.wants(Notify.FAILURE) else Report.NONE
        case RecipientStatus.DELIVERED:
            return Report.SUCCESS if relayed and notify.wants(Notify.SUCCESS) else Report.NONE
        case RecipientStatus.DEFERRED:
            warning = warning_due(
                arrival=arrival, deliver_by=deliver_by, by_mode=by_mode, settings=settings
            )
            late = warning is not None and now >= warning
            wanted = late and not warned and notify.wants(Notify.DELAY)
            return Report.DELAY if wanted else Report.NONE
        case _:
            return Report.NONE


def told(incident: Incident, settings: NoticeSettings) -> bool:
    """Whether the postmaster gets a notice of an incident."""
    return CLASS_OF[incident] in settings.notify_classes
