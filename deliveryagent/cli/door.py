"""The running service, as a command sees it.

A :class:`Door` asks the service over its local socket. Guarantees: whether a service runs is known
at once, without waiting; a view of the queue works without one (``ask`` then gives None), an order
that needs one says so with exit status 3. Never writes to the queue.
"""

from typing import Any

from deliveryagent.cli.faults import ExitStatus
from deliveryagent.intake.link import Link
from deliveryagent.protocol.local import ServiceError, encode_line, error_of

_LOOK_TIME = 5.0
ORDER_TIME = 600.0
"""Seconds a large order may take."""


class Door:
    """The socket of the service; connects when it is first asked."""

    def __init__(self, socket: str) -> None:
        self._path = socket
        self._link: Link | None = None
        self.trouble = ""
        """Why the service cannot be asked, empty when it can or was not tried."""
        self.reached = False
        """Whether something listens there, even if it may not be asked."""

    def ask(self, op: str, *, patience: float = _LOOK_TIME, **fields: Any) -> dict[str, Any] | None:
        """The service's answer, None when no service runs. Raises ``ServiceError`` for its refusals."""
        link = self._connected()
        if link is None:
            return None
        link.put(encode_line({"op": op, **fields}))
        answer = link.answer(patience)
        if (error := error_of(answer)) is not None:
            raise error
        return answer

    def look(self, op: str, **fields: Any) -> dict[str, Any] | None:
        """Like :meth:`ask` for what a view shows besides: None as well when the service refuses or is busy."""
        try:
            return self.ask(op, **fields)
        except ServiceError as error:
            self.trouble = str(error)
            self.close()
            return None

    def demand(self, op: str, **fields: Any) -> dict[str, Any]:
        """The answer of a service that must be there; raises ``ServiceError`` with status 3 when not."""
        answer = self.ask(op, patience=ORDER_TIME, **fields)
        if answer is None:
            raise ServiceError(
                ExitStatus.UNREACHABLE,
                f"no service is running ({self._path}: {self.trouble})",
                "Start it: systemctl start deliveryagent, or dagent serve",
            )
        return answer

    def close(self) -> None:
        """End the connection."""
        if self._link is not None:
            self._link.close()
            self._link = None

    def _connected(self) -> Link | None:
        if self._link is None:
            try:
                self._link = Link(self._path, _LOOK_TIME)
            except PermissionError:
                self.reached = True
                raise ServiceError(
                    ExitStatus.NOT_PERMITTED,
                    f"{self._path}: you may not use the service's socket",
                    "The setting submit.admin_group names those who may look and change.",
                ) from None
            except OSError as error:
                self.trouble = error.strerror or str(error)
                return None
            self.reached = True
        return self._link
