"""The settings of the crew: worker processes, sessions and their reuse.

Apart from the code that uses them: reading the configuration should not cost the import of asyncio,
ssl and the wire.
"""

from dataclasses import dataclass
from typing import Annotated

from deliveryagent.protocol.content import LINE_LENGTH_LIMIT
from deliveryagent.setting import Duration, key, parse_duration


@dataclass(frozen=True, kw_only=True)
class CrewSettings:
    """The worker processes of this agent."""

    workers: Annotated[
        int, key("Number of delivery worker processes; 0 means one per processor core.")
    ] = 0
    shutdown_grace: Annotated[
        Duration,
        key(
            "How long deliveries that have not sent their final dot may go on after the service was told to "
            "stop; those after the dot wait for the answer, however long its limit is."
        ),
    ] = parse_duration("10s")


@dataclass(frozen=True, kw_only=True)
class SessionSettings:
    """How this host introduces itself and takes its leave."""

    helo_name: Annotated[
        str, key("Our name in EHLO; empty means the hostname.", postfix="smtp_helo_name")
    ] = ""
    bind_address: Annotated[
        str,
        key("Source address of IPv4 connections; empty: any.", postfix="smtp_bind_address"),
    ] = ""
    bind_address6: Annotated[
        str,
        key("Source address of IPv6 connections; empty: any.", postfix="smtp_bind_address6"),
    ] = ""
    discard_ehlo_keywords: Annotated[
        tuple[str, ...],
        key(
            "EHLO keywords to overlook, such as pipelining or chunking.",
            postfix="smtp_discard_ehlo_keywords",
        ),
    ] = ()
    line_length_limit: Annotated[
        int,
        key(
            "Longer lines are continued on the next after a blank; 0 means no limit.",
            postfix="smtp_line_length_limit",
        ),
    ] = LINE_LENGTH_LIMIT
    skip_quit_response: Annotated[
        bool,
        key("Close without waiting for the answer to QUIT.", postfix="smtp_skip_quit_response"),
    ] = True


@dataclass(frozen=True, kw_only=True)
class ReuseSettings:
    """For how long a session is used for further messages."""

    connection_cache_time_limit: Annotated[
        Duration,
        key(
            "How long a session may be idle before it is ended; 0 means none is kept.",
            postfix="smtp_connection_cache_time_limit",
        ),
    ] = parse_duration("5s")
    connection_reuse_time_limit: Annotated[
        Duration,
        key(
            "How long after it was opened a session may take a further message.",
            postfix="smtp_connection_reuse_time_limit",
        ),
    ] = parse_duration("300s")
    connection_reuse_count_limit: Annotated[
        int,
        key(
            "Messages of one session; 0 means no limit. A slow host attracts more mail with one.",
            postfix="smtp_connection_reuse_count_limit",
        ),
    ] = 0
