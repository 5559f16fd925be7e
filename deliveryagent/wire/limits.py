"""Time limits of a session, one per stage (RFC 5321 4.5.3.2), named and preset like Postfix's.

A limit is for one complete reply: octets that drip in do not extend it. Zero means no limit of our own.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

from deliveryagent.mail.delivery import Stage
from deliveryagent.setting import Duration, key, parse_duration


@dataclass(frozen=True, kw_only=True)
class StageLimits:
    """How long a peer may take for each step; settings of ``[smtp]`` and ``[lmtp]``."""

    connect_timeout: Annotated[
        Duration,
        key(
            "Time for a connection to one address; 0 leaves it to the system.",
            postfix="smtp_connect_timeout",
        ),
    ] = parse_duration("30s")
    greeting_timeout: Annotated[
        Duration,
        key("Time from the connection to the complete greeting.", postfix="smtp_helo_timeout"),
    ] = parse_duration("300s")
    helo_timeout: Annotated[
        Duration,
        key(
            "Time for the answer to EHLO, HELO or LHLO, and to each step of AUTH.",
            postfix="smtp_helo_timeout",
        ),
    ] = parse_duration("300s")
    starttls_timeout: Annotated[
        Duration,
        key(
            "Time for the answer to STARTTLS, and again for the handshake.",
            postfix="smtp_starttls_timeout",
        ),
    ] = parse_duration("300s")
    mail_timeout: Annotated[
        Duration, key("Time for the answer to MAIL FROM.", postfix="smtp_mail_timeout")
    ] = parse_duration("300s")
    rcpt_timeout: Annotated[
        Duration, key("Time for the answer to each RCPT TO.", postfix="smtp_rcpt_timeout")
    ] = parse_duration("300s")
    data_init_timeout: Annotated[
        Duration, key("Time for the answer to DATA.", postfix="smtp_data_init_timeout")
    ] = parse_duration("120s")
    data_xfer_timeout: Annotated[
        Duration,
        key("How long the peer may read nothing of the content.", postfix="smtp_data_xfer_timeout"),
    ] = parse_duration("180s")
    data_done_timeout: Annotated[
        Duration,
        key(
            "Time for the answer to the final dot; with LMTP for each.",
            postfix="smtp_data_done_timeout",
        ),
    ] = parse_duration("600s")
    rset_timeout: Annotated[
        Duration, key("Time for the answer to RSET.", postfix="smtp_rset_timeout")
    ] = parse_duration("20s")
    quit_timeout: Annotated[
        Duration,
        key("Time for the answer to QUIT, where it is awaited.", postfix="smtp_quit_timeout"),
    ] = parse_duration("300s")

    @cached_property
    def table(self) -> dict[Stage, float]:
        """The limit of every stage that awaits the peer, in seconds."""
        return {
            Stage.CONNECT: self.connect_timeout,
            Stage.GREETING: self.greeting_timeout,
            Stage.EHLO: self.helo_timeout,
            Stage.STARTTLS: self.starttls_timeout,
            Stage.AUTH: self.helo_timeout,
            Stage.MAIL: self.mail_timeout,
            Stage.RCPT: self.rcpt_timeout,
            Stage.DATA: self.data_init_timeout,
            Stage.CONTENT: self.data_xfer_timeout,
            Stage.DOT: self.data_done_timeout,
            Stage.RSET: self.rset_timeout,
            Stage.QUIT: self.quit_timeout,
        }
