"""An index of what is on hold: lists of it, and of what a destination has, need not pass all that waits.

Revision ID: 0005
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the index."""
    held = sa.text("status = 'held'")
    op.create_index(
        "ix_recipient_held",
        "recipient",
        ["message_id", "number", "destination"],
        sqlite_where=held,
        postgresql_where=held,
    )
