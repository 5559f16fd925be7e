"""Enqueue inside the application's own transaction: SQL functions, and the tables they need (PostgreSQL only).

Revision ID: 0003
"""

from alembic import op

from queue_schema.functions import SCHEMA, install

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_OBJECTS = f"""
CREATE SCHEMA {SCHEMA};

-- What every message is judged by; the agents write it when they start.
CREATE TABLE {SCHEMA}.terms (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    hostname text NOT NULL,
    message_size_limit bigint NOT NULL,
    recipient_limit integer NOT NULL,
    header_size_limit integer NOT NULL,
    hopcount_limit integer NOT NULL,
    bulk_after integer NOT NULL,
    updated double precision NOT NULL
);

-- Destinations that got work from a transaction, one row each; agents carry them to "destination" and delete
-- them. Since nobody else writes a row of a transaction, applications never wait for each other.
CREATE TABLE {SCHEMA}.arrival (
    xact xid8 NOT NULL,
    destination text NOT NULL,
    due double precision,
    PRIMARY KEY (xact, destination)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

-- Numbers that keep the queue ids of several writers apart.
CREATE SEQUENCE {SCHEMA}.call;
CREATE SEQUENCE {SCHEMA}.agent_mark;
CREATE SEQUENCE {SCHEMA}.direct_mark;
"""


def upgrade() -> None:
    """Make the schema of the functions and install them."""
    connection = op.get_bind()
    if connection.dialect.name == "postgresql":
        op.execute(_OBJECTS)
        install(connection)


def downgrade() -> None:
    """Remove everything but the role, which other databases of the server may use too.

    Whatever was enqueued stays: destinations that no agent has heard of yet are made ready first.
    """
    if op.get_bind().dialect.name != "postgresql":
        return
    op.execute(
        "INSERT INTO destination (name, ready) SELECT destination, min(due) "
        "FROM deliveryagent.arrival GROUP BY destination ORDER BY destination "
        "ON CONFLICT (name) DO UPDATE SET ready = least(destination.ready, excluded.ready)"
    )
    op.execute(f"DROP SCHEMA {SCHEMA} CASCADE")
