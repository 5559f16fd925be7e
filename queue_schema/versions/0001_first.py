"""The first schema: messages, recipients, their history, destinations and sites, agents.

Revision ID: 0001
"""

import secrets

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_EMPTY = sa.text("''")
_ZERO = sa.text("0")
_STATE = """CASE status
WHEN 'queued' THEN due IS NOT NULL AND finished IS NULL
WHEN 'delivered' THEN due IS NULL AND finished IS NOT NULL
WHEN 'deferred' THEN due IS NOT NULL AND finished IS NULL
WHEN 'held' THEN due IS NULL AND finished IS NULL
WHEN 'bounced' THEN due IS NULL AND finished IS NOT NULL
WHEN 'expired' THEN due IS NULL AND finished IS NOT NULL
WHEN 'deleted' THEN due IS NULL AND finished IS NOT NULL
ELSE false END"""


def upgrade() -> None:
    """Create everything in an empty database, and give the queue its identity."""
    _messages()
    _recipients()
    _history()
    _destinations()
    _facts()


def _messages() -> None:
    op.create_table(
        "message",
        sa.Column("id", _ID, autoincrement=False, nullable=False),
        sa.Column("sender", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("dotted", sa.Boolean(), nullable=False),
        sa.Column("eightbit", sa.Boolean(), nullable=False),
        sa.Column("utf8", sa.Boolean(), nullable=False),
        sa.Column("long_lines", sa.Boolean(), nullable=False),
        sa.Column("ret", sa.String(length=4), server_default=_EMPTY, nullable=False),
        sa.Column("envid", sa.Text(), server_default=_EMPTY, nullable=False),
        sa.Column("recipient_count", sa.Integer(), nullable=False),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("tags", sa.Text(), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("crashes", sa.SmallInteger(), server_default=_ZERO, nullable=False),
        sa.Column("not_before", sa.Double(), server_default=_ZERO, nullable=False),
        sa.CheckConstraint("recipient_count > 0", name=op.f("ck_message_has_recipients")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_message")),
    )
    op.create_table(
        "content",
        sa.Column("message_id", _ID, autoincrement=False, nullable=False),
        sa.Column("part", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("message_id", "part", name=op.f("pk_content")),
    )
    op.create_table(
        "arriving",
        sa.Column("message_id", _ID, autoincrement=False, nullable=False),
        sa.Column("started", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("message_id", name=op.f("pk_arriving")),
    )
    op.create_table(
        "submission_key",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("message_id", _ID, nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_submission_key")),
    )
    op.create_index("ix_submission_key_created", "submission_key", ["created"])


def _recipients() -> None:
    op.create_table(
        "recipient",
        sa.Column("message_id", _ID, autoincrement=False, nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("destination", sa.Text(), nullable=False),
        sa.Column("bulk", sa.Boolean(), nullable=False),
        sa.Column("status", sa.String(length=9), nullable=False),
        sa.Column("due", sa.Double(), nullable=True),
        sa.Column("attempts", sa.Integer(), server_default=_ZERO, nullable=False),
        sa.Column("updated", sa.Double(), nullable=False),
        sa.Column("finished", sa.Double(), nullable=True),
        sa.Column("notify", sa.SmallInteger(), server_default=_ZERO, nullable=False),
        sa.Column("orcpt", sa.Text(), server_default=_EMPTY, nullable=False),
        sa.Column("enhanced", sa.String(length=11), server_default=_EMPTY, nullable=False),
        sa.Column("note", sa.Text(), server_default=_EMPTY, nullable=False),
        sa.Column("owed", sa.String(length=7), server_default=_EMPTY, nullable=False),
        sa.Column("reported", _ID, nullable=True),
        sa.Column("warned", _ID, nullable=True),
        sa.CheckConstraint(_STATE, name=op.f("ck_recipient_state")),
        sa.CheckConstraint(
            "owed = '' OR owed IN ('failure', 'delay', 'success')", name=op.f("ck_recipient_owed")
        ),
        sa.ForeignKeyConstraint(["message_id"], ["message.id"], name=op.f("fk_recipient_message")),
        sa.PrimaryKeyConstraint("message_id", "number", name=op.f("pk_recipient")),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "ix_recipient_due",
        "recipient",
        ["destination", "bulk", "due", "message_id", "number"],
        sqlite_where=sa.text("due IS NOT NULL"),
        postgresql_where=sa.text("due IS NOT NULL"),
    )
    op.create_index(
        "ix_recipient_live",
        "recipient",
        ["message_id", "number", "finished"],
        sqlite_where=sa.text("finished IS NULL"),
        postgresql_where=sa.text("finished IS NULL"),
    )
    op.create_index(
        "ix_recipient_owed",
        "recipient",
        ["message_id", "number", "owed"],
        sqlite_where=sa.text("owed != ''"),
        postgresql_where=sa.text("owed != ''"),
    )


def _history() -> None:
    op.create_table(
        "attempt",
        sa.Column("message_id", _ID, autoincrement=False, nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("attempt", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("started", sa.Double(), nullable=False),
        sa.Column("decision", sa.String(length=9), nullable=False),
        sa.Column("stage", sa.Text(), nullable=False),
        sa.Column("code", sa.SmallInteger(), nullable=False),
        sa.Column("enhanced", sa.String(length=11), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("ip", sa.Text(), nullable=False),
        sa.Column("port", sa.Integer(), nullable=False),
        sa.Column("tls", sa.Text(), nullable=False),
        sa.Column("queue_time", sa.Double(), nullable=False),
        sa.Column("connect_time", sa.Double(), nullable=False),
        sa.Column("setup_time", sa.Double(), nullable=False),
        sa.Column("transfer_time", sa.Double(), nullable=False),
        sa.Column("trail", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("message_id", "number", "attempt", name=op.f("pk_attempt")),
        sqlite_with_rowid=False,
    )


def _destinations() -> None:
    op.create_table(
        "agent",
        sa.Column("id", _ID, autoincrement=False, nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("started", sa.Double(), nullable=False),
        sa.Column("lease_until", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_agent")),
    )
    op.create_table(
        "destination",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("ready", sa.Double(), nullable=True),
        sa.Column("owner", _ID, nullable=True),
        sa.Column("paused_until", sa.Double(), nullable=True),
        sa.Column("pause_note", sa.Text(), server_default=_EMPTY, nullable=False),
        sa.Column("paused_by", sa.Text(), server_default=_EMPTY, nullable=False),
        sa.Column("site", sa.Text(), server_default=_EMPTY, nullable=False),
        sa.ForeignKeyConstraint(["owner"], ["agent.id"], name=op.f("fk_destination_agent")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_destination")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "site",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("concurrency", sa.Double(), nullable=False),
        sa.Column("closed_until", sa.Double(), nullable=True),
        sa.Column("reason", sa.Text(), server_default=_EMPTY, nullable=False),
        sa.Column("updated", sa.Double(), nullable=False),
        sa.Column("paused_until", sa.Double(), nullable=True),
        sa.Column("pause_note", sa.Text(), server_default=_EMPTY, nullable=False),
        sa.Column("paused_by", sa.Text(), server_default=_EMPTY, nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_site")),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "ix_destination_ready",
        "destination",
        ["ready"],
        sqlite_where=sa.text("ready IS NOT NULL"),
        postgresql_where=sa.text("ready IS NOT NULL"),
    )


def _facts() -> None:
    meta = op.create_table(
        "meta",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_meta")),
        sqlite_with_rowid=False,
    )
    op.bulk_insert(meta, [{"name": "identity", "value": secrets.token_bytes(16)}])
