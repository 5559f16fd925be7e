"""Which errors of a database are the store's trouble, and which are somebody's mistake.

A full disk, a lock, a lost connection hit whoever comes next too: what was to be recorded must be kept and
tried again. A violated constraint is the fault of one item. Guarantees: unknown errors count as mistakes, so
that they are seen instead of retried for ever. Never touches a database.
"""

from sqlalchemy.exc import DBAPIError

from deliveryagent.queue.engine import StoreError

_SQLITE = {
    5: "the queue is locked by another program",
    6: "the queue is locked by another program",
    7: "out of memory",
    8: "the queue file is read-only",
    10: "the disk does not work (input/output error)",
    11: "the queue file is damaged",
    13: "the disk is full",
    14: "the queue file cannot be opened",
    15: "the queue is locked by another program",
    26: "the queue file is not a database any more",
}
_HEALTHY = {5, 6, 13, 15}
"""SQLite's troubles that leave the connection good for another try."""

# PostgreSQL, by the beginning of the SQLSTATE (its manual, appendix A).
_POSTGRESQL = {
    "08": "the connection to the database was lost",
    "25006": "the database only takes reads (a standby?)",
    "28": "the database refuses our login",
    "3D": "the database does not exist",
    "40": "the database asks to repeat the transaction",
    "42501": "the database denies us a permission",
    "53100": "the disk is full",
    "53": "the database is short of resources",
    "55": "the database is busy",
    "57": "the database was stopped or interrupted us",
    "58": "the database has trouble with its files",
    "XX001": "the database is damaged",
    "XX002": "the database is damaged",
}


def trouble(error: BaseException) -> str:
    """What is wrong with the store, as a sentence; empty when the error is not the store's trouble."""
    if isinstance(error, StoreError):
        return str(error)
    original = _original(error)
    code = _sqlite_code(original)
    if code is not None:
        return _SQLITE.get(code, "")
    state = getattr(original, "sqlstate", None)
    if state is not None:
        lengths = (state, state[:2])
        return next((_POSTGRESQL[part] for part in lengths if part in _POSTGRESQL), "")
    lost = {"OperationalError", "InterfaceError"} & {kind.__name__ for kind in type(original).mro()}
    return _POSTGRESQL["08"] if lost or _invalidated(error) else ""


def repeatable(error: BaseException) -> bool:
    """Whether the same transaction may succeed at once: the database chose it to end a deadlock."""
    state = getattr(_original(error), "sqlstate", None)
    return isinstance(state, str) and state.startswith("40")


def connection_usable(error: BaseException) -> bool:
    """Whether the connection on which the trouble came up is good for another try."""
    return repeatable(error) or _sqlite_code(_original(error)) in _HEALTHY


def _original(error: BaseException) -> BaseException:
    """The driver's own error; the drivers share their names of classes (PEP 249), not the classes."""
    inner = error.orig if isinstance(error, DBAPIError) else None
    return error if inner is None else inner


def _invalidated(error: BaseException) -> bool:
    return isinstance(error, DBAPIError) and error.connection_invalidated


def _sqlite_code(error: BaseException) -> int | None:
    """The primary result code, None when this is no error of SQLite's."""
    code = getattr(error, "sqlite_errorcode", None)
    return None if code is None else int(code) & 0xFF
