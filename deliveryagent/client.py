"""Hand over mail from Python: ``from deliveryagent import Client``.

::

    with Client() as mail:
        queue_id = mail.enqueue("shop@example.org", ["kim@example.net"], message, key="order-4711")
        mail.wait(queue_id, timeout=30)

The service's socket is used when it is there; when it goes away it is waited for, since it may be
restarting; when no service runs the queue is written directly, under the lock that a service would
hold. Guarantees: a call that returns has its message on stable storage; a call that raises
:class:`EnqueueError` has left nothing behind, unless its text says that this is not known; a
message is never taken twice because a connection broke, since every message carries a key (its own
or one drawn here) by which the queue knows it again. A forked process has a connection of its own. Not
for use by several threads at once.

Never imports SQLAlchemy or asyncio while a service runs, and for one message next to nothing.
"""

from __future__ import annotations

import os
import time

from deliveryagent.intake.link import Link, LostError
from deliveryagent.intake.outgoing import ANSWER_TIME, Outgoing, outgoing
from deliveryagent.protocol.local import ServiceError, encode_line, error_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from email.message import Message
    from typing import Any, Self, Unpack

    from deliveryagent.intake.batch import Batch
    from deliveryagent.intake.direct import DirectQueue
    from deliveryagent.intake.wishes import Readable, Wishes

__all__ = ["Client", "EnqueueError", "ServiceError", "Wishes"]

PATIENCE = 10.0
"""Seconds to wait for a service that is restarting."""

PAUSE = 0.1
"""Seconds between two looks for it."""


class EnqueueError(ServiceError):
    """A message was not taken. ``code`` is the exit status a command would end with.

    65: an address or the content is not acceptable; 75: try again later; 4: not permitted; 2: an
    argument makes no sense; 78: the configuration is bad. From ``enqueue_many``, ``accepted`` has
    one entry for each message that was sent, in order: its id, or None when it was not taken.
    """

    def __init__(self, code: int, text: str, hint: str = "") -> None:
        super().__init__(code, text, hint)
        self.accepted: tuple[str | None, ...] = ()


