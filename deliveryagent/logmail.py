"""Log records by mail through the agent: ``logging.handlers.SMTPHandler`` without SMTP.

::

    log.addHandler(LogMail("", "app@example.org", ["ops@example.org"], "the shop has a problem"))

or in ``dictConfig``: ``{"class": "deliveryagent.logmail.LogMail", "mailhost": "", "fromaddr": …}``. Guarantees:
a record is on stable storage when the call returns; what goes wrong is left to ``handleError``, as the standard
library does. Waits at most ``timeout`` seconds for an agent that is restarting, and so does whoever logs.
"""

import email.utils
import logging
from collections.abc import Sequence
from email.message import EmailMessage
from logging.handlers import SMTPHandler
from typing import Any

from deliveryagent.smtp import SMTP

__all__ = ["LogMail"]


class LogMail(SMTPHandler):
    """The standard library's handler, with its arguments; ``mailhost`` as in :class:`deliveryagent.smtp.SMTP`.

    ``credentials`` and ``secure`` are accepted and not needed. Further arguments are those of ``SMTP`` that
    are given by name: ``config``, ``tags``, ``dsn``, ….
    """

    def __init__(
        self,
        mailhost: str | tuple[str, int],
        fromaddr: str,
        toaddrs: str | Sequence[str],
        subject: str,
        credentials: tuple[str, str] | None = None,
        *,
        secure: tuple[()] | tuple[str] | tuple[str, str] | None = None,
        timeout: float = 5.0,
        **options: Any,
    ) -> None:
        super().__init__(
            mailhost, fromaddr, list(toaddrs) if not isinstance(toaddrs, str) else toaddrs, subject,
            credentials=credentials, secure=secure, timeout=timeout,
        )  # fmt: skip
        self._options = options

    def emit(self, record: logging.LogRecord) -> None:
        """Hand over one record as a message."""
        try:
            message = EmailMessage()
            message["From"] = self.fromaddr
            message["To"] = ",".join(self.toaddrs)
            message["Subject"] = self.getSubject(record)
            message["Date"] = email.utils.localtime()
            message.set_content(self.format(record))
            with SMTP(self.mailhost, timeout=self.timeout, **self._options) as smtp:
                smtp.send_message(message)
        except Exception:  # noqa: BLE001 - a handler never raises
            self.handleError(record)
