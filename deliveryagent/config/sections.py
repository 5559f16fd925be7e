"""Which groups of settings make up which section of the configuration.

The groups are declared beside the code that uses them; here they are only put together. ``[lmtp]``
has the keys of ``[smtp]`` with defaults of its own, and a ``[[route]]`` may narrow what belongs to
one destination.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Annotated, Any, TypeVar

from deliveryagent.agent.settings import CrewSettings
from deliveryagent.agent.worker_settings import ClientSettings, LmtpSettings
from deliveryagent.intake.admission import SubmitSettings
from deliveryagent.intake.listener_settings import ListenerSettings
from deliveryagent.log import LogSettings
from deliveryagent.policy.batches import BatchSettings
from deliveryagent.policy.concurrency import ConcurrencySettings
from deliveryagent.policy.notices import NoticeSettings
from deliveryagent.policy.retry import RetrySettings
from deliveryagent.policy.routing import RelaySettings, RouteSettings
from deliveryagent.policy.targets import LoopSettings
from deliveryagent.protocol.arrival import LimitSettings
from deliveryagent.queue.settings import HistorySettings, StoreSettings
from deliveryagent.resolver.settings import ResolverSettings
from deliveryagent.setting import key


@dataclass(frozen=True, kw_only=True)
class TopSettings:
    """The settings that stand in no section."""

    hostname: Annotated[
        str,
        key(
            "The name of this host in EHLO, Received: and Message-ID. Empty: the fully "
            "qualified name the system gives.",
            postfix="myhostname",
        ),
    ] = ""
    origin: Annotated[
        str,
        key(
            "The domain of addresses that local programs write without one. Empty: the hostname if "
            "it is set, else what /etc/mailname says, else this host's name.",
            postfix="myorigin",
        ),
    ] = ""
    postmaster: Annotated[
        str,
        key("Where notices about trouble come from and go to. Empty: postmaster at the hostname."),
    ] = ""
    run_dir: Annotated[
        str,
        key(
            "The directory of the service's socket and lock. Empty: $RUNTIME_DIRECTORY, else "
            "/run/deliveryagent for the system's queue, else the directory of the queue file."
        ),
    ] = ""


@dataclass(frozen=True, kw_only=True)
class QueueSection(StoreSettings, RetrySettings, HistorySettings, LimitSettings):
    """[queue]: where messages wait, for how long, and how big they may be."""


@dataclass(frozen=True, kw_only=True)
class DeliverySection(
    ConcurrencySettings, BatchSettings, CrewSettings, LoopSettings, NoticeSettings
):
    """[delivery]: how much is delivered at a time, and who is told about trouble."""


@dataclass(frozen=True, kw_only=True)
class Route(RouteSettings):
    """One ``[[route]]`` with the settings in force for it."""

    smtp: ClientSettings
    lmtp: LmtpSettings
    delivery: DeliverySection


@dataclass(frozen=True, kw_only=True)
class Config(TopSettings):
    """The whole configuration, every default filled in."""

    queue: QueueSection = field(default_factory=QueueSection)
    delivery: DeliverySection = field(default_factory=DeliverySection)
    dns: ResolverSettings = field(default_factory=ResolverSettings)
    smtp: ClientSettings = field(default_factory=ClientSettings)
    lmtp: LmtpSettings = field(default_factory=LmtpSettings)
    relay: RelaySettings = field(default_factory=RelaySettings)
    submit: SubmitSettings = field(default_factory=SubmitSettings)
    log: LogSettings = field(default_factory=LogSettings)
    route: tuple[Route, ...] = ()
    listener: tuple[ListenerSettings, ...] = ()


SECTIONS: dict[str, Any] = {
    "queue": QueueSection,
    "delivery": DeliverySection,
    "dns": ResolverSettings,
    "smtp": ClientSettings,
    "lmtp": LmtpSettings,
    "relay": RelaySettings,
    "submit": SubmitSettings,
    "log": LogSettings,
}
"""The sections in the order people read them; ``Config`` has a field of the same name and type for
each."""

_PER_DESTINATION = (
    "default_destination_concurrency_limit",
    "default_destination_recipient_limit",
)

Section = TypeVar("Section", ClientSettings, LmtpSettings, DeliverySection)


def narrowable() -> dict[str, str]:
    """What a route may narrow: its name in ``[[route]]``, and its field in ``[smtp]`` or
    ``[delivery]``.

    As with Postfix's per-transport parameters, ``default_…`` is dropped from the name.
    """
    names = [*_PER_DESTINATION, *(field.name for field in fields(ClientSettings))]
    return {name.removeprefix("default_"): name for name in names}


def narrowed(section: Section, route: Mapping[str, Any]) -> Section:
    """A section as it is for one route."""
    mine = {field.name for field in fields(section)}
    changes = {
        name: route[short]
        for short, name in narrowable().items()
        if short in route and name in mine
    }
    return replace(section, **changes)
