"""What the SQL function stores is, octet for octet, what every other door stores, or both refuse."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import event, given, note
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from deliveryagent.intake.admission import Peer
from deliveryagent.intake.submit import Reception, Terms
from deliveryagent.mail.envelope import QueueId
from deliveryagent.protocol.arrival import LimitSettings
from deliveryagent.protocol.local import ServiceError
from deliveryagent.queue import submissions
from deliveryagent.queue.engine import open_writer
from deliveryagent.setting import ByteSize
from tests.doubles.sql_door import HOSTNAME, enqueue, left_behind, note_terms
from tests.doubles.stores import PostgresServer, Store

TERMS = Terms(
    hostname=HOSTNAME,
    limits=LimitSettings(
        message_size_limit=ByteSize(6000),
        recipient_limit=4,
        header_size_limit=ByteSize(2500),
        hopcount_limit=3,
    ),
    bulk_after=2,
)


class DatabaseUser(Peer):
    """Whoever is connected to the database, as the queue remembers them."""

    @property
    def origin(self) -> str:
        return "sql=postgres"


CALLER = DatabaseUser(uid=0, gid=0, pid=0, groups=frozenset(), user="")


@pytest.fixture(scope="module")
def queue(postgres_server: PostgresServer) -> Iterator[Store]:
    url = postgres_server.fresh()
    store = Store(url, open_writer(url))
    note_terms(store, TERMS)
    yield store
    store.engine.dispose()


# -- what is handed over ---

ADDRESS_PIECES = st.sampled_from(
    [
        *(
            "a",
            "Kim.Lee",
            "x" * 40,
            "9",
            "_",
            "-",
            "+tag",
            "=",
            "ü",
            "中",
            "\u200c",
            "\u00a0",
            "\u0301",
        ),
        *("@", "@", "@", ".", "..", '"', '\\"', "\\", " ", "<", ">", "(", ",", ":", ";", "[", "]"),
        *("example.org", "EXAMPLE.net", "sub.example.org", "xn--bcher-kva.example", "localhost"),
        *("10.0.0.1", "[192.0.2.1]", "[192.0.2.01]", "[256.0.0.1]", "[IPv6:2001:db8::1]"),
        *("[ipv6:2001:DB8:0:0:1:0:0:1]", "[IPv6:::]", "[IPv6:1:2:3:4:5:6:7::]", "[IPv6:fe80::1%1]"),
        *(
            "[IPv6:1::2::3]",
            "[IPv6:64:ff9b::192.0.2.33]",
            "[IPv6:",
            "y" * 63,
            "y" * 64,
            "z.zz." * 30,
        ),
        *(
            "@relay.example:",
            "@a.example,@[192.0.2.1]:",
            "\x01",
            "\x7f",
            "\t",
            "\ufeff",
            "é@example",
        ),
    ]
)
GOOD = st.sampled_from(
    [
        *("kim@example.net", "Kim@Example.NET", "lee@example.net", "ü@example.com", "root"),
        *("<ann@example.org>", '"a b"@example.org', '"joe"@example.org', "x@[192.0.2.7]"),
        "x@[IPV6:2001:DB8::7]",
    ]
)
HEXTETS = st.lists(st.sampled_from(["0", "0000", "1", "ffff", "0db8", ""]), min_size=2, max_size=9)
ADDRESSES = st.one_of(
    GOOD,
    GOOD,
    st.lists(ADDRESS_PIECES, min_size=1, max_size=5).map("".join),
    st.tuples(ADDRESS_PIECES, ADDRESS_PIECES).map("@".join),
    HEXTETS.map(lambda parts: f"x@[IPv6:{':'.join(parts)}]"),
    st.text(st.characters(min_codepoint=1, codec="utf-8"), max_size=20).map(
        "{}@example.org".format
    ),
)
CONTENT_PIECES = st.sampled_from(
    [
        *(b"Subject: x\r\n", b"From: a@b.example\n", b"FROM : a@b.example\r\n", b"Date: now\n"),
        *(b"Message-Id: <1@x>\r\n", b"Bcc: secret@example.org\r\n", b"BCC:\n folded\n\tagain\n"),
        *(b"Return-Path: <x>\r\n", b"Resent-Bcc: x\n", b"Resent-Date: x\r\n", b"resent-from: y\n"),
        *(
            b"Received: by x\n",
            b"Received: by x\r\n\tfor y\r\n",
            b"X-Bcc: no\n",
            b"Subject: \xc3\xbc\n",
        ),
        *(
            b"Subject: \xff\xfe\r\n",
            b"Subject: \xed\xa0\x80\xc3\xbc\n",
            b" more\r\n",
            b"\t\n",
            b" \n",
        ),
        *(
            b"\r\n",
            b"\n",
            b"\n\n",
            b"\r",
            b"\r\r\n",
            b".",
            b"\r\n.",
            b"..dots\n",
            b"no field\n",
            b":\n",
        ),
        *(
            b"From kim@example.org Fri Nov 21\n",
            b">From x\r\n",
            b"From : y\n",
            b"text",
            b"text\r\n",
        ),
        *(
            b"x" * 998 + b"\n",
            b"x" * 999 + b"\r\n",
            b"\xc3\xbc" * 499 + b"\n",
            b"Z" * 997 + b": v\n",
        ),
        *(b"Z" * 998 + b": v\n", b"Z" * 999 + b": v\n", b"N" + b" " * 20 + b": v\n"),
        *(
            b"N" + b"\t" * 21 + b": v\n",
            b"h: " + b"v" * 900 + b"\r\n",
            b"\xe2\x82\xac",
            b"\x01\x7f",
        ),
        *(b"\0", b"a line of text, as most of them are\r\n" * 20),
    ]
)
CONTENTS = st.one_of(
    st.lists(CONTENT_PIECES, max_size=9).map(b"".join),
    st.tuples(st.lists(CONTENT_PIECES, max_size=5), st.binary(max_size=60)).map(
        lambda both: b"".join(both[0]) + both[1]
    ),
    st.integers(5600, 6100).map(lambda size: b"Subject: x\n\n" + b"y" * (size - 12)),
    st.integers(2400, 2600).map(lambda size: b"Subject: " + b"y\n " * (size // 3) + b"\n\nbody\n"),
)
ASSIGNED = st.characters(min_codepoint=1, codec="utf-8", exclude_categories=["Cn", "Cs"])
TEXTS = st.one_of(
    st.just(""), st.text(ASSIGNED, max_size=8), st.sampled_from(["k", "x" * 300, "a\tb"])
)
WISHES = st.fixed_dictionaries(
    {},
    optional={
        "key": TEXTS,
        "dsn": st.sampled_from(
            ["", " ", "never", "NEVER", "success, Delay", "failure", "never,delay"]
        )
        | TEXTS,
        "ret": st.sampled_from(["", "full", "Hdrs", "half"]),
        "envid": TEXTS,
        "hold": st.booleans(),
        "tags": st.dictionaries(TEXTS, TEXTS, max_size=3),
        "at": st.integers(-1000, 400 * 86400).map(lambda s: datetime.fromtimestamp(1.8e9 + s, UTC)),
    },
)


# -- the two doors ---


def by_sql(queue: Store, message: dict[str, Any]) -> tuple[Any, int, float]:
    wishes = dict(message["wishes"])
    if "tags" in wishes:
        wishes["tags"] = json.dumps(wishes["tags"])
    with queue.engine.connect() as connection:
        queue_id = enqueue(
            connection,
            message["recipients"],
            sender=message["sender"],
            content=message["content"],
            **wishes,
        )
        arrival = connection.scalar(
            text("SELECT max(updated) FROM recipient WHERE message_id = :id"), {"id": queue_id}
        )
        assert arrival is not None
        found = left_behind(connection, queue_id)
        connection.rollback()
    return found, queue_id, arrival


def by_python(queue: Store, message: dict[str, Any], queue_id: int, now: float) -> Any:
    wishes = dict(message["wishes"])
    if "at" in wishes:
        wishes["not_before"] = wishes.pop("at").timestamp()
    if "tags" in wishes:  # in the order in which the database keeps the names of an object
        names = sorted(wishes["tags"], key=lambda name: (len(name.encode()), name.encode()))
        wishes["tags"] = {name: wishes["tags"][name] for name in names}
    request = {"sender": message["sender"], "recipients": list(message["recipients"]), **wishes}
    reception = Reception(
        request,  # type: ignore[arg-type]
        peer=CALLER,
        terms=TERMS,
        queue_id=QueueId(queue_id),
        now=now,
    )
    stamp = reception._arrival._stamp
    reception._arrival._stamp = msgspec.structs.replace(stamp, origin="from database user postgres")
    reception.feed(message["content"])
    _, submission = reception.finish()
    with queue.engine.connect() as connection, connection.begin() as transaction:
        submissions.add(connection, [submission])
        found = left_behind(connection, queue_id)
        transaction.rollback()
    return found


def compare(queue: Store, message: dict[str, Any]) -> None:
    try:
        stored, queue_id, now = by_sql(queue, message)
        refusal = ""
    except DBAPIError as error:
        refusal = str(error.orig)
        if not getattr(error.orig, "sqlstate", "").startswith("ML"):
            raise
        if "not written in ASCII" in refusal:
            return  # A-labels need tables the database has not got
        stored, queue_id, now = None, 1 << 52, 1.8e9
    try:
        expected = by_python(queue, message, queue_id, now)
    except ServiceError as error:
        event(f"refused: {error.text[:12]}")
        expected = None
        note(f"Python: {error.text}")
    note(f"SQL: {refusal}")
    assert stored == expected


@given(st.lists(ADDRESSES, min_size=1, max_size=6), ADDRESSES | st.sampled_from(["", "<>"]))
def test_addresses_are_read_alike(queue: Store, recipients: list[str], sender: str) -> None:
    compare(
        queue,
        {"sender": sender, "recipients": recipients, "content": b"x: y\n\n", "wishes": {}},
    )


@given(CONTENTS, st.sampled_from(["", "ü@example.org", "shop@example.org"]))
def test_contents_are_brought_to_the_same_wire_form(
    queue: Store, content: bytes, sender: str
) -> None:
    compare(
        queue,
        {
            "sender": sender,
            "recipients": ["kim@example.net"],
            "content": content,
            "wishes": {},
        },
    )


@given(WISHES, st.lists(GOOD, min_size=1, max_size=5))
def test_wishes_are_understood_alike(
    queue: Store, wishes: dict[str, Any], recipients: list[str]
) -> None:
    message = {"sender": "shop@example.org", "content": b"x: y\n\n"}
    compare(queue, message | {"recipients": recipients, "wishes": wishes})


def test_large_contents_are_cut_into_the_same_parts(queue: Store) -> None:
    content = b"Subject: big\n\n" + b"".join(b"%078d\n" % n for n in range(10_000))
    wide = Terms(hostname=HOSTNAME, limits=LimitSettings(), bulk_after=2)
    note_terms(queue, wide)
    try:
        message = {"sender": "", "recipients": ["a@b.example"], "content": content, "wishes": {}}
        stored, queue_id, now = by_sql(queue, message)
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(globals(), "TERMS", wide)
            assert stored == by_python_staged(queue, message, queue_id, now)
        assert len(stored["content"]) == 4
    finally:
        note_terms(queue, TERMS)


def by_python_staged(queue: Store, message: dict[str, Any], queue_id: int, now: float) -> Any:
    reception = Reception(
        {"sender": message["sender"], "recipients": message["recipients"]},
        peer=CALLER,
        terms=TERMS,
        queue_id=QueueId(queue_id),
        now=now,
    )
    stamp = reception._arrival._stamp
    reception._arrival._stamp = msgspec.structs.replace(stamp, origin="from database user postgres")
    parts = reception.feed(message["content"])
    rest, submission = reception.finish()
    with queue.engine.connect() as connection, connection.begin() as transaction:
        submissions.stage(connection, [*parts, *rest])
        submissions.add(connection, [submission])
        found = left_behind(connection, queue_id)
        transaction.rollback()
    return found
