"""Search."""

import msgspec


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """Which recipients are meant: every condition that is set must hold.

    ``ids`` are full queue ids or beginnings of one. ``to`` and ``from_`` are an address or ``@domain`` (for
    ``from_``, ``<>`` is the null sender). ``older`` and ``newer`` are moments in seconds since the epoch: the
    message arrived before, or at or after it; 0 means no bound. ``tries`` is a number of attempts with an
    optional ``>``, ``>=``, ``<``, ``<=`` or ``=`` before it. ``code`` is a reply code (``450``), a class
    (``4xx``) or an enhanced code (``4.7.1``, ``4.7.x``). ``all`` is the explicit word that no condition is
    meant to be set. Without ``status``, only live recipients are meant.
    """

    ids: tuple[str, ...] = ()
    to: str = ""
    from_: str = ""
    domain: str = ""
    status: tuple[str, ...] = ()
    older: float = 0.0
    newer: float = 0.0
    tries: str = ""
    code: str = ""
    all: bool = False
