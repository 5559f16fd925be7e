"""Many agents on one queue: what agents tell of themselves, shares of a site's limit, recalls.

Revision ID: 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_EMPTY = sa.text("''")
_ZERO = sa.text("0")


def upgrade() -> None:
    """Add what agents share; drop the pauses of sites, which nothing ever obeyed."""
    _agents()
    op.create_table(
        "site_share",
        sa.Column("site", sa.Text(), nullable=False),
        sa.Column("agent", _ID, autoincrement=False, nullable=False),
        sa.Column("slots", sa.Integer(), nullable=False),
        sa.Column("wanted", sa.Integer(), nullable=False),
        sa.Column("updated", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("site", "agent", name=op.f("pk_site_share")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "recall",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("asked", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_recall")),
        sqlite_with_rowid=False,
    )
    for column in ("paused_until", "pause_note", "paused_by"):
        op.execute(f"ALTER TABLE site DROP COLUMN {column}")
    meta = sa.table("meta", sa.column("name", sa.Text()), sa.column("value", sa.LargeBinary()))
    op.bulk_insert(meta, [{"name": "oldest_program", "value": b"0002"}])


def _told() -> list[sa.Column[object]]:
    return [
        sa.Column("version", sa.Text(), server_default=_EMPTY, nullable=False),
        sa.Column("draining", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("destinations", sa.Integer(), server_default=_ZERO, nullable=False),
        sa.Column("waiting", sa.Integer(), server_default=_ZERO, nullable=False),
        sa.Column("in_flight", sa.Integer(), server_default=_ZERO, nullable=False),
        sa.Column("sharing", sa.Boolean(), server_default=sa.true(), nullable=False),
    ]


def _agents() -> None:
    if op.get_bind().dialect.name != "sqlite":
        for column in _told():
            op.add_column("agent", column)
        return
    # Whoever changes an SQLite queue is alone: what an agent left behind is everybody's.
    op.execute("UPDATE destination SET owner = NULL, ready = 0 WHERE owner IS NOT NULL")
    op.drop_table("agent")
    op.create_table(
        "agent",
        sa.Column("id", _ID, autoincrement=False, nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("started", sa.Double(), nullable=False),
        sa.Column("lease_until", sa.Double(), nullable=False),
        *_told(),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_agent")),
    )
