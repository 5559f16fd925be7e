"""Reports to senders and notices to the postmaster on their way into the queue.

Guarantees: what a report says is read, written and marked as reported in one transaction, which also carries
the outcomes handed in before it; a failure to write a notice never touches mail. Never composes anything
itself: that is ``agent.bounce``.
"""

import asyncio
from collections.abc import Callable, Sequence

from deliveryagent.agent.bounce import Composer
from deliveryagent.log import EventLog
from deliveryagent.mail.envelope import format_queue_id
from deliveryagent.mail.submission import Answer, Submission
from deliveryagent.policy.notices import Incident
from deliveryagent.queue import reports, submissions
from deliveryagent.queue.thread import Database


class Reporting:
    """Owed reports and wanted notices.

    The manager sets ``nudge``, which is called whenever a new message is in the queue.
    """

    def __init__(
        self,
        *,
        database: Database,
        composer: Composer,
        log: EventLog,
        clock: Callable[[], float],
    ) -> None:
        self.composer = composer
        self.nudge: Callable[[], None] = lambda: None
        self.busy = 0  # reports and notices that wait for their commit
        self._database = database
        self._log = log
        self._clock = clock

    def report(self, queue_id: int) -> None:
        """Write the reports a message owes."""

        kinds: dict[int, str] = {}

        def compose(facts: reports.ReportFacts) -> Submission | None:
            report = self.composer(facts)
            if report is not None:
                kinds[report.queue_id] = facts.kind
            return report

        def written(future: asyncio.Future[reports.Written]) -> None:
            self.busy -= 1
            if future.cancelled():
                return
            error = future.exception()
            if error is not None:
                # The debt stays on record: the next start, or the next report of this message, pays it.
                self._event("report_failed", queue_id, {"error": str(error)})
                return
            done = future.result()
            for report_id in done.reports:
                fields = {"kind": kinds[report_id], "report": format_queue_id(report_id)}
                self._event("dsn", queue_id, fields)
            for copy in self.composer.take_copies():
                self._submit(copy)
            if done.more:
                self.report(queue_id)
            self.nudge()

        self.busy += 1
        order = reports.Report(queue_id, compose)
        self._database.submit(reports.write, order).add_done_callback(written)

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
    ) -> None:
        """Tell the postmaster, if this class of incident is asked for."""
        message = self.composer.notice(
            incident,
            what=what,
            queue_id=queue_id,
            sender=sender,
            recipients=recipients,
            host=host,
            transcript=transcript,
        )
        if message is not None:
            self._submit(message)

    def _submit(self, message: Submission) -> None:
        def stored(future: "asyncio.Future[Answer]") -> None:
            self.busy -= 1
            if not future.cancelled() and future.exception() is not None:
                self._event("notice_failed", message.queue_id, {"error": str(future.exception())})
            self.nudge()

        self.busy += 1
        self._database.submit(submissions.add, message).add_done_callback(stored)

    def _event(self, kind: str, queue_id: int, fields: dict[str, str]) -> None:
        self._log.event(kind, {"id": format_queue_id(queue_id), **fields}, now=self._clock())
