"""The ledger of slots: how many requests each agent may have in flight to a site (``site_share``).

PostgreSQL only, and only while several agents work: an agent that is alone has the whole limit of every site
and writes nothing here. Who decides is ``policy.shares``; here it happens under locks. Every change of a
site's rows is made under an advisory lock that all changes of this site share, in one transaction with the
reading it is based on.

Guarantees: the slots of a site never add up to more than its limit; a site that is closed, or being probed
after it was, has one slot in all; as long as some agent has not written down what it has in flight
(``agent.sharing``), nobody gets more. Slots end with their agent (``leases``).
"""

import zlib
from collections.abc import Sequence

import msgspec
from sqlalchemy import Connection, delete, func, select, true, tuple_, update

from deliveryagent.policy import shares
from deliveryagent.policy.shares import TURN, Held
from deliveryagent.queue import news
from deliveryagent.queue.bulk import Bulk, Prepared, insertion, item
from deliveryagent.queue.leases import moment
from deliveryagent.queue.operation import Fenced, operation
from queue_schema.tables import agent, site, site_share

_STRIPES = 256  # advisory locks; sites that share one wait for each other, nothing worse
_LOCKS = 0x44414753


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent would like to have of one site.

    ``limit`` is the site's for all agents together. ``busy`` is what cannot be given back yet.
    """

    site: str
    limit: int
    wanted: int
    busy: int


class Asks(msgspec.Struct, frozen=True):
    """Everything an agent asks for at one time, at most ``CAP`` sites."""

    agent: int
    asks: tuple[Ask, ...]


class Share(msgspec.Struct, frozen=True):
    """What an agent may have in flight to a site, and what would be its fair part (see ``policy.shares``)."""

    site: str
    slots: int
    target: int


class Ends(msgspec.Struct, frozen=True):
    """An agent has nothing to do at these sites any more."""

    agent: int
    sites: tuple[str, ...]


class Opening(msgspec.Struct, frozen=True):
    """An agent that was alone writes down what it has in flight: (site, requests)."""

    agent: int
    busy: tuple[tuple[str, int], ...]


CAP = 500

_stripe = item(("stripe", site_share.c.slots.type))
_lock = Bulk(
    select(func.pg_advisory_xact_lock(_LOCKS, _stripe.c.stripe)).select_from(_stripe), _stripe
)
_name = item(site_share.c.site)
_held = Bulk(
    select(site_share.c.site, site_share.c.agent, site_share.c.slots, site_share.c.wanted)
    .select_from(_name)
    .join(site_share, site_share.c.site == _name.c.site),
    _name,
)
_troubled = Bulk(
    select(site.c.name)
    .select_from(_name)
    .join(site, site.c.name == _name.c.site)
    .where(site.c.closed_until.is_not(None)),
    _name,
)
_COLUMNS = ("site", "agent", "slots", "wanted", "updated")
_write = insertion(
    site_share,
    *_COLUMNS,
    ending="ON CONFLICT (site, agent) DO UPDATE SET slots = excluded.slots, "
    "wanted = excluded.wanted, updated = excluded.updated",
)
_gone = item(site_share.c.site, site_share.c.agent)
_end = Bulk(
    delete(site_share).where(
        tuple_(site_share.c.site, site_share.c.agent).in_(select(_gone.c.site, _gone.c.agent))
    ),
    _gone,
)
_silent = Prepared(select(agent.c.id).where(agent.c.sharing.is_(False)).limit(1))
_now = Prepared(select(moment()))
_mine = site_share.alias("mine")
_contended = (
    select(_mine.c.site)
    .join(site_share, site_share.c.site == _mine.c.site)
    .where(site_share.c.slots < site_share.c.wanted)
    .distinct()
)
_open = update(agent).values(sharing=true())


def _lock_sites(connection: Connection, names: Sequence[str]) -> None:
    stripes = sorted({zlib.crc32(name.encode()) % _STRIPES for name in names})
    for _ in _lock.answers(connection, [(stripe,) for stripe in stripes]):
        pass


@operation(cap=1)
def ask(connection: Connection, items: Sequence[Asks]) -> list[list[Share]]:
    """Give an agent what it may have of each site it asks for, as ``policy.shares.grant`` says."""
    return [_answer(connection, one) for one in items]


def _answer(connection: Connection, wanted: Asks) -> list[Share]:
    names = [(one.site,) for one in wanted.asks]
    _lock_sites(connection, [one.site for one in wanted.asks])
    closed_to_all = _silent.run(connection).fetchone() is not None
    held: dict[str, dict[int, Held]] = {}
    for name, owner, slots, wish in _held.answers(connection, names):
        held.setdefault(name, {})[owner] = Held(slots, wish)
    troubled = {row[0] for row in _troubled.answers(connection, names)}
    (now,) = _now.run(connection).fetchone()
    answers, rows, call = [], [], False
    for one in wanted.asks:
        others = held.get(one.site, {})
        before = others.pop(wanted.agent, Held(0, 0))
        granted = shares.grant(
            min(1, one.limit) if one.site in troubled else one.limit,
            others,
            wanted.agent,
            held=before.slots,
            wanted=one.wanted,
            busy=one.busy,
            turn=int(now / TURN),
        )
        slots = min(granted.slots, before.slots) if closed_to_all else granted.slots
        answers.append(Share(one.site, slots, granted.target))
        if before != Held(slots, one.wanted):
            rows.append((one.site, wanted.agent, slots, one.wanted, now))
        call = call or granted.call
    _write.run(connection, sorted(rows))
    if call:
        news.tell(connection, "shares")
    return answers


@operation()
def end(connection: Connection, items: Sequence[Ends]) -> list[None]:
    """Give all slots of sites back."""
    rows = sorted({(name, one.agent) for one in items for name in one.sites})
    names = sorted({name for name, _ in rows})
    _lock_sites(connection, names)
    _end.run(connection, rows)
    waiting = _held.answers(connection, [(name,) for name in names])
    if any(slots < wish for _, _, slots, wish in waiting):
        news.tell(connection, "shares")
    return [None] * len(items)


@operation(writes=False)
def contended(connection: Connection, items: Sequence[int]) -> list[list[str]]:
    """The sites of each agent at which somebody has fewer slots than it wants."""
    return [list(connection.scalars(_contended.where(_mine.c.agent == one)).all()) for one in items]


@operation()
def begin(connection: Connection, items: Sequence[Opening]) -> list[None]:
    """An agent is alone no more: what it has in flight is in the ledger, others may ask.

    Raises ``Fenced`` for an agent that was taken for dead.
    """
    for one in items:
        (now,) = _now.run(connection).fetchone()
        _write.run(connection, sorted((name, one.agent, n, n, now) for name, n in one.busy))
        if not connection.execute(_open.where(agent.c.id == one.agent)).rowcount:
            raise Fenced("the lease is lost: another agent took over")
    news.tell(connection, "shares")
    return [None] * len(items)