class Client:
    """A way into the queue. ``config`` is the configuration file, ``overrides`` as for ``--set``.

    With ``socket``, only that socket is used and the queue is never written directly. ``patience``
    is how many seconds a service that is away is waited for.
    """

    def __init__(
        self,
        config: str | os.PathLike[str] | None = None,
        socket: str | os.PathLike[str] | None = None,
        *,
        overrides: Sequence[str] = (),
        patience: float = PATIENCE,
    ) -> None:
        self._config = config
        self._overrides = tuple(overrides)
        self._socket = os.fspath(socket) if socket is not None else None
        self._patience = patience
        self._link: Link | None = None
        self._in_doubt = False  # the last message was sent and lost its answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection. The client can be used again."""
        link, self._link = self._link, None
        if link is not None:
            link.close()

    def enqueue(
        self,
        sender: str | None,
        recipients: str | Iterable[str],
        content: bytes | bytearray | memoryview | Message[Any, Any] | Readable,
        **wishes: Unpack[Wishes],
    ) -> str:
        """Hand over one message; returns its queue id once it is on stable storage.

        ``sender`` is the envelope sender: empty for the null sender, None for the caller's own
        address. ``content`` is octets, an object of the ``email`` package or a binary file.
        Raises :class:`EnqueueError`.
        """
        try:
            message = outgoing(sender, recipients, content, wishes)
            answer = self._at_once(message)
        except ServiceError as error:
            raise not_taken(error, (None,)) from None
        if answer is not None:
            return answer
        from deliveryagent.intake.batch import Batch

        return self._all_of(Batch((), begun=message, in_doubt=self._in_doubt))[0]

    def enqueue_many(self, items: Iterable[Sequence[Any]]) -> list[str]:
        """Hand over many messages in few commits; returns their queue ids in order.

        Each item is ``(sender, recipients, content)`` or ``(sender, recipients, content, wishes)``
        with a dictionary of what ``enqueue`` takes by name. Raises :class:`EnqueueError` when one
        is not taken; its ``accepted`` tells what became of those that were sent.
        """
        from deliveryagent.intake.batch import Batch

        return self._all_of(Batch(items))

    def _all_of(self, batch: Batch) -> list[str]:
        try:
            self._hand_over(batch)
        except BaseException:
            self.close()  # answers may still be on their way
            raise
        if batch.failure is not None:
            raise not_taken(batch.failure, tuple(batch.ids))
        return [queue_id for queue_id in batch.ids if queue_id is not None]

    def wait(self, queue_id: str, timeout: float = 30.0) -> dict[str, Any]:
        """What has become of a message once none of its recipients waits, or after ``timeout``.

        Returns the message as ``dagent queue show --json`` prints it. Raises ``ServiceError`` when
        there is no such message, or no service that would deliver it.
        """
        deadline = time.monotonic() + timeout
        while True:
            left = max(0.0, deadline - time.monotonic())
            try:
                answer = self.order("wait", ANSWER_TIME + left, id=queue_id, timeout=left)
            except LostError:  # restarting: what is known of the message is not lost
                if time.monotonic() > deadline:
                    raise
                time.sleep(PAUSE)
                continue
            found: dict[str, Any] = answer["message"]
            return found

    def order(self, op: str, patience: float = ANSWER_TIME, **fields: Any) -> dict[str, Any]:
        """Have the service carry out a request of ``protocol.local``, once.

        Raises ``ServiceError``: with code 3 when no service runs, ``LostError`` when the connection
        broke or ``patience`` seconds passed, so that it is not known what was done.
        """
        way = self._way(time.monotonic() + self._patience)
        if not isinstance(way, Link):
            way.close()
            from deliveryagent.access import none_runs

            raise none_runs()
        try:
            way.put(encode_line({"op": op, **fields}))
            answer = way.answer(patience)
        except BaseException:
            self.close()
            raise
        if (error := error_of(answer)) is not None:
            raise error
        return answer

    def _at_once(self, message: Outgoing) -> str | None:
        """The id of a message that a service took at the first try.

        None when there is none, or it went away: then it takes patience. Raises its refusal.
        """
        self._in_doubt = False
        link = self._link_at_hand()
        if link is None:
            return None
        try:
            link.put(message.line, message.pieces())
            answer = link.answer(ANSWER_TIME)
        except LostError:
            self._in_doubt = True
            self.close()
            return None
        except BaseException:
            self.close()
            raise
        if (error := error_of(answer)) is not None:
            raise error
        return str(answer.get("id"))

    def _link_at_hand(self) -> Link | None:
        """A connection that is there, or can be had without waiting or much reading."""
        if self._link is not None:
            if not self._link.stale:
                return self._link
            self.close()
        path = self._socket
        if path is None:
            from deliveryagent.config.location import glimpse

            location = glimpse(self._config, self._overrides)
            if location is None:
                return None
            path = location.socket
        try:
            self._link = Link(path, ANSWER_TIME)
        except OSError:
            return None
        return self._link

    def _hand_over(self, batch: Batch) -> None:
        """Send everything, over as many connections as it takes."""
        deadline, answered = time.monotonic() + self._patience, -1
        while not batch.complete():
            if len(batch.ids) > answered:
                deadline, answered = time.monotonic() + self._patience, len(batch.ids)
            else:
                time.sleep(PAUSE)  # twice in a row without any answer
            try:
                way = self._way(deadline)
                if isinstance(way, Link):
                    batch.send_over(way)
                else:
                    with way:
                        batch.put_into(way)
            except LostError as error:
                self.close()
                batch.lost()
                if time.monotonic() > deadline:
                    batch.give_up(error)
            except ServiceError as error:
                batch.give_up(error)

    def _way(self, deadline: float) -> Link | DirectQueue:
        """The service, waited for while it may be restarting, or else the queue, locked."""
        if self._link is not None:
            if not self._link.stale:
                return self._link
            self.close()
        from deliveryagent import access

        if self._socket is not None:
            path, url = self._socket, ""
        else:
            path, url = access.socket_and_queue(self._config, self._overrides)
        while True:
            try:
                self._link = Link(path, ANSWER_TIME)
            except PermissionError:
                raise access.not_allowed(path) from None
            except OSError as error:
                missing = access.not_reached(path, error)
            else:
                return self._link
            if url:
                queue = access.open_queue(url, self._config, self._overrides)
                if queue is not None:
                    return queue
            if time.monotonic() >= deadline:
                raise missing
            time.sleep(PAUSE)


def not_taken(reason: ServiceError, accepted: tuple[str | None, ...]) -> EnqueueError:
    """The error an application gets, for what went wrong and what was accepted before."""
    error = EnqueueError(reason.code, reason.text, reason.hint)
    error.accepted = accepted
    return error


def __getattr__(name: str) -> Any:
    if name == "Wishes":
        from deliveryagent.intake.wishes import Wishes

        return Wishes
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
