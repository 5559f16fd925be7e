"""Django's mail through the agent: ``EMAIL_BACKEND = "deliveryagent.django.EmailBackend"``.

Or, where Django has ``MAILERS`` (6.1 and later)::

    MAILERS = {
        "default": {
            "BACKEND": "deliveryagent.django.EmailBackend",
            "OPTIONS": {"tags": {"app": "shop"}, "fail_silently": False},
        },
    }

Options: ``config`` (the agent's configuration file), ``socket``, ``overrides`` and ``patience`` as for
:class:`deliveryagent.Client`; ``tags``, ``dsn``, ``ret``, ``hold``, ``priority`` for every message, as in
``Client.enqueue``; ``fail_silently``. With ``EMAIL_BACKEND`` they stand in the setting ``DELIVERYAGENT``, a
dictionary.

What to do with one message stands in a dictionary ``message.delivery`` with the names of ``Client.enqueue``
(``key``, ``at``, ``tags``, …), or in header fields that are not sent
(:mod:`deliveryagent.intake.instructions`). With a key, Date and Message-ID are left to the agent unless the
program gave them, so that sending again is safe. Guarantees: what is counted as sent is on stable storage; one
connection serves all messages of a call; Bcc is never sent; addresses beyond ASCII are kept as they are.
Trouble is told as Django's own backend would, by ``smtplib.SMTPException``, and with ``ValueError`` for what is
no address.
"""

import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from email import policy
from email.message import EmailMessage as StandardMessage
from email.message import Message
from inspect import signature
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.mail import EmailMessage
from django.core.mail.backends.base import BaseEmailBackend

from deliveryagent.client import PATIENCE, Client, EnqueueError
from deliveryagent.intake.boundaries import settle_boundaries
from deliveryagent.intake.instructions import take_off
from deliveryagent.intake.outgoing import WISHES
from deliveryagent.intake.wishes import Wishes
from deliveryagent.mail.address import parse_sender
from deliveryagent.protocol.headers import parse_address_list
from deliveryagent.protocol.local import ExitCode
from deliveryagent.smtp import bare_address, refusal

__all__ = ["EmailBackend"]

Item = tuple[str, list[str], bytes, Wishes]

_OPTIONS = frozenset({"config", "socket", "overrides", "patience", "fail_silently"})
_FOR_EVERY_MESSAGE = frozenset({"tags", "dsn", "ret", "hold", "priority"})
_OF_A_MESSAGE = WISHES - {"from_headers", "full_name"}
_PASSED_BY_DJANGO = frozenset(
    {"username", "password"}
)  # by send_mail(auth_user=…): the socket knows the user
_HOPELESS = (ExitCode.BAD_DATA, ExitCode.USAGE)  # this message, not the others
_ANY_DOMAIN = "localhost.localdomain"  # the agent knows the one that is added
_LISTS = ("From", "Sender", "To", "Cc", "Reply-To")


class EmailBackend(BaseEmailBackend):  # type: ignore[misc] # Django is not typed
    """A connection to the agent of this host. May be shared by threads, which then take turns.

    Raises ``ImproperlyConfigured`` (``InvalidMailer`` where Django has it) for options nobody knows.
    """

    def __init__(self, fail_silently: bool = False, **options: Any) -> None:
        alias = options.pop("alias", None)
        ignored = options.pop("_ignore_unknown_kwargs", None) or ()
        options = {name: value for name, value in options.items() if name not in _PASSED_BY_DJANGO}
        if alias is None:
            options = {**getattr(settings, "DELIVERYAGENT", {}), **options}
        unknown = options.keys() - _OPTIONS - _FOR_EVERY_MESSAGE - set(ignored)
        _start(super().__init__, alias, {name: options[name] for name in unknown})
        self.fail_silently = fail_silently or bool(options.get("fail_silently"))
        self._config: str | os.PathLike[str] | None = options.get("config")
        self._socket: str | os.PathLike[str] | None = options.get("socket")
        self._overrides: Sequence[str] = options.get("overrides", ())
        self._patience: float = options.get("patience", PATIENCE)
        self._wishes: dict[str, Any] = {
            name: options[name] for name in _FOR_EVERY_MESSAGE if name in options
        }
        self._client: Client | None = None
        self._turn = threading.RLock()

    def open(self) -> bool:
        """Keep one connection until ``close``; whether there was none before.

        Whether the agent is there shows with the first message.
        """
        if self._client is not None:
            return False
        self._client = Client(
            self._config, self._socket, overrides=self._overrides, patience=self._patience
        )
        return True

    def close(self) -> None:
        """End the connection."""
        with self._turn:
            client, self._client = self._client, None
            if client is not None:
                client.close()

    def send_messages(self, email_messages: Iterable[EmailMessage]) -> int:
        """Hand over messages; returns how many were taken. Those without recipients are left out.

        Raises ``smtplib.SMTPDataError`` when one is refused: those before it were taken, and some behind it may
        have been. With ``fail_silently`` the others are still handed over.
        """
        with self._turn:
            opened = self.open()
            assert self._client is not None
            try:
                return self._sent(self._client, list(email_messages))
            finally:
                if opened:
                    self.close()

    def _sent(self, client: Client, messages: list[EmailMessage]) -> int:
        messages = [message for message in messages if message.recipients()]
        taken = 0
        while messages:
            unfit: list[ValueError] = []
            try:
                taken += len(client.enqueue_many(self._items(messages, unfit)))
            except EnqueueError as error:
                if not self.fail_silently:
                    raise refusal(error) from error
                taken += sum(one is not None for one in error.accepted)
                if error.code not in _HOPELESS or not error.accepted:
                    break  # nor will the others be taken
                messages = messages[len(error.accepted) :]
                continue
            if unfit:
                raise unfit[0]
            break
        return taken

    def _items(self, messages: list[EmailMessage], unfit: list[ValueError]) -> Iterator[Item]:
        """What the client sends, up to a message that is none."""
        for message in messages:
            try:
                item = self._item(message)
            except ValueError as error:
                unfit.append(error)
                return
            yield item

    def _item(self, message: EmailMessage) -> Item:
        sender, *recipients = map(_bare, [message.from_email, *message.recipients()])
        written = _written(message)
        wishes: dict[str, Any] = {**self._wishes, **take_off(written)}
        wishes.update(_of_message(getattr(message, "delivery", None)))
        if self._wishes.get("tags"):
            wishes["tags"] = {**self._wishes["tags"], **wishes["tags"]}
        if key := wishes.get("key"):
            _repeatable(written, message, key)
        return sender, recipients, _octets(written), Wishes(**wishes)  # type: ignore[typeddict-item]


