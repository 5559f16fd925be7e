"""What a listener process is told at its start, as the service sends it.

Guarantees: what :meth:`ListenerTerms.encode` writes, :meth:`ListenerTerms.decode` reads back equal.
"""

from dataclasses import dataclass, field

import msgspec

from deliveryagent.intake.listener_settings import ListenerSettings
from deliveryagent.log import LogSettings
from deliveryagent.mail.submission import CONTENT_PART
from deliveryagent.protocol.arrival import LimitSettings
from deliveryagent.resolver.settings import ResolverSettings


@dataclass(frozen=True, kw_only=True)
class ListenerTerms:
    """Everything one listener needs to know.

    ``bulk_after`` is that of ``queue.submissions.Submission``. ``run_dir`` is the directory of the service's
    socket. ``passphrase`` opens the private keys, read from where the setting says.
    """

    listener: ListenerSettings
    hostname: str
    limits: LimitSettings = field(default_factory=LimitSettings)
    dns: ResolverSettings = field(default_factory=ResolverSettings)
    log: LogSettings = field(default_factory=LogSettings)
    run_dir: str = ""
    part_size: int = CONTENT_PART
    bulk_after: int = 0
    passphrase: str = ""

    def encode(self) -> bytes:
        """As MessagePack, for the frame ``Configure``."""
        return msgspec.msgpack.encode(self)

    @classmethod
    def decode(cls, data: bytes) -> "ListenerTerms":
        """Read them back; raises ``msgspec.DecodeError``."""
        return _decoder.decode(data)


_decoder = msgspec.msgpack.Decoder(ListenerTerms)
