"""Statements for many rows at once, and answers that come back in one piece.

Python's SQLite module lets go of the interpreter at every row it steps over, and has to get hold of it again
while the event loop is busy: row by row, a batch of a hundred can take longer than the commit by orders of
magnitude. So rows go in as one statement (``VALUES (…), (…), …``) and come out as one row of JSON, decoded
straight into structs. The same saves PostgreSQL a round of parsing and planning per row.

Statements are written with SQLAlchemy once, compiled once per kind of database, and handed to the driver as
text from then on, inside the transaction that the caller began; errors are the driver's own. Guarantees:
values always travel as parameters, in portions that any supported SQLite takes. Never caches anything of the
data.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from operator import attrgetter
from typing import Any, Generic, TypeVar

import msgspec
from sqlalchemy import (
    ColumnClause,
    ColumnElement,
    Connection,
    Dialect,
    FromClause,
    LargeBinary,
    Select,
    String,
    Table,
    TableClause,
    Text,
    column,
    func,
    insert,
    select,
    table,
    true,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.elements import ClauseElement
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.sql.sqltypes import TypeEngine

from deliveryagent.queue import postgresql

T = TypeVar("T")

_LARGEST_PORTION = 128
_PARAMETER_LIMIT = 32_000  # SQLite since 3.32 takes 32,766

Row = Sequence[Any]


def item(*columns: ColumnElement[Any] | tuple[str, TypeEngine[Any]]) -> TableClause:
    """The rows of a :class:`Bulk` as a table to write its statement with.

    Each column is one of a table, standing for its name and type, or a name with a type.
    """
    named: list[ColumnClause[Any]] = []
    for given in columns:
        name, kind = given if isinstance(given, tuple) else (given.key or "", given.type)
        named.append(column(name, Text() if isinstance(kind, String) else kind))
    return table("item", *named)


def insertion(target: Table, *names: str, ending: str = "ON CONFLICT DO NOTHING") -> "Bulk":
    """Insert rows of these columns; ``ending`` says what to do with a row that is there already."""
    rows = item(*(target.c[name] for name in names))
    # Without a WHERE, SQLite takes the ON of the ending for that of a join.
    statement = insert(target).from_select(list(names), select(*rows.c).where(true()))
    copy = f"COPY {target.name} ({', '.join(names)}) FROM STDIN (FORMAT csv, NULL 'null')"
    return Bulk(statement, rows, ending=ending, copy=copy)


def _executed(connection: Connection, text: str, values: tuple[Any, ...]) -> Any:
    """The driver's cursor. SQLAlchemy's own result costs fifteen times what the driver needs for a row."""
    driver: Any = connection.connection.driver_connection
    if connection.dialect.name == "postgresql":
        return driver.execute(text, values, binary=True)
    return driver.execute(text, values)


class Bulk:
    """A statement over the rows of ``item``; its parameters are rows in the order of the item's columns.

    The rows travel as ``VALUES`` lists to SQLite, as one array per column to PostgreSQL.
    """

    def __init__(
        self, statement: ClauseElement, rows: TableClause, *, ending: str = "", copy: str = ""
    ) -> None:
        self._statement = statement
        self._copy = copy
        self._columns = list(rows.columns)
        self._ending = ending
        self._frames: dict[str, tuple[str, str]] = {}
        self._texts: dict[int, str] = {}
        self._octets = [isinstance(part.type, LargeBinary) for part in self._columns]
        self._arrays = ""  # the statement for PostgreSQL
        self._most = min(_LARGEST_PORTION, _PARAMETER_LIMIT // len(self._columns))

    def run(self, connection: Connection, rows: Sequence[Row]) -> int:
        """Run it for all rows; returns the number of rows changed."""
        return sum(result.rowcount for result in self._results(connection, rows))

    def add(self, connection: Connection, rows: Sequence[Row]) -> None:
        """Insert rows that cannot be there yet, the fastest way: on PostgreSQL by COPY."""
        if connection.dialect.name == "postgresql" and len(rows) > 1 and not any(self._octets):
            lines = postgresql.lines(rows)
            if lines is not None:
                driver = connection.connection.driver_connection
                postgresql.copy_lines(driver, self._copy, lines)
                return
        self.run(connection, rows)

    def answers(self, connection: Connection, rows: Sequence[Row]) -> Iterator[Any]:
        """Run it and give every row of every answer."""
        for result in self._results(connection, rows):
            yield from result.fetchall()

    def _results(self, connection: Connection, rows: Sequence[Row]) -> Iterator[Any]:
        if not rows:
            return
        if connection.dialect.name == "postgresql":
            columns = zip(self._octets, zip(*rows, strict=True), strict=True)
            values = tuple(
                [list(given) if raw else postgresql.array(given) for raw, given in columns]
            )
            yield _executed(connection, self._unnested(connection.dialect), values)
            return
        start = 0
        while start < len(rows):
            # Powers of two, so that few different texts have to be prepared.
            size = min(self._most, 1 << ((len(rows) - start).bit_length() - 1))
            values = tuple(chain.from_iterable(rows[start : start + size]))
            yield _executed(connection, self._listed(connection.dialect, size), values)
            start += size

    def _listed(self, dialect: Dialect, size: int) -> str:
        found = self._texts.get(size)
        if found is None:
            head, tail = self._frame(dialect)
            marks = f"({', '.join('?' * len(self._columns))})"
            values = ", ".join([marks] * size)
            found = self._texts[size] = f"{head}(VALUES {values}) AS item{tail}"
        return found

    def _unnested(self, dialect: Dialect) -> str:
        if not self._arrays:
            head, tail = self._frame(dialect)
            arrays = ", ".join(
                f"CAST({'%b' if raw else '%s'} AS {part.type.compile(dialect)}[])"
                for part, raw in zip(self._columns, self._octets, strict=True)
            )
            names = ", ".join(f"column{place}" for place in range(1, len(self._columns) + 1))
            self._arrays = f"{head}unnest({arrays}) AS item({names}){tail}"
        return self._arrays

    def _frame(self, dialect: Dialect) -> tuple[str, str]:
        """What stands before and behind the rows; neither kind of database lets us name their columns alike."""
        found = self._frames.get(dialect.name)
        if found is None:
            text = str(
                self._statement.compile(dialect=dialect, compile_kwargs={"literal_binds": True})
            )
            for place, part in enumerate(self._columns, start=1):
                name = rf'\bitem\.(?:"{part.name}"|{part.name}\b)'
                text = re.sub(name, f"item.column{place}", text)
            head, tail = re.split(r"\bFROM item\b", text, maxsplit=1)
            found = self._frames[dialect.name] = (
                f"{head}FROM ",
                f"{tail} {self._ending}".rstrip(),
            )
        return found


class Prepared:
    """A statement with named parameters, compiled once per kind of database."""

    def __init__(self, statement: ClauseElement) -> None:
        self._statement = statement
        self._compiled: dict[str, tuple[str, list[str], dict[str, Any]]] = {}

    def run(self, connection: Connection, **values: Any) -> Any:
        """Run it with these parameters; returns the driver's cursor."""

        found = self._compiled.get(connection.dialect.name)
        if found is None:
            compiled = self._statement.compile(dialect=connection.dialect)
            assert isinstance(compiled, SQLCompiler)
            found = self._compiled[connection.dialect.name] = (
                compiled.string,
                list(compiled.positiontup or ()),
                dict(compiled.params),
            )
        text, names, usual = found
        return _executed(
            connection,
            text,
            tuple([values[name] if name in values else usual[name] for name in names]),
        )


