"""How PostgreSQL keeps content, and how soon it clears up behind the busy tables; nothing on SQLite.

Content is kept as it is: trying to compress it, and moving it out of its row from 2 KB on, cost a small
message four times what writing it costs. What is larger than a page goes out of its row in one piece, still
uncompressed. The busy tables are vacuumed after a fixed number of changed rows, not after a fifth of all: else
a long history would put it off while the waiting lines fill with dead entries.

Revision ID: 0004
"""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_SETTINGS = {
    "content": "toast_tuple_target = 8160, autovacuum_vacuum_scale_factor = 0.02, "
    "autovacuum_vacuum_threshold = 10000, toast.autovacuum_vacuum_scale_factor = 0.02, "
    "toast.autovacuum_vacuum_threshold = 10000",
    "recipient": "autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 20000",
    "destination": "autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000",
}


def upgrade() -> None:
    """Set the storage of the tables; rows that are there stay as they are."""
    if op.get_bind().dialect.name != "postgresql":
        return
    op.execute("ALTER TABLE content ALTER COLUMN data SET STORAGE EXTERNAL")
    for table, settings in _SETTINGS.items():
        op.execute(f"ALTER TABLE {table} SET ({settings})")
