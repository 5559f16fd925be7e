"""What a message may ask of its way: a priority, a deadline, protected transport; and the list of deadlines.

Columns with constant defaults and an empty table only, so that a large queue has it in a moment.

Revision ID: 0006
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_ZERO = sa.text("0")


def upgrade() -> None:
    """Add the columns and the table."""
    for column in (
        sa.Column("priority", sa.SmallInteger(), server_default=_ZERO, nullable=False),
        sa.Column("deliver_by", sa.Double(), server_default=_ZERO, nullable=False),
        sa.Column("by_mode", sa.String(length=2), server_default=sa.text("''"), nullable=False),
        sa.Column("require_tls", sa.Boolean(), server_default=sa.false(), nullable=False),
    ):
        op.add_column("message", column)
    op.create_table(
        "deadline",
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("message_id", _ID, autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("at", "message_id", name=op.f("pk_deadline")),
        sqlite_with_rowid=False,
    )
