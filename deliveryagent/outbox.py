"""Enqueue inside the application's own SQL transaction: ``from deliveryagent import enqueue``.

::

    with engine.begin() as connection:
        connection.execute(insert(order).values(id=4711))
        enqueue(connection, message, key="order-4711")

The queue has to be in the same PostgreSQL database; docs/enqueue-in-sql.md tells all. Guarantees: nothing is
sent unless the transaction commits, and then exactly once per call; an address that is not acceptable is found
before the database is asked, so that the transaction stays usable. Never commits, never opens a connection.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from deliveryagent.client import EnqueueError
from deliveryagent.intake.outgoing import outgoing
from deliveryagent.mail.address import AddressError, parse_mailbox, parse_sender
from deliveryagent.protocol import headers
from deliveryagent.protocol.headers import Field, HeaderError
from deliveryagent.protocol.local import ExitCode, ServiceError

if TYPE_CHECKING:
    from email.message import Message

    from deliveryagent.intake.wishes import Wishes
    from deliveryagent.queue.transactional import Call

_HEAD = 1 << 20  # octets in which the header section is looked for
_ANY_DOMAIN = "localhost.localdomain"  # the database knows the one that is added
_EXIT = {
    "ML004": ExitCode.USAGE,
    "ML006": ExitCode.BAD_CONFIGURATION,
    "3F000": ExitCode.BAD_CONFIGURATION,
    "42883": ExitCode.BAD_CONFIGURATION,
    "42501": ExitCode.NOT_PERMITTED,
}


def enqueue(
    connection: Any,
    message: "bytes | Message[Any, Any]",
    *,
    sender: str | None = None,
    recipients: str | Iterable[str] | None = None,
    key: str | None = None,
    at: datetime | float | None = None,
    tags: Mapping[str, str] | None = None,
    dsn: str | Iterable[str] | None = None,
    ret: str | None = None,
    envid: str | None = None,
    hold: bool = False,
) -> str:
    """Hand over one message in the transaction that ``connection`` is in; returns its queue id.

    ``connection`` is a ``Connection`` or ``Session`` of SQLAlchemy, or a connection of psycopg 3. Without
    ``sender`` it is the address in Sender or From, without ``recipients`` those in To, Cc and Bcc (of a
    message that was resent: in the Resent- fields). An empty sender is the null sender. Bcc is never sent.
    The other arguments are those of ``Client.enqueue``.

    Raises :class:`EnqueueError` with the codes of ``Client``. When the database refused, the transaction can
    only be rolled back, as after any error of PostgreSQL; a savepoint around the call keeps the rest.
    """
    wishes: Wishes = {
        "at": at,
        "tags": tags,
        "dsn": dsn,
        "ret": ret,
        "envid": envid,
        "hold": hold,
    }
    way = _way(connection)
    try:
        if sender is None or recipients is None:
            fields = _fields(message)
            sender = _sender(fields) if sender is None else sender
            recipients = headers.recipients_of(fields) if recipients is None else recipients
        sent = outgoing(sender, recipients, message, wishes)
        call = _call(sender, sent.request, sent.content, key)
    except HeaderError as error:
        raise EnqueueError(ExitCode.BAD_DATA, f"cannot read the addresses: {error}") from None
    except ServiceError as error:
        raise EnqueueError(error.code, error.text, error.hint) from None
    return _done(connection, way, call)


def _way(connection: Any) -> str:
    """By which library the connection is used; raises ``EnqueueError`` for one that cannot serve."""
    origins = {kind.__module__ for kind in type(connection).__mro__}
    rooms = {origin.partition(".")[0] for origin in origins}
    if type(connection).__name__.startswith("Async"):
        raise EnqueueError(
            ExitCode.USAGE,
            "an asynchronous connection cannot be used here",
            "With SQLAlchemy: await connection.run_sync(enqueue, message). "
            "With psycopg: await connection.execute('SELECT deliveryagent.enqueue(...)').",
        )
    dialect = ""
    if "sqlalchemy" in rooms:
        bind = connection.get_bind() if hasattr(connection, "get_bind") else connection
        dialect = getattr(getattr(bind, "dialect", None), "name", "")
    if "sqlite3" in rooms or dialect == "sqlite":
        raise EnqueueError(
            ExitCode.USAGE,
            "a queue in SQLite has one writer, the agent; an application's connection cannot be another",
            "Use deliveryagent.Client after your commit, or keep queue and data in PostgreSQL.",
        )
    if dialect == "postgresql":
        return "sqlalchemy"
    if "psycopg" in rooms:
        return "psycopg"
    raise EnqueueError(
        ExitCode.USAGE,
        f"{type(connection).__name__} is no connection to PostgreSQL that is known here",
        "Hand over a Connection or Session of SQLAlchemy, or a connection of psycopg 3.",
    )


def _fields(message: Any) -> list[Field]:
    """The header fields of a message, with addresses as people write them."""
    if isinstance(message, bytes | bytearray | memoryview):
        octets = bytes(message[:_HEAD])
    else:
        policy = message.policy.clone(linesep="\n")
        octets = message.as_bytes(
            policy=policy.clone(utf8=True) if hasattr(policy, "utf8") else policy
        )
    text = octets[:_HEAD].replace(b"\r\n", b"\n").replace(b"\r", b" ")
    if text.startswith((b"From ", b">From ")) and not headers.begins_field(text):
        text = text.partition(b"\n")[2]
    if not text.endswith(b"\n"):
        text += b"\n"
    return headers.split_fields(text[: headers.find_end(text, 0, final=True).lines])


def _sender(fields: list[Field]) -> str:
    resent = any(field.name.startswith(b"resent-") for field in fields)
    names = (b"resent-sender", b"resent-from") if resent else (b"sender", b"from")
    for name in names:
        for field in fields:
            if field.name == name:
                found = headers.parse_address_list(field.body.decode("utf-8", "surrogateescape"))
                if len(found) == 1:
                    return found[0]
    raise EnqueueError(
        ExitCode.BAD_DATA,
        "the header section does not name one sender",
        "Say who it is with sender=.",
    )


def _call(sender: str, request: Mapping[str, Any], content: Any, key: str | None) -> "Call":
    from deliveryagent.queue.transactional import Call  # noqa: PLC0415 - loads SQLAlchemy

    moment = request.get("not_before")
    try:
        return Call(
            sender=_in_ascii(sender, kind="sender"),
            recipients=[_in_ascii(one, kind="recipient") for one in request["recipients"]],
            content=content if isinstance(content, bytes) else content.read(),
            key=key or None,
            at=None if not moment else datetime.fromtimestamp(moment, UTC),
            tags=request.get("tags") or {},
            dsn=request.get("dsn") or None,
            ret=request.get("ret") or None,
            envid=request.get("envid") or None,
            hold=bool(request.get("hold")),
        )
    except (OverflowError, ValueError, OSError):
        raise ServiceError(ExitCode.USAGE, "the time to send is no time") from None


def _in_ascii(address: str, *, kind: str) -> str:
    """An address the database can judge: with its domain in A-labels. What has no domain is left as it is."""
    what = "the sender" if kind == "sender" else "a recipient"
    try:
        if kind == "sender" and not parse_sender(address, default_domain=_ANY_DOMAIN):
            return ""
        wire = parse_mailbox(address, default_domain=_ANY_DOMAIN).address
    except AddressError as error:
        raise ServiceError(ExitCode.BAD_DATA, f"{what} is not acceptable: {error}") from None
    return wire if not address.isascii() and "@" in address else address


def _done(connection: Any, way: str, call: "Call") -> str:
    from deliveryagent.queue import transactional  # noqa: PLC0415 - loads SQLAlchemy

    try:
        if way == "psycopg":
            return transactional.by_psycopg(connection, call)
        bound = transactional.connection_of(connection)
        if bound is None:
            raise EnqueueError(
                ExitCode.USAGE, "an engine has no transaction: begin one and pass it"
            )
        return transactional.by_sqlalchemy(bound, call)
    except transactional.Refused as refused:
        code = _EXIT.get(refused.state, ExitCode.BAD_DATA)
        raise EnqueueError(code, str(refused), refused.hint) from refused
