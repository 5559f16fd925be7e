"""Writes the mail system's own messages: reports to senders, and notices to the postmaster.

A :class:`Composer` turns what a message owes into new messages from the null sender, which nobody
answers (RFC 5321 6.1, RFC 3461 6.1: ``MAIL FROM:<>``, NOTIFY=NEVER). It runs inside the transaction
that records the outcome, on the database thread, and so never waits and never touches a socket.

Guarantees: nothing is written for the null sender; a notice that could not reach the postmaster is
not followed by another; a copy is written only for a report that was. Returned content is limited
to what the store hands over with the facts (the first part of the content) and
``bounce_size_limit``.
"""

import hashlib
import threading
from collections.abc import Callable, Sequence
from typing import assert_never

import msgspec

from deliveryagent.mail.envelope import (
    ContentFacts,
    DsnReturn,
    Envelope,
    NewRecipient,
    Notify,
    RecipientStatus,
    arrival_of,
    format_queue_id,
    lifetime_start,
)
from deliveryagent.mail.submission import Submission
from deliveryagent.policy import deadline, retry
from deliveryagent.policy.notices import CLASS_OF, Incident, NoticeSettings, told
from deliveryagent.policy.retry import RetrySettings
from deliveryagent.protocol import notification, postmaster
from deliveryagent.protocol.notification import Action, Report, Reported, ReportKind
from deliveryagent.queue.reports import OwedRecipient, ReportFacts

ORIGIN = "agent"
"""What the ``origin`` of the mail system's own messages says."""

_LONGEST_LINE = 998


class Composer:
    """Writes reports and notices for one agent.

    ``postmaster`` is a full address: whom senders are told to ask, and who gets the notices when
    ``error_notice_recipient`` is just ``postmaster``. ``part_size`` is the most octets of a stored
    part of content. ``new_id`` gives a fresh queue id on every call, on any thread; ``clock``
    seconds since the epoch.
    """

    def __init__(
        self,
        *,
        hostname: str,
        postmaster: str,
        notices: NoticeSettings,
        retry: RetrySettings,
        part_size: int,
        new_id: Callable[[], int],
        clock: Callable[[], float],
    ) -> None:
        self._hostname = hostname
        self._postmaster = postmaster
        self._notices = notices
        self._retry = retry
        self._part_size = part_size
        self._new_id = new_id
        self._clock = clock
        self._copies: dict[tuple[int, str], Submission] = {}
        self._lock = threading.Lock()

    @property
    def notice_recipient(self) -> str:
        """The address notices go to."""
        name = self._notices.error_notice_recipient
        if "@" in name:
            return name
        return self._postmaster if name in {"", "postmaster"} else f"{name}@{self._hostname}"

    def __call__(self, facts: ReportFacts) -> Submission | None:
        """The report a message owes, or None when nobody may get one."""
        if not facts.sender or not facts.recipients:
            return None
        report_id, now = self._new_id(), self._clock()
        report = self._report(facts, report_id, now)
        self._copy(facts, report, now)
        return self._submission(report_id, facts.sender, self._written(report), now, facts)

    def _report(self, facts: ReportFacts, report_id: int, now: float) -> Report:
        arrival = arrival_of(facts.queue_id)
        kind = ReportKind(facts.kind)
        until = 0.0
        if kind is ReportKind.DELAY:
            counted = lifetime_start(facts.queue_id, facts.not_before)
            until = retry.expires(arrival=counted, sender=facts.sender, settings=self._retry)
            until = deadline.ends(until, facts.deliver_by, facts.by_mode)
        return Report(
            kind=kind,
            queue_id=format_queue_id(facts.queue_id),
            report_id=format_queue_id(report_id),
            hostname=self._hostname,
            contact=self._postmaster,
            to=facts.sender,
            sender=facts.sender,
            recipients=tuple(_reported(facts, owed, until) for owed in facts.recipients),
            arrival=arrival,
            now=now,
            ret=DsnReturn.HDRS if facts.require_tls else DsnReturn(facts.ret),
            envid=facts.envid,
            utf8=facts.utf8,
            content=facts.content,
            whole=facts.complete,
            deliver_by=facts.deliver_by,
        )

    def _written(self, report: Report) -> bytes:
        return notification.compose(report, bounce_size_limit=self._notices.bounce_size_limit)

    def _copy(self, facts: ReportFacts, report: Report, now: float) -> None:
        incident = _COPIED.get(report.kind)
        if incident is None or not told(incident, self._notices):
            return
        copy_id = self._new_id()
        copy = msgspec.structs.replace(
            report,
            report_id=format_queue_id(copy_id),
            to=self.notice_recipient,
            postmaster_copy=True,
        )
        # A transaction may be repeated: what it wrote the first time is replaced, not doubled.
        with self._lock:
            self._copies[facts.queue_id, facts.kind] = self._submission(
                copy_id, self.notice_recipient, self._written(copy), now, facts
            )

    def take_copies(self) -> list[Submission]:
        """The postmaster's copies written since the last call, for the caller to enqueue."""
        with self._lock:
            copies, self._copies = self._copies, {}
        return list(copies.values())

    def notice(
        self,
        incident: Incident,
        *,
        what: str,
        queue_id: int = 0,
        sender: str = "",
        recipients: Sequence[str] = (),
        host: str = "",
        transcript: Sequence[str] = (),
    ) -> Submission | None:
        """A notice to the postmaster, or None when this class is not asked for.

        For ``REPORT_UNDELIVERABLE`` the recipients are those that mail from the null sender did not
        reach; when the postmaster is among them there is nobody left to tell.
        """
        to = self.notice_recipient
        if not told(incident, self._notices):
            return None
        undeliverable = incident is Incident.REPORT_UNDELIVERABLE
        if undeliverable and to.lower() in {address.lower() for address in recipients}:
            return None
        notice_id, now = self._new_id(), self._clock()
        notice = postmaster.Notice(
            notify_class=CLASS_OF[incident].value,
            notice_id=format_queue_id(notice_id),
            hostname=self._hostname,
            to=to,
            what=what,
            now=now,
            queue_id=format_queue_id(queue_id) if queue_id else "",
            sender=sender,
            recipients=tuple(recipients),
            host=host,
            transcript=tuple(transcript),
        )
        return self._submission(notice_id, to, postmaster.compose(notice), now)

    def _submission(
        self, queue_id: int, to: str, content: bytes, now: float, about: ReportFacts | None = None
    ) -> Submission:
        """A message of ours; a report is as urgent, and as well protected, as what it is ``about``."""
        international = not to.isascii()
        return Submission(
            queue_id=queue_id,
            envelope=Envelope(
                sender="",
                recipients=(NewRecipient(address=to, notify=Notify.NEVER),),
                priority=about.priority if about is not None else 0,
                require_tls=about is not None and about.require_tls,
            ),
            facts=content_facts(content, utf8_headers=international),
            parts=tuple(
                content[start : start + self._part_size]
                for start in range(0, len(content), self._part_size)
            ),
            arrival=now,
            origin=ORIGIN,
        )


