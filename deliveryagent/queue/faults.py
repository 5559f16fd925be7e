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
    "25P": "the database ended our transaction",
    "26000": "the database forgot a prepared statement (a connection pooler?)",
    "28": "the database refuses our login",
    "3D": "the database does not exist",
    "40": "the database asks to repeat the transaction",
    "42501": "the database denies us a permission",
    "42P01": "the database has lost a table of the queue",
    "42P05": "the database has a prepared statement of somebody else (a connection pooler?)",
    "53100": "the disk is full",
    "53300": "the database has too many connections",
    "53": "the database is short of resources",
    "55P03": "another transaction locks what we need",
    "55": "the database is busy",
    "57014": "the database took too long",
    "57": "the database was stopped or interrupted us",
    "58": "the database has trouble with its files",
    "XX001": "the database is damaged",
    "XX002": "the database is damaged",
}


_HARMLESS = {"53100", "55P03", "57014"}
"""PostgreSQL's troubles that leave the connection good for another try."""


def trouble(error: BaseException) -> str:
    """What is wrong with the store, as a sentence; empty when the error is not the store's trouble."""
    if isinstance(error, StoreError):
        return str(error)
    original = _original(error)
    code = _sqlite_code(original)
    if code is not None:
        return _SQLITE.get(code, "")
    state = _state(original)
    if state:
        lengths = (state, state[:3], state[:2])
        found = next((_POSTGRESQL[part] for part in lengths if part in _POSTGRESQL), "")
        return _with_words(found, original) if found else ""
    lost = {"OperationalError", "InterfaceError"} & {kind.__name__ for kind in type(original).mro()}
    return _with_words(_POSTGRESQL["08"], original) if lost or _invalidated(error) else ""


def repeatable(error: BaseException) -> bool:
    """Whether the same transaction may succeed at once.

    The database chose it to end a deadlock, or a table was changed under a prepared statement.
    """
    original = _original(error)
    state = _state(original)
    return state.startswith("40") or (state == "0A000" and "cached plan" in str(original))


def locked(error: BaseException) -> bool:
    """Whether somebody else's transaction on a server database was in the way."""
    return _state(_original(error)) == "55P03"


def connection_usable(error: BaseException) -> bool:
    """Whether the connection on which the trouble came up is good for another try."""
    original = _original(error)
    if _sqlite_code(original) in _HEALTHY or _state(original) in _HARMLESS:
        return True
    return repeatable(error)


def unanswered(error: BaseException) -> bool:
    """Whether a commit that failed like this may have happened all the same.

    So it is when a server is lost before it answered; SQLite's own errors say that nothing was committed.
    """
    return _sqlite_code(_original(error)) is None and not connection_usable(error)


def _state(original: BaseException) -> str:
    """The SQLSTATE of a server database, empty when it gave none."""
    return str(getattr(original, "sqlstate", None) or "")


def _with_words(sentence: str, original: BaseException) -> str:
    """The sentence with what the server, or the driver, itself said."""
    diagnosis = getattr(original, "diag", None)
    said = getattr(diagnosis, "message_primary", None)
    if not said:
        # "connection failed: connection to server at … failed: FATAL:  the reason", and more lines of hints.
        said = str(original).strip().partition("\n")[0].rpartition("failed: ")[2]
    said = " ".join(str(said).split())
    return f"{sentence}: {said}" if said else sentence


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
