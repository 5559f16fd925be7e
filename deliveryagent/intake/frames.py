"""What the service and its listener processes say to each other over a socket pair.

Frames of ``protocol.framing``, one value of the unions below each. The listener checks and stamps messages
and hands them over complete; the service stores them and answers. Guarantees: an answer follows the commit.
Never touches a socket.
"""

import msgspec

from deliveryagent.mail.submission import StagedPart, Submission


class Configure(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """First frame to a listener: its settings (``intake.listener_terms.ListenerTerms``, MessagePack).

    ``mark`` and ``last`` are for the queue ids it draws (``queue.ids``): nobody else has this mark now.
    """

    settings: bytes
    mark: int
    last: int


class Take(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Take over a message; ``Taken`` or ``Refused`` with this serial answers."""

    serial: int
    submission: Submission


class Stage(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Keep a part of a large content whose message follows; answered as ``Take``, with an empty id."""

    serial: int
    part: StagedPart


class Abandon(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Forget the parts that were staged under this id."""

    queue_id: int


class Taken(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The message is in the queue under this id; ``duplicate`` when it was before."""

    serial: int
    queue_id: str
    duplicate: bool = False


class Refused(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """It was not taken. ``code`` is a ``protocol.local.ExitCode``: TRY_LATER, or BAD_DATA for a key in use."""

    serial: int
    code: int
    text: str


class Finish(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Accept no more connections, end sessions as they become idle, all of them after ``grace`` seconds.

    ``at_once``: the service ends; sessions between two messages are told to come again (421 4.3.2).
    """

    grace: float
    at_once: bool = False


class Ready(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """From the listener: it is accepting connections. ``problem``: it cannot, and why."""

    problem: str = ""


class Beat(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """From the listener, every second: how many sessions it has, how many messages it handed over so far."""

    sessions: int
    taken: int


ToListener = Configure | Taken | Refused | Finish
FromListener = Take | Stage | Abandon | Ready | Beat

to_listener_decoder: msgspec.msgpack.Decoder[ToListener] = msgspec.msgpack.Decoder(ToListener)
from_listener_decoder: msgspec.msgpack.Decoder[FromListener] = msgspec.msgpack.Decoder(FromListener)