def _start(parent: Any, alias: str | None, unknown: Mapping[str, Any]) -> None:
    """Have Django's part of the backend begin, and report what it does not know."""
    knows_mailers = "alias" in signature(parent).parameters
    if alias is not None and knows_mailers:
        parent(alias=alias, **unknown)
    elif unknown:
        names = ", ".join(map(repr, sorted(unknown)))
        raise ImproperlyConfigured(f"{__name__}.EmailBackend: unknown options {names}.")
    else:
        parent()


def _of_message(delivery: Mapping[str, Any] | None) -> Mapping[str, Any]:
    if delivery is None:
        return {}
    if unknown := delivery.keys() - _OF_A_MESSAGE:
        names = ", ".join(map(repr, sorted(unknown)))
        raise ValueError(f"message.delivery: there is no {names}")
    return delivery


def _bare(mailbox: Any) -> str:
    """The address in a mailbox as Django has it; raises ``ValueError``."""
    text = str(mailbox)
    if "\n" in text or "\r" in text:
        raise ValueError(f"Invalid address {text!r}: it contains a newline")
    try:
        address = bare_address(text)
        parse_sender(address, default_domain=_ANY_DOMAIN)
    except ValueError as error:
        raise ValueError(f"Invalid address {text!r}: {error}") from None
    return address


def _written(message: EmailMessage) -> "Message[Any, Any]":
    """The message with its header and parts; header fields in UTF-8 where an address needs that."""
    if "policy" in signature(message.message).parameters:  # Django 6
        utf8 = not all(map(_local_part_is_ascii, [message.from_email, *message.recipients()]))
        kind = policy.SMTPUTF8 if utf8 else policy.SMTP
        written: Message[Any, Any] = message.message(policy=kind)
    else:
        written = message.message()
        _keep_addresses(written, message)
    del written["Bcc"]
    return written


def _keep_addresses(written: "Message[Any, Any]", message: EmailMessage) -> None:
    """Django 5 writes a local part beyond ASCII as an encoded word, which is another address (RFC 2047 5)."""
    given = {
        "from": str(message.from_email),
        "to": ",\n ".join(map(str, message.to)),
        "cc": ",\n ".join(map(str, message.cc)),
        "reply-to": ",\n ".join(map(str, message.reply_to)),
        **{name.lower(): str(value) for name, value in message.extra_headers.items()},
    }
    for name in _LISTS:
        text = given.get(name.lower(), "")
        if text.isascii() or all(_local_part_is_ascii(one) for one in parse_address_list(text)):
            continue
        del written[name]
        octets = text.encode().decode("ascii", "surrogateescape")  # written as they are
        Message.__setitem__(written, name, octets)


def _repeatable(written: "Message[Any, Any]", message: EmailMessage, key: str) -> None:
    """The same octets whenever the same message is sent: Date and Message-ID are left to the agent."""
    given = {name.lower() for name in message.extra_headers}
    for name in ("Date", "Message-ID"):
        if name.lower() not in given:
            del written[name]
    settle_boundaries(written, key)


def _local_part_is_ascii(mailbox: Any) -> bool:
    return _bare(mailbox).rpartition("@")[0].isascii()


def _octets(written: "Message[Any, Any]") -> bytes:
    if isinstance(written, StandardMessage):
        return written.as_bytes()
    octets: bytes = written.as_bytes(linesep="\r\n")  # type: ignore[call-arg] # Django's own kind
    return octets
