"""Copies a whole queue into another database, so that the other takes its place.

Rows go in the order of their keys, in portions of one transaction each, and with each portion goes a note of
how far it is. So a copy that was killed goes on where it stopped. Before the first row both queues are marked
(``moves``): nobody works on either until the last row is there, was counted, and the invariants hold; then the
source is marked as moved for ever, and after that the target is opened.

Guarantees: nothing is lost or doubled, whatever is killed in between; a target with mail of its own is never
touched. Left out are what belongs to agents (leases, slots) and contents that were still arriving. Callers hold
the right to write to both queues.
"""

import secrets
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from sqlalchemy import Connection, Engine, Select, Table, delete, func, select, tuple_

from deliveryagent.queue import check, faults
from deliveryagent.queue.bulk import insertion
from deliveryagent.queue.engine import StoreError
from deliveryagent.queue.leases import moment
from deliveryagent.queue.moves import Mark, mark_of, set_mark
from queue_schema.tables import (
    agent,
    attempt,
    content,
    deadline,
    destination,
    message,
    recipient,
    site,
    submission_key,
)

_ORDER = (message, content, recipient, attempt, submission_key, site, deadline, destination)
"""Destinations last: what nobody knows of, nobody takes up."""

_PORTION = 1000
_CONTENT_PORTION = 64  # rows of up to 256 KiB

Told = Callable[[str, int, int], None]
"""Called with the name of a table, how many of its rows are there, and how many there will be."""


class Report(msgspec.Struct, frozen=True):
    """What the target has now: rows by table, recipients by status, and whether this run copied anything."""

    rows: dict[str, int]
    statuses: dict[str, int]
    done_before: bool = False


def abandon(source: Engine) -> bool:
    """Open a queue again whose copy was begun; False when there is none.

    Raises ``StoreError`` once it was moved.
    """
    with source.begin() as connection:
        mark = mark_of(connection)
        if mark is not None and mark.role != "source":
            raise StoreError(
                f"the copy at {mark.other} has taken this queue's place",
                "its mail lives there now",
            )
        set_mark(connection, None)
    return mark is not None


def copy(source: Engine, target: Engine, *, now: float, told: Told) -> Report:
    """Copy everything, or go on with a copy that was begun; returns once the target has taken over.

    Both have the newest schema. ``now`` is seconds since the epoch. Raises ``StoreError``.
    """
    try:
        begun = _begin(source, target)
        if begun.role == "source":
            _demand_no_agents(target)
            for table in _ORDER:
                _copy_table(source, target, table, told)
            _demand_no_agents(target)
            report = _verified(source, target, now)
            with source.begin() as connection:
                set_mark(connection, msgspec.structs.replace(begun, role="moved"))
        else:
            report = msgspec.structs.replace(_counted(target), done_before=True)
        with target.begin() as connection:
            mark = mark_of(connection)
            if mark is not None and mark.token == begun.token:
                set_mark(connection, None)
        if target.dialect.name == "postgresql":
            with target.begin() as connection:
                connection.exec_driver_sql("ANALYZE")
    except StoreError:
        raise
    except Exception as error:
        reason = faults.trouble(error)
        if reason:
            raise StoreError(reason, "run the same command again: it goes on from here") from error
        raise
    return report


# -- marks ---


def _begin(source: Engine, target: Engine) -> Mark:
    """Mark both sides; returns the source's mark."""
    there, here = (_name(engine) for engine in (target, source))
    with source.begin() as connection:
        mark = mark_of(connection)
        if mark is None:
            mark = Mark(role="source", other=there, token=secrets.token_hex(8))
            set_mark(connection, mark)
        elif mark.role == "target":
            raise StoreError(
                f"this queue is itself an incomplete copy of {mark.other}",
                "run dagent db copy again where it is copied from",
            )
        elif mark.other != there:
            done = "was moved" if mark.role == "moved" else "is being copied"
            raise StoreError(f"this queue {done} to {mark.other}", "name that address")
    if mark.role == "source":
        with target.begin() as connection:
            _begin_target(connection, mark, here)
    return mark


def _begin_target(connection: Connection, mark: Mark, source: str) -> None:
    found = mark_of(connection)
    if found is not None and found.token == mark.token:
        return
    if found is None and connection.scalar(select(message.c.id).limit(1)) is not None:
        set_back = "give it an empty database; dagent db copy --abandon opens this queue again"
        raise StoreError(f"the queue at {mark.other} has mail of its own", set_back)
    if found is not None and (found.role, found.other) != ("target", source):
        doing = "an incomplete copy of" if found.role == "target" else "itself copied to"
        raise StoreError(
            f"the queue at {mark.other} is {doing} {found.other}", "name another address"
        )
    for table in reversed(_ORDER):  # what a copy left behind that was given up
        connection.execute(delete(table))
    set_mark(
        connection, Mark(role="target", other=source, token=mark.token, table=str(_ORDER[0].name))
    )


