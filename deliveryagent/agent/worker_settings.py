"""The settings of a worker, as the manager sends them.

``ClientSettings`` is what ``[smtp]`` says, and a route may narrow; ``LmtpSettings`` is the same for
``[lmtp]`` with other defaults. Guarantees: what :meth:`WorkerSettings.encode` writes,
:meth:`WorkerSettings.decode` reads back equal.
"""

from dataclasses import dataclass, field
from typing import Annotated, Literal

import msgspec

from deliveryagent.agent.debug_peers import DebugSettings
from deliveryagent.agent.settings import ReuseSettings, SessionSettings
from deliveryagent.policy.classify import RefusalSettings
from deliveryagent.policy.targets import LoopSettings, TargetSettings
from deliveryagent.policy.tls import TlsSettings
from deliveryagent.resolver.settings import ResolverSettings
from deliveryagent.setting import Duration, key, parse_duration
from deliveryagent.wire.limits import StageLimits


@dataclass(frozen=True, kw_only=True)
class ClientSettings(
    TargetSettings,
    SessionSettings,
    ReuseSettings,
    StageLimits,
    RefusalSettings,
    TlsSettings,
    DebugSettings,
):
    """[smtp]: how mail is handed to other hosts."""


@dataclass(frozen=True, kw_only=True)
class LmtpSettings(ClientSettings):
    """[lmtp]: the same for LMTP (RFC 2033), mostly to mailboxes on this host or the next."""

    port: Annotated[int, key("The port when a next hop names none.", postfix="lmtp_tcp_port")] = 24
    connect_timeout: Annotated[
        Duration,
        key(
            "Time for a connection to one address; 0 leaves it to the system.",
            postfix="lmtp_connect_timeout",
        ),
    ] = parse_duration(0)
    skip_quit_response: Annotated[
        bool,
        key("Close without waiting for the answer to QUIT.", postfix="lmtp_skip_quit_response"),
    ] = False
    tls_security_level: Annotated[
        Literal["", "none", "may", "encrypt"],
        key(
            'How much TLS is demanded: "none", "may" (when offered), "encrypt" (always).',
            postfix="lmtp_tls_security_level",
        ),
    ] = "none"


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """Everything a worker is told at its start.

    ``identity`` is the queue's, for the journal. ``routes`` has the client settings of each
    ``[[route]]`` in order. ``recipient_limit`` is the largest number of recipients of a request.
    ``minimal_backoff_time`` is the age, in seconds, from which a message may be sent in clear after
    a broken handshake.
    """

    hostname: str
    identity: bytes = bytes(16)
    dns: ResolverSettings = field(default_factory=ResolverSettings)
    loop: LoopSettings = field(default_factory=LoopSettings)
    smtp: ClientSettings = field(default_factory=ClientSettings)
    lmtp: LmtpSettings = field(default_factory=LmtpSettings)
    routes: tuple[tuple[ClientSettings, LmtpSettings], ...] = ()
    recipient_limit: int = 50
    minimal_backoff_time: float = 300.0

    def encode(self) -> bytes:
        """The settings as MessagePack, for the frame ``Configure``."""
        return msgspec.msgpack.encode(self)

    @classmethod
    def decode(cls, data: bytes) -> "WorkerSettings":
        """Read them back; raises ``msgspec.DecodeError``."""
        return _decoder.decode(data)


_decoder = msgspec.msgpack.Decoder(WorkerSettings)
