"""``dagent probe``: the real way to an address, without sending anything."""

import asyncio
import random
from typing import TYPE_CHECKING

import click
import msgspec

from deliveryagent.cli.command import Invocation, command
from deliveryagent.cli.faults import CommandError, ExitStatus
from deliveryagent.cli.screen import Screen, clean

if TYPE_CHECKING:
    from deliveryagent.agent.rehearsal import HostProbe, Probe, Said, Way
    from deliveryagent.config import Config

_SHOWN_OFFERS = (
    "SIZE",
    "PIPELINING",
    "8BITMIME",
    "SMTPUTF8",
    "DSN",
    "STARTTLS",
    "CHUNKING",
    "LIMITS",
)


@command(
    "probe",
    examples=[
        "dagent probe kim@example.net",
        "dagent probe kim@example.net --rcpt --from shop@example.org",
        "dagent --json probe kim@example.net",
    ],
)
@click.argument("address")
@click.option("--rcpt", is_flag=True, help="Also ask about the recipient: MAIL FROM and RCPT TO.")
@click.option("-f", "--from", "sender", metavar="A", help="Sender for --rcpt; else the postmaster.")
@click.pass_obj
def probe(invocation: Invocation, address: str, rcpt: bool, sender: str | None) -> int:
    """Go the way of ADDRESS as a delivery would, and leave before DATA.

    Route, name service, hosts in order, connection, greeting, EHLO and TLS are real, with the
    settings and the code that deliveries use. Exits with 0 if a message would be handed over now.
    """
    from deliveryagent.mail.address import AddressError, parse_mailbox, parse_sender

    config = invocation.config()
    try:
        mailbox = parse_mailbox(address)
        reverse = parse_sender(config.postmaster if sender is None else sender)
    except AddressError as error:
        raise CommandError(str(error), code=ExitStatus.USAGE) from None
    found = asyncio.run(_probe(config, mailbox.address, sender=reverse, rcpt=rcpt))
    screen = invocation.screen()
    if invocation.json:
        screen.record(msgspec.to_builtins(found))
    else:
        _show(screen, found)
    return ExitStatus.DONE if found.ready else ExitStatus.FAILED


async def _probe(config: "Config", address: str, *, sender: str, rcpt: bool) -> "Probe":
    from deliveryagent.agent.rehearsal import Rehearsal
    from deliveryagent.agent.worker_settings import WorkerSettings
    from deliveryagent.policy.routing import Router

    settings = WorkerSettings(
        hostname=config.hostname,
        dns=config.dns,
        loop=config.delivery,
        smtp=config.smtp,
        lmtp=config.lmtp,
        routes=tuple((route.smtp, route.lmtp) for route in config.route),
    )
    rng = random.Random()  # noqa: S311 - shuffles equal hosts, protects nothing
    rehearsal = Rehearsal(settings, Router(config.route, config.relay), rng=rng)
    try:
        return await rehearsal.probe(address, sender=sender, rcpt=rcpt)
    finally:
        await rehearsal.close()


def _show(screen: Screen, found: "Probe") -> None:
    rule = f"route {found.route + 1}" if found.route >= 0 else "no route matches"
    line(screen, "route", f"{found.next_hop} ({rule})")
    line(screen, "policy", f"TLS {found.tls_level} ({found.tls_reason})")
    for way in found.ways:
        if len(found.ways) > 1:
            line(screen, "hop", way.next_hop)
            if way.outcome is not None:
                line(screen, "", f"{_said(way.outcome)}; {way.verdict}")
        for text in _way(way):
            line(screen, *text)
    verdict = f"{found.verdict}."
    if found.ready and found.asked_recipient:
        verdict += " Nothing was sent; an accepted RCPT TO does not prove that the mailbox exists."
    elif found.ready:
        verdict += " Nothing was sent."
    screen.line(f"{'verdict':8}" + screen.paint(clean(verdict), "good" if found.ready else "bad"))


def _way(way: "Way") -> list[tuple[str, str]]:
    lines = []
    if way.site and way.site != way.next_hop:
        lines.append(("site", way.site))
    for host in way.hosts:
        name = "A/AAAA" if way.implicit_mx else f"mx {host.preference}"
        lines.append((name, f"{host.name}  {', '.join(host.addresses) or host.trouble}"))
    for probe in way.probes:
        lines += _probed(probe)
    return lines


def _probed(probe: "HostProbe") -> list[tuple[str, str]]:
    where = f"{probe.host}[{probe.ip}]:{probe.port}" if probe.ip else probe.host
    lines = []
    if probe.offers:
        shown = [offer for offer in probe.offers if offer.split(" ")[0] in _SHOWN_OFFERS]
        took = f"{(probe.connect + probe.setup) * 1000:.0f} ms"
        lines.append(("try", f"{where}  {took}  {probe.tls or 'in clear'}"))
        lines.append(("", f"offers {', '.join(shown) or 'no extension'}"))
    else:
        lines.append(("try", where))
    if probe.outcome is not None:
        lines.append(("", _said(probe.outcome)))
    if not probe.ready:
        lines.append(("", f"so {probe.verdict}"))
    return lines


def _said(outcome: "Said") -> str:
    from deliveryagent.protocol.diagnosis import asked, quoted

    said = quoted(outcome.code, outcome.enhanced, outcome.text)
    question = asked(outcome.stage) if outcome.code else outcome.stage
    return f"{question}: {said}" if question else said


def line(screen: Screen, name: str, text: str) -> None:
    """A fact under its name; the text may be a stranger's."""
    screen.line(f"{name:8}{clean(text)}")