def _demand_no_agents(target: Engine) -> None:
    """Nobody may have been at work there since before the mark was set."""
    with target.connect() as connection:
        row = connection.execute(
            select(agent.c.host, agent.c.pid).where(agent.c.lease_until > moment()).limit(1)
        ).one_or_none()
    if row is not None:
        raise StoreError(
            f"an agent (process {row.pid} on {row.host}) works on the queue that is to be filled",
            "stop it, wait until its lease is over, and run the same command again",
        )


def _name(engine: Engine) -> str:
    """The address of a queue for people, without what is secret or usual."""
    if engine.dialect.name == "sqlite":
        with engine.connect() as connection:
            return f"sqlite:///{connection.exec_driver_sql('PRAGMA database_list').all()[0][2]}"
    url = engine.url
    given = {key: url.query[key] for key in ("host", "port") if key in url.query}
    return url.set(drivername="postgresql", query=given)._replace(password=None).render_as_string()


# -- rows ---


def _copy_table(source: Engine, target: Engine, table: Table, told: Told) -> None:
    with target.connect() as connection:
        mark = mark_of(connection)
        done = connection.scalar(select(func.count()).select_from(table)) or 0
    assert mark is not None
    names = [one.name for one in _ORDER]
    if not mark.table or names.index(mark.table) > names.index(table.name):
        return  # it is there already
    size = _CONTENT_PORTION if table is content else _PORTION
    add = insertion(table, *table.columns.keys())
    following = next((one.name for one in _ORDER[_ORDER.index(table) + 1 :]), "")
    with source.connect() as reading:
        total = reading.scalar(select(func.count()).select_from(_kept(table).subquery())) or 0
        for rows, after in _portions(reading, table, mark.after, size):
            progress = {"table": str(table.name if rows else following), "after": after}
            with target.begin() as connection:
                add.add(connection, rows)
                set_mark(connection, msgspec.structs.replace(mark, **progress))
            done += len(rows)
            if rows:
                told(table.name, done, total)


def _portions(
    connection: Connection, table: Table, after: tuple[int | float | str, ...], size: int
) -> Iterator[tuple[list[tuple[Any, ...]], tuple[int | float | str, ...]]]:
    """The rows behind a key in order, each portion with the key of its last; an empty one at the end."""
    keys = list(table.primary_key.columns)
    places = [list(table.columns).index(key) for key in keys]
    query = _kept(table).order_by(*keys).limit(size)
    while True:
        page = query.where(tuple_(*keys) > tuple_(*after)) if after else query
        rows = [tuple(map(_storable, row)) for row in connection.execute(page)]
        if not rows:
            yield [], ()
            return
        after = tuple(rows[-1][place] for place in places)
        yield rows, after


def _kept(table: Table) -> Select[Any]:
    """The rows that are copied; no agent owns anything in the new place."""
    query = select(table)
    if table is content:
        return query.where(
            select(message.c.id).where(message.c.id == content.c.message_id).exists()
        )
    return query


def _storable(value: Any) -> Any:
    """PostgreSQL's texts have no zero octet, which a receiver's answer in the history might have."""
    return value.replace("\0", "\ufffd") if isinstance(value, str) else value


# -- verification ---


def _verified(source: Engine, target: Engine, now: float) -> Report:
    wanted, found = _counted(source), _counted(target)
    if wanted != found:
        different = sorted(
            name
            for name in wanted.rows | wanted.statuses
            if (wanted.rows | wanted.statuses).get(name) != (found.rows | found.statuses).get(name)
        )
        raise StoreError(
            f"the copy differs from its source: {', '.join(different)}",
            "dagent db copy --abandon opens this queue again",
        )
    with source.connect() as connection:
        known = {(p.code, p.rows) for p in check.problems(connection, now)}
    with target.connect() as connection:
        problems = [p for p in check.problems(connection, now) if (p.code, p.rows) not in known]
    if problems:
        raise StoreError(
            f"the copy breaks a promise that its source keeps: {problems[0].text}",
            "dagent db copy --abandon opens this queue again",
        )
    return found


def _counted(engine: Engine) -> Report:
    with engine.connect() as connection:
        rows = {
            table.name: connection.scalar(select(func.count()).select_from(_kept(table).subquery()))
            or 0
            for table in _ORDER
        }
        octets = select(func.sum(func.length(_kept(content).subquery().c.data)))
        rows["octets of content"] = int(connection.scalar(octets) or 0)
        by_status = select(recipient.c.status, func.count()).group_by(recipient.c.status)
        statuses = {row[0]: row[1] for row in connection.execute(by_status)}
    return Report(rows, statuses)