_COPIED = {ReportKind.FAILURE: Incident.BOUNCED, ReportKind.DELAY: Incident.DELAYED}


def _reported(facts: ReportFacts, owed: OwedRecipient, until: float) -> Reported:
    kind, by, enhanced = ReportKind(facts.kind), (facts.deliver_by, facts.by_mode), owed.enhanced
    match kind:
        case ReportKind.FAILURE:
            action = Action.FAILED
            if owed.status == RecipientStatus.EXPIRED and deadline.over(*by, owed.updated):
                enhanced = deadline.RETURNED
        case ReportKind.DELAY:
            action = Action.DELAYED
            enhanced = deadline.DELAYED if deadline.notifies(*by) else enhanced
        case ReportKind.SUCCESS:
            # Success is reported from here only when a peer cannot; without a peer it ended here.
            action = Action.RELAYED if owed.host else Action.DELIVERED
        case _:
            assert_never(kind)
    return Reported(
        address=owed.address,
        action=action,
        enhanced=enhanced,
        code=owed.code,
        text=owed.text,
        stage=owed.stage,
        host=owed.host,
        orcpt=owed.orcpt,
        attempts=owed.attempts,
        expired=owed.status == RecipientStatus.EXPIRED,
        last_attempt=owed.updated if owed.attempts else 0.0,
        retry_until=until,
    )


def content_facts(content: bytes, *, utf8_headers: bool) -> ContentFacts:
    """What delivery must know of a content that was composed here, in wire form."""
    longest = max(map(len, content.split(b"\r\n")), default=0)
    return ContentFacts(
        size=len(content),
        dotted=content.startswith(b".") or b"\r\n." in content,
        eightbit=not content.isascii(),
        utf8_headers=utf8_headers,
        long_lines=longest > _LONGEST_LINE,
        digest=hashlib.sha256(content).digest(),
    )
