"""The tables of the queue.

A message and its content never change once they are committed; recipients carry the state. All times are
seconds since the epoch in UTC as double precision numbers, sizes are octets.

Invariants the database itself keeps (``dagent db check`` verifies the rest):

* a recipient is live exactly while ``finished`` is null, and then it is queued, deferred or held;
* a queued or deferred recipient has a due time, any other has none: nothing can wait for ever unseen;
* a recipient belongs to a message.

How waiting work is found: ``destination.ready`` is never later than the earliest due time of the
destination's recipients, unless an agent owns the row (``owner``) or gave it back with a reason to wait (a
closed site, a pause). The owner looks after all of its recipients until it gives the row back. So a claim
writes one row per destination, not one per recipient, and what one dead destination has waiting costs the
others nothing.

Rows that are written or read for every message are kept narrow: a recipient's last answer is its latest
``attempt``, columns with a usual value have it as the server's default, and the indexes that follow live
recipients, those on hold and owed reports are partial.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    false,
    text,
    true,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# A queue id. SQLite gives its fast integer key only to a column declared INTEGER.
_Id = BigInteger().with_variant(Integer(), "sqlite")

_EMPTY = text("''")
_ZERO = text("0")

message = Table(
    "message",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=False),
    Column("sender", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("dotted", Boolean, nullable=False),
    Column("eightbit", Boolean, nullable=False),
    Column("utf8", Boolean, nullable=False),
    Column("long_lines", Boolean, nullable=False),
    Column("ret", String(4), nullable=False, server_default=_EMPTY),
    Column("envid", Text, nullable=False, server_default=_EMPTY),
    Column("recipient_count", Integer, nullable=False),
    # Who handed it over: "uid=1000", "agent" for notices, later a client's address or user name.
    Column("origin", Text, nullable=False),
    Column("tags", Text, nullable=False, server_default=text("'{}'")),  # JSON object
    # How often a process died while it worked on this message (the poison rule).
    Column("crashes", SmallInteger, nullable=False, server_default=_ZERO),
    # The earliest attempt that was asked for; its lifetime counts from there. 0: from its arrival.
    Column("not_before", Double, nullable=False, server_default=_ZERO),
    # What it asks of its way: a priority from -9 to 9 (RFC 6710); until when it is to be delivered, 0 for no
    # time, and what becomes of it then ("R", "N", with a "T" behind it for a trace; RFC 2852); a next hop that
    # promises protected transport (RFC 8689).
    Column("priority", SmallInteger, nullable=False, server_default=_ZERO),
    Column("deliver_by", Double, nullable=False, server_default=_ZERO),
    Column("by_mode", String(2), nullable=False, server_default=_EMPTY),
    Column("require_tls", Boolean, nullable=False, server_default=false()),
    CheckConstraint("recipient_count > 0", name="has_recipients"),
)

deadline = Table(
    "deadline",
    metadata,
    Column("at", Double, primary_key=True, autoincrement=False),
    Column("message_id", _Id, primary_key=True, autoincrement=False),
    sqlite_with_rowid=False,
)
"""Messages with a ``deliver_by``, until that time is over and what it asks for is done. So whoever looks for
those that are late passes neither the queue nor its history."""

content = Table(
    "content",
    metadata,
    Column("message_id", _Id, primary_key=True, autoincrement=False),
    Column("part", Integer, primary_key=True, autoincrement=False),
    Column("data", LargeBinary, nullable=False),
)
"""The octets in wire form, in parts of at most ``CONTENT_PART`` octets. Parts of a message that is still
arriving stand here before their message row does; ``arriving`` names them until it is there."""

CONTENT_PART = 256 * 1024

arriving = Table(
    "arriving",
    metadata,
    Column("message_id", _Id, primary_key=True, autoincrement=False),
    Column("started", Double, nullable=False),
)

submission_key = Table(
    "submission_key",
    metadata,
    Column("key", Text, primary_key=True),
    Column("message_id", _Id, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("created", Double, nullable=False),
    Index(None, "created"),
)

# Compared one by one, the usual states first: a list costs SQLite more than writing the row.
_STATE = """CASE status
WHEN 'queued' THEN due IS NOT NULL AND finished IS NULL
WHEN 'delivered' THEN due IS NULL AND finished IS NOT NULL
WHEN 'deferred' THEN due IS NOT NULL AND finished IS NULL
WHEN 'held' THEN due IS NULL AND finished IS NULL
WHEN 'bounced' THEN due IS NULL AND finished IS NOT NULL
WHEN 'expired' THEN due IS NULL AND finished IS NOT NULL
WHEN 'deleted' THEN due IS NULL AND finished IS NOT NULL
ELSE false END"""

recipient = Table(
    "recipient",
    metadata,
    Column("message_id", _Id, ForeignKey("message.id"), primary_key=True, autoincrement=False),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("address", Text, nullable=False),
    Column("destination", Text, nullable=False),
    # Recipients beyond the first batch of a big message; claimed in turn with the others, never before them.
    Column("bulk", Boolean, nullable=False),
    Column("status", String(9), nullable=False),
    Column("due", Double),
    Column("attempts", Integer, nullable=False, server_default=_ZERO),
    Column("updated", Double, nullable=False),
    Column("finished", Double),
    Column("notify", SmallInteger, nullable=False, server_default=_ZERO),
    Column("orcpt", Text, nullable=False, server_default=_EMPTY),
    # Why it came to this state without an attempt (hold, an operator's bounce, expiry before the first
    # attempt): enhanced status code and text. Empty otherwise: the last answer is the latest attempt's.
    Column("enhanced", String(11), nullable=False, server_default=_EMPTY),
    Column("note", Text, nullable=False, server_default=_EMPTY),
    # A report that is due to the sender but not written yet: '', 'failure', 'delay' or 'success'.
    Column("owed", String(7), nullable=False, server_default=_EMPTY),
    # The id of the message that reported the final outcome, and of the delay warning.
    Column("reported", _Id),
    Column("warned", _Id),
    CheckConstraint(_STATE, name="state"),
    CheckConstraint("owed = '' OR owed IN ('failure', 'delay', 'success')", name="owed"),
    sqlite_with_rowid=False,
)

# The waiting line of each destination; small and bulk recipients are two lines.
recipient_due = Index(
    "ix_recipient_due",
    recipient.c.destination,
    recipient.c.bulk,
    recipient.c.due,
    recipient.c.message_id,
    recipient.c.number,
    sqlite_where=recipient.c.due.is_not(None),
    postgresql_where=recipient.c.due.is_not(None),
)
# Everything that lives, in order of arrival: lists, expiry, warnings. The last column is constant; it makes
# the question "does anything of this message live?" answerable from the index alone.
recipient_live = Index(
    "ix_recipient_live",
    recipient.c.message_id,
    recipient.c.number,
    recipient.c.finished,
    sqlite_where=recipient.c.finished.is_(None),
    postgresql_where=recipient.c.finished.is_(None),
)
# What is on hold, for those who look for it among everything that lives.
recipient_held = Index(
    "ix_recipient_held",
    recipient.c.message_id,
    recipient.c.number,
    recipient.c.destination,
    sqlite_where=recipient.c.status == text("'held'"),
    postgresql_where=recipient.c.status == text("'held'"),
)
# Debts to senders.
recipient_owed = Index(
    "ix_recipient_owed",
    recipient.c.message_id,
    recipient.c.number,
    recipient.c.owed,
    sqlite_where=recipient.c.owed != text("''"),
    postgresql_where=recipient.c.owed != text("''"),
)

attempt = Table(
    "attempt",
    metadata,
    Column("message_id", _Id, primary_key=True, autoincrement=False),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    Column("started", Double, nullable=False),
    Column("decision", String(9), nullable=False),
    # The deciding answer; code 0 when trouble decided.
    Column("stage", Text, nullable=False),
    Column("code", SmallInteger, nullable=False),
    Column("enhanced", String(11), nullable=False),
    Column("text", Text, nullable=False),
    Column("host", Text, nullable=False),
    Column("ip", Text, nullable=False),
    Column("port", Integer, nullable=False),
    Column("tls", Text, nullable=False),
    # Seconds: waiting beyond the due time, connecting, EHLO and TLS, transfer.
    Column("queue_time", Double, nullable=False),
    Column("connect_time", Double, nullable=False),
    Column("setup_time", Double, nullable=False),
    Column("transfer_time", Double, nullable=False),
    # Hosts tried before the one that decided, as a JSON list; empty when there was none.
    Column("trail", Text, nullable=False),
    sqlite_with_rowid=False,
)
"""History, written in the transaction that moves its recipient on. No foreign key: checking one for every
message costs more than it can find; ``dagent db check`` looks for orphans."""

destination = Table(
    "destination",
    metadata,
    Column("name", Text, primary_key=True),
    # Not later than the earliest due time of its recipients; null when none waits or an agent owns it. On an
    # owned row it says that new work came.
    Column("ready", Double),
    # The agent that looks after the waiting recipients, null when nobody does.
    Column("owner", _Id, ForeignKey("agent.id")),
    # An operator's pause: until when (a very large number: until resumed), why and by whom.
    Column("paused_until", Double),
    Column("pause_note", Text, nullable=False, server_default=_EMPTY),
    Column("paused_by", Text, nullable=False, server_default=_EMPTY),
    # The site it was last seen to belong to; empty when never resolved.
    Column("site", Text, nullable=False, server_default=_EMPTY),
    Index(
        "ix_destination_ready",
        "ready",
        sqlite_where=text("ready IS NOT NULL"),
        postgresql_where=text("ready IS NOT NULL"),
    ),
    sqlite_with_rowid=False,
)

site = Table(
    "site",
    metadata,
    Column("name", Text, primary_key=True),
    # The concurrency window as last recorded, and until when the site is closed after failures.
    Column("concurrency", Double, nullable=False),
    Column("closed_until", Double),
    Column("reason", Text, nullable=False, server_default=_EMPTY),
    Column("updated", Double, nullable=False),
    sqlite_with_rowid=False,
)

agent = Table(
    "agent",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=False),
    Column("host", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("started", Double, nullable=False),
    # The lease: what this agent owns returns to everybody when it is not renewed before this time, by the
    # clock of the database. A row that is gone is an agent that was taken for dead.
    Column("lease_until", Double, nullable=False),
    # What it said of itself when it last renewed its lease, for people and for the other agents: recipients
    # that wait in its memory, requests in flight.
    Column("version", Text, nullable=False, server_default=_EMPTY),
    Column("draining", Boolean, nullable=False, server_default=false()),
    Column("destinations", Integer, nullable=False, server_default=_ZERO),
    Column("waiting", Integer, nullable=False, server_default=_ZERO),
    Column("in_flight", Integer, nullable=False, server_default=_ZERO),
    # Whether its rows in ``site_share`` tell everything it may have in flight. An agent that was alone has
    # written none: nobody else starts a delivery before it has.
    Column("sharing", Boolean, nullable=False, server_default=true()),
)

site_share = Table(
    "site_share",
    metadata,
    Column("site", Text, primary_key=True),
    Column("agent", _Id, primary_key=True, autoincrement=False),
    # How many requests this agent may have in flight to the site, and how many it would like to have.
    Column("slots", Integer, nullable=False),
    Column("wanted", Integer, nullable=False),
    Column("updated", Double, nullable=False),
    sqlite_with_rowid=False,
)
"""The ledger of slots, where several agents work: the slots of a site never add up to more than its limit."""

recall = Table(
    "recall",
    metadata,
    Column("name", Text, primary_key=True),
    Column("asked", Double, nullable=False),
    sqlite_with_rowid=False,
)
"""Destinations whose owner is asked to let go of what it has in memory, because somebody is about to change
their recipients. Names stay for some seconds only."""

meta = Table(
    "meta",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)
"""Facts about the queue itself. ``identity``: 16 octets drawn once, so that files kept beside the queue (the
in-flight journals) can tell which queue they belong to. ``probe``: written to find out whether the store can
be written again. ``oldest_program``: the oldest schema whose programs may go on working with this one."""
