"""What the manager and its workers say to each other over a socket pair.

Every frame (``protocol.framing``) is one value of the unions below; one of unknown kind raises ``FrameError``
and ends the connection. Never touches a socket.
"""

from collections.abc import Iterable

import msgspec

from deliveryagent.mail.delivery import DeliveryRequest, DeliveryResult
from deliveryagent.mail.nexthop import MailHosts
from deliveryagent.protocol.framing import FRAME_LIMIT, FrameError, Unframer, encode

__all__ = ["FRAME_LIMIT", "FrameError", "Unframer", "encode"]

RESULTS_LIMIT = 1024 * 1024
"""Octets of results in one frame, unless a single one has more."""


class Configure(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """First frame to a worker: its settings (see ``agent.worker.WorkerSettings``, MessagePack)."""

    settings: bytes


class Lookup(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Ask for the site behind a next hop, before the first request for it is sent."""

    serial: int
    next_hop: str
    route: int


class Hosts(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """What is behind a next hop for which requests will come, found by another worker; for ``ttl`` seconds."""

    next_hop: str
    route: int
    hosts: MailHosts
    ttl: float


class Deliver(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Take up a delivery."""

    request: DeliveryRequest


class Room(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """How many requests of a site this worker may carry out at once; the others it has wait their turn there.

    0: whatever has not begun comes back untried, and the worker forgets that there was a limit. A site that
    was never named has none.
    """

    site: str
    limit: int


class Part(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """One part of a content a worker fetched; ``data`` is None when it cannot be read."""

    queue_id: int
    part: int
    data: bytes | None


class Settled(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """All results up to this sequence number are durable: their journal slots may be used again."""

    sequence: int


class Release(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """End idle sessions: to these sites or, where none is named, to all. Answered by ``Released``."""

    serial: int
    sites: list[str]


class Lease(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Until when this agent may deliver: no final dot is written from then on.

    ``until`` is a time of the machine's monotonic clock in seconds, infinite for a queue that nobody else can
    own.
    """

    until: float


class Drain(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Finish what runs and exit; what has not reached its final dot within ``grace`` seconds is RETURNED."""

    grace: float


class Ready(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """First frame from a worker, after it has read its settings."""

    pid: int


class Site(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Answer to ``Lookup``: the site's name, empty when it cannot be known now, and for how long it holds.

    ``hosts`` are those behind the next hop, None where none were asked for.
    """

    serial: int
    name: str
    ttl: float
    hosts: MailHosts | None = None


class Results(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Deliveries that ended in one turn of the worker's event loop, in the order they ended."""

    results: list[DeliveryResult]


class Fetch(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Ask for one part of a content."""

    queue_id: int
    part: int


class Released(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Answer to ``Release``: what was idle then is ended, and the peers have said goodbye."""

    serial: int


class Beat(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Sign of life from the worker's event loop, once a second: its lag in seconds and open sessions.

    ``load`` is the share of a processor it needed since the last one.
    """

    lag: float
    sessions: int
    load: float = 0.0


class Event(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Something for the log that belongs to no recipient: ``kind`` as in the event log, fields as text."""

    kind: str
    fields: dict[str, str]


class Transcript(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The dialogue of a session that broke the protocol, for the postmaster's notice (class ``protocol``)."""

    host: str
    queue_id: int
    lines: list[str]


ToWorker = Configure | Lookup | Hosts | Deliver | Room | Part | Settled | Release | Lease | Drain
FromWorker = Ready | Released | Site | Results | Fetch | Beat | Event | Transcript

_encoder = msgspec.msgpack.Encoder()
to_worker_decoder: msgspec.msgpack.Decoder[ToWorker] = msgspec.msgpack.Decoder(ToWorker)
from_worker_decoder: msgspec.msgpack.Decoder[FromWorker] = msgspec.msgpack.Decoder(FromWorker)


def encode_results(results: Iterable[bytes]) -> bytes:
    """The octets of ``Results`` for results that are in MessagePack already, in one frame or, of many, more."""
    whole: list[bytes] = []
    chunk: list[msgspec.Raw] = []
    octets = 0
    for result in results:
        if octets + len(result) > RESULTS_LIMIT and chunk:
            whole.append(_results(chunk))
            chunk, octets = [], 0
        chunk.append(msgspec.Raw(result))
        octets += len(result)
    whole.append(_results(chunk))
    return b"".join(whole)


def _results(results: list[msgspec.Raw]) -> bytes:
    body = _encoder.encode((Results.__name__, results))
    return len(body).to_bytes(4, "big") + body