class json_rows(FunctionElement[str]):  # noqa: N801 - reads as the SQL function it is
    """All rows as one JSON array of arrays; null or ``[]`` when there is none."""

    inherit_cache = True
    type = Text()


@compiles(json_rows, "sqlite")
def _(element: json_rows, compiler: SQLCompiler, **options: Any) -> str:
    return f"json_group_array(json_array({compiler.process(element.clauses, **options)}))"


@compiles(json_rows, "postgresql")
def _(element: json_rows, compiler: SQLCompiler, **options: Any) -> str:
    columns = compiler.process(element.clauses, **options)
    return f"CAST(json_agg(json_build_array({columns})) AS TEXT)"


class joined(FunctionElement[bytes]):  # noqa: N801 - reads as the SQL function it is
    """The octets of all rows, one behind the other."""

    inherit_cache = True
    type = LargeBinary()


@compiles(joined, "sqlite")
def _(element: joined, compiler: SQLCompiler, **options: Any) -> str:
    return f"CAST(group_concat({compiler.process(element.clauses, **options)}, '') AS BLOB)"


@compiles(joined, "postgresql")
def _(element: joined, compiler: SQLCompiler, **options: Any) -> str:
    return f"string_agg({compiler.process(element.clauses, **options)}, CAST('' AS BYTEA))"


class Listing(Generic[T]):
    """A query whose rows are the fields of a struct in order, fetched as one piece from SQLite.

    ``T`` is declared ``array_like``. ``greatest`` is a column whose largest value comes along exactly:
    numbers inside JSON have 15 digits on SQLite.
    """

    def __init__(self, rows: Select[Any], kind: type[T], *, greatest: str = "") -> None:
        inner: FromClause = rows.subquery("rows_")
        most = func.max(inner.c[greatest]) if greatest else func.count()
        self._prepared = Prepared(select(json_rows(*inner.c), most).select_from(inner))
        self._decode = msgspec.json.Decoder(list[kind], strict=False).decode  # type: ignore[valid-type]
        self._rows = Prepared(rows)
        self._kind: Any = list[kind]  # type: ignore[valid-type]
        self._greatest = greatest

    def run(self, connection: Connection, **values: Any) -> list[T]:
        """The rows."""
        return self.with_greatest(connection, **values)[0]

    def with_greatest(self, connection: Connection, **values: Any) -> tuple[list[T], Any]:
        """The rows, and the largest value of the ``greatest`` column."""
        if connection.dialect.name == "postgresql":
            found = self._rows.run(connection, **values).fetchall()
            rows: list[T] = msgspec.convert(found, self._kind)
            name = self._greatest
            return rows, max((getattr(row, name) for row in rows), default=None) if name else None
        text, most = self._prepared.run(connection, **values).fetchone()
        return (self._decode(text) if text else []), most


def rows_of(fields: Sequence[str], structs: Iterable[Any]) -> list[Row]:
    """The named attributes (two or more) of each struct as a row."""
    return list(map(attrgetter(*fields), structs))
