"""What the header of an application's own message may ask of the agent.

==========================  =========================================================
``Idempotency-Key``         sent again with the same key, it is the same message
``X-Deliveryagent-Tags``    ``app=shop, order=4711``
``X-Deliveryagent-At``      not before this moment: ``2030-01-31T12:00:00+01:00``
``X-Deliveryagent-Hold``    ``yes``: keep it until it is released
``X-Deliveryagent-DSN``     ``never``, or some of ``success, failure, delay``
==========================  =========================================================

For messages that the program wrote itself: a key chosen by a stranger could be another message's. Guarantees:
the fields are taken off; what cannot be understood raises ``ValueError``. Never looks into the body.
"""

from datetime import datetime
from email.header import decode_header, make_header
from email.message import Message
from typing import Any

from deliveryagent.intake.wishes import Wishes

__all__ = ["take_off"]


def take_off(message: "Message[Any, Any]") -> Wishes:
    """The wishes in the header of a message, which is without these fields afterwards.

    >>> message = Message()
    >>> message["X-Deliveryagent-Tags"] = "app=shop, order=4711"
    >>> take_off(message), message.keys()
    ({'tags': {'app': 'shop', 'order': '4711'}}, [])
    """
    wishes: Wishes = {}
    if key := _taken(message, "Idempotency-Key"):
        wishes["key"] = key
    if tags := _taken(message, "X-Deliveryagent-Tags"):
        wishes["tags"] = _tags(tags)
    if moment := _taken(message, "X-Deliveryagent-At"):
        wishes["at"] = _moment(moment)
    if hold := _taken(message, "X-Deliveryagent-Hold"):
        wishes["hold"] = _yes(hold)
    if dsn := _taken(message, "X-Deliveryagent-DSN"):
        wishes["dsn"] = [word.strip().lower() for word in dsn.split(",")]
    return wishes


def _taken(message: "Message[Any, Any]", name: str) -> str:
    texts = message.get_all(name, [])
    if not texts:
        return ""
    if len(texts) > 1:
        raise ValueError(f"{name} is there {len(texts)} times")
    del message[name]
    text = str(make_header(decode_header(texts[0]))) if "=?" in str(texts[0]) else str(texts[0])
    return " ".join(text.split())


def _tags(text: str) -> dict[str, str]:
    tags = {}
    for part in text.split(","):
        name, equals, value = part.partition("=")
        if not (name.strip() and equals):
            raise ValueError(f'X-Deliveryagent-Tags: "{part.strip()}" is not name=value')
        tags[name.strip()] = value.strip()
    return tags


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise ValueError(
            f'X-Deliveryagent-At: "{text}" is not a time such as 2030-01-31T12:00:00+01:00'
        )
    return moment


def _yes(text: str) -> bool:
    word = text.lower()
    if word not in {"yes", "true", "1", "no", "false", "0"}:
        raise ValueError(f'X-Deliveryagent-Hold: "{text}" is neither yes nor no')
    return word in {"yes", "true", "1"}
