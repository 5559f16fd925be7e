"""The SQL functions by which an application enqueues inside its own transaction (PostgreSQL only).

Their sources stand beside this file, one topic each; ``{tables}`` in them is the schema the queue's tables are
in. Guarantees: installing them again changes nothing; nobody but their owner and the role ``ROLE`` may call
them, and that role has no other right; what is installed can be compared with the sources, word for word.
The tables they need come with migration 0003. Never commits.
"""

import re
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import Connection, text

ROLE = "deliveryagent_enqueue"
"""The role that may enqueue. It belongs to the whole server, not to one database, and cannot log in."""

SCHEMA = "deliveryagent"

_SOURCES = ("wishes", "wire_address", "wire_form", "enqueue")
_FUNCTION = re.compile(
    r"CREATE OR REPLACE FUNCTION deliveryagent\.(\w+)\(.*?AS \$fn\$(.*?)\$fn\$;", re.DOTALL
)
_WISHES = "text, timestamptz, jsonb, text, text, text, boolean"
_GRANTS = (
    f"GRANT USAGE ON SCHEMA {SCHEMA} TO {ROLE}",
    f"GRANT EXECUTE ON FUNCTION {SCHEMA}.enqueue(text, text[], bytea, {_WISHES}) TO {ROLE}",
    f"GRANT EXECUTE ON FUNCTION {SCHEMA}.enqueue(text, text[], text, {_WISHES}) TO {ROLE}",
)
BY_HAND = "; ".join((f"CREATE ROLE {ROLE} NOLOGIN", *_GRANTS)) + ";"
"""What somebody who may create roles has to run where the migrating user may not."""

# Its own block, since a failed CREATE ROLE would end the whole transaction otherwise.
_MAKE_ROLE = f"""
DO $do$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{ROLE}') THEN
        CREATE ROLE {ROLE} NOLOGIN;
    END IF;
EXCEPTION WHEN insufficient_privilege OR duplicate_object OR unique_violation THEN NULL;
END $do$
"""
_INSTALLED = text(
    "SELECT p.proname, p.prosrc FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace "
    "WHERE n.nspname = 'deliveryagent'"
)
_HAS_ROLE = text(
    "SELECT has_schema_privilege(oid, 'deliveryagent', 'USAGE') FROM pg_roles "
    "WHERE rolname = 'deliveryagent_enqueue'"
)


class Differences(NamedTuple):
    """Which functions are not there, and which are there with another text; names, sorted."""

    missing: tuple[str, ...]
    other: tuple[str, ...]


def install(connection: Connection) -> None:
    """Create or renew all functions, and give the role its rights where there is one or it can be made."""
    for source in _sources(connection):
        # Without parameters the driver takes several statements, and per cent signs as they are.
        connection.exec_driver_sql(source, execution_options={"no_parameters": True})
    connection.exec_driver_sql(f"REVOKE ALL ON ALL FUNCTIONS IN SCHEMA {SCHEMA} FROM PUBLIC")
    connection.exec_driver_sql(_MAKE_ROLE)
    exists = "SELECT FROM pg_roles WHERE rolname = %s"
    if connection.exec_driver_sql(exists, (ROLE,)).first() is not None:
        for grant in _GRANTS:
            connection.exec_driver_sql(grant)


def differences(connection: Connection) -> Differences:
    """Compare what is installed with the sources."""
    installed: dict[str, set[str]] = {}
    for name, body in connection.execute(_INSTALLED):
        installed.setdefault(name, set()).add(body)
    wanted: dict[str, set[str]] = {}
    for source in _sources(connection):
        for name, body in _FUNCTION.findall(source):
            wanted.setdefault(name, set()).add(body)
    return Differences(
        tuple(sorted(wanted.keys() - installed.keys())),
        tuple(sorted(n for n, b in wanted.items() if n in installed and installed[n] != b)),
    )


def role_is_ready(connection: Connection) -> bool:
    """Whether the role exists and has its rights."""
    return bool(connection.scalar(_HAS_ROLE))


def _sources(connection: Connection) -> list[str]:
    schema = connection.scalar(text("SELECT quote_ident(current_schema())"))
    return [
        Path(__file__).with_name(f"{name}.sql").read_text("utf-8").replace("{tables}", schema)
        for name in _SOURCES
    ]
