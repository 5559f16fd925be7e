"""What failed logins cost: how long answers wait, and who may not try for a while.

Failures are counted per network (an IPv4 address, the /64 of an IPv6 address) and per user name, and half of
them are forgotten in each ``half_life``. A network with too many is shut out for a ``half_life``: nothing of it
is looked at. A user who is guessed at from many networks is never shut out, so that nobody can be kept from
their mail by others; but every login under that name waits before it is looked at, right or wrong, longer and
longer. Where a user has logged in before, neither holds for that user, until too many fail there under that
very name.

Guarantees: memory is bounded by ``most``, however many addresses and names are tried; what is forgotten to
make room is what has failed least of some that failed long ago, so ten thousand names tried once do not wash
away one tried a hundred times; an account of one's own opens no door to others' (a success forgives nothing
but the pair of network and user). Time is given, in seconds of any clock that never goes back.
"""

import ipaddress
from collections import Counter, OrderedDict
from dataclasses import dataclass
from math import exp2

_LOOKED_AT = 8  # records among which the one to forget is chosen


@dataclass(frozen=True, kw_only=True)
class GuessLimits:
    """How patient the doors are.

    ``sleep`` is the wait of a first failure in seconds, it doubles with each up to ``longest``. ``network`` is
    how many failures shut a network out, ``user`` how many a name may have before its logins wait, ``home``
    how many a user may have where that user logged in before. ``half_life`` is in seconds, so is ``kept``,
    how long it is remembered where a user logged in. ``most`` bounds each of the three tables.
    """

    sleep: float = 1.0
    longest: float = 30.0
    network: int = 10
    user: int = 10
    home: int = 50
    half_life: float = 1800.0
    kept: float = 30 * 86400.0
    most: int = 10_000


class _Record:
    """Failures of one network or under one name: how many at which moment."""

    __slots__ = ("failures", "moment", "shut_until")

    def __init__(self, moment: float) -> None:
        self.failures = 0.0
        self.moment = moment
        self.shut_until = 0.0

    def count(self, now: float, half_life: float) -> float:
        return self.failures * exp2(-max(0.0, now - self.moment) / half_life)


class _Ledger:
    """Records by name, at most so many."""

    def __init__(self, limits: GuessLimits) -> None:
        self._limits = limits
        self._records: OrderedDict[str, _Record] = OrderedDict()

    def __len__(self) -> int:
        return len(self._records)

    def count(self, name: str, now: float) -> float:
        record = self._records.get(name)
        return record.count(now, self._limits.half_life) if record else 0.0

    def shut(self, name: str, now: float) -> bool:
        record = self._records.get(name)
        return record is not None and now < record.shut_until

    def add(self, name: str, now: float) -> _Record:
        record = self._records.get(name)
        if record is None:
            if len(self._records) >= self._limits.most:
                self._forget_one(now)
            record = self._records[name] = _Record(now)
        record.failures = record.count(now, self._limits.half_life) + 1
        record.moment = now
        self._records.move_to_end(name)
        return record

    def _forget_one(self, now: float) -> None:
        oldest = [name for name, _ in zip(self._records, range(_LOOKED_AT), strict=False)]
        least = min(oldest, key=lambda name: self.count(name, now))
        for name in oldest:
            self._records.move_to_end(name)
        del self._records[least]


class _Homes:
    """Where users logged in before, at most so many."""

    def __init__(self, limits: GuessLimits) -> None:
        self._limits = limits
        self._ends: OrderedDict[tuple[str, str], float] = OrderedDict()
        self._networks: Counter[str] = Counter()
        self._failures = _Ledger(limits)

    def __len__(self) -> int:
        return len(self._ends) + len(self._failures)

    def has(self, network: str, user: str, now: float) -> bool:
        return now < self._ends.get((network, user), 0.0)

    def somebodys(self, network: str) -> bool:
        return self._networks[network] > 0

    def add(self, network: str, user: str, now: float) -> None:
        home = (network, user)
        if home not in self._ends:
            if len(self._ends) >= self._limits.most:
                self._forget(next(iter(self._ends)))
            self._networks[network] += 1
        self._ends[home] = now + self._limits.kept
        self._ends.move_to_end(home)

    def fail(self, network: str, user: str, now: float) -> None:
        home = (network, user)
        if home not in self._ends:
            return
        record = self._failures.add(f"{network} {user}", now)
        if record.failures > self._limits.home - 0.5:
            self._forget(home)

    def _forget(self, home: tuple[str, str]) -> None:
        del self._ends[home]
        self._networks[home[0]] -= 1
        if not self._networks[home[0]]:
            del self._networks[home[0]]


class Guesses:
    """What is known of failed logins at one door."""

    def __init__(self, limits: GuessLimits | None = None) -> None:
        self.limits = limits or GuessLimits()
        self._networks = _Ledger(self.limits)
        self._users = _Ledger(self.limits)
        self._homes = _Homes(self.limits)

    def __len__(self) -> int:
        """How much is remembered."""
        return len(self._networks) + len(self._users) + len(self._homes)

    def refused(self, address: str, user: str, now: float) -> bool:
        """Whether a login from here is not even looked at.

        ``address`` is an IP address or anything else that names a client. ``user`` is whom it wants to be, as
        it says; empty while that is not known: then True means that it would be refused whatever it says.
        """
        network = network_of(address)
        if not self._networks.shut(network, now):
            return False
        if user:
            return not self._homes.has(network, user, now)
        return not self._homes.somebodys(network)

    def wait(self, address: str, user: str, now: float) -> float:
        """How many seconds to wait before a password of ``user`` is looked at."""
        failures = self._users.count(user, now)
        if failures < self.limits.user or self._homes.has(network_of(address), user, now):
            return 0.0
        return self._doubled(failures / self.limits.user)

    def failed(self, address: str, user: str, now: float) -> float:
        """Note a wrong login; returns for how many seconds its reply is kept back.

        ``user`` is empty when it never came to a name.
        """
        network = network_of(address)
        record = self._networks.add(network, now)
        if record.failures > self.limits.network - 0.5:
            record.shut_until = now + self.limits.half_life
        if user:
            self._users.add(user, now)
            self._homes.fail(network, user, now)
        return self._doubled(record.failures)

    def succeeded(self, address: str, user: str, now: float) -> None:
        """Note that ``user`` logged in from here."""
        self._homes.add(network_of(address), user, now)

    def _doubled(self, failures: float) -> float:
        """``sleep`` for the first, twice that for the second, and so on."""
        return min(self.limits.longest, self.limits.sleep * 2 ** min(30.0, max(0.0, failures - 1)))


def network_of(address: str) -> str:
    """What counts as one client: an IPv4 address, the /64 of an IPv6 address, anything else itself.

    >>> network_of("2001:db8::17"), network_of("::ffff:192.0.2.1"), network_of("uid=1000")
    ('2001:db8::/64', '192.0.2.1', 'uid=1000')
    """
    try:
        client = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(client, ipaddress.IPv4Address):
        return str(client)
    if client.ipv4_mapped is not None:
        return str(client.ipv4_mapped)
    return f"{ipaddress.IPv6Address(int(client) >> 64 << 64)}/64"
