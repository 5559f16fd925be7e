"""Who may relay, who may send as whom, and which senders exist: the checks of a listener that ask nobody but
the configuration, the users file and the DNS.

Guarantees: nobody is trusted whom the configuration does not name, but for whom a Unix socket let in; a name
server that does not answer refuses for now, never for good (RFC 5321 3.6.2; Postfix
``reject_unknown_sender_domain``). Never decides by what a client says of itself.
"""

from collections.abc import Awaitable

from deliveryagent.intake.accounts import Accounts, LoginUnavailable
from deliveryagent.intake.networks import Networks
from deliveryagent.mail.address import destination_of
from deliveryagent.mail.delivery import Failure, Trouble
from deliveryagent.mail.nexthop import MailHosts, NextHop
from deliveryagent.mail.verdict import Refusal, Reject, Tempfail
from deliveryagent.protocol.esmtp import CommandError
from deliveryagent.protocol.session import Client
from deliveryagent.resolver.lookup import Resolver

_NO_MAIL = Reject(code=550, enhanced="5.7.27", text="The sender's domain takes no mail")
_UNKNOWN = Reject(code=550, enhanced="5.1.8", text="The sender's domain does not exist")
_LATER = Tempfail(code=450, enhanced="4.1.8", text="The sender's domain cannot be looked up now")
_NOBODY = frozenset({Trouble.HOST_NOT_FOUND, Trouble.DNS_INVALID})


class ListenerGuard:
    """The :class:`~deliveryagent.protocol.smtpd_steps.Guard` of a listener."""

    def __init__(self, trusted: Networks, accounts: Accounts | None) -> None:
        self._trusted = trusted
        self._accounts = accounts

    def trusts(self, client: Client) -> bool:
        """Whether this client may relay without a login."""
        if client.uid >= 0 and not client.proxied:
            return True
        return self._trusted.hold(client.address)

    def may_send_as(self, user: str, sender: str) -> bool:
        """Whether this user of the users file may use this sender."""
        if self._accounts is None:
            return True
        try:
            return self._accounts.may_send_as(user, sender)
        except LoginUnavailable:
            raise CommandError(451, "4.3.0", "Accounts cannot be looked up now") from None


class SenderDomains:
    """Whether the domain of a sender has mail hosts or an address."""

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver

    def __call__(self, address: str) -> Refusal | Awaitable[Refusal | None] | None:
        """None if it has, now or when the name servers have answered."""
        domain = destination_of(address)
        if domain.startswith("["):
            return None
        hop = NextHop("smtp", domain)
        known = self._resolver.known(hop)
        return self._ask(hop) if known is None else _judge(known)

    async def _ask(self, hop: NextHop) -> Refusal | None:
        return _judge(await self._resolver.next_hop(hop))


def _judge(found: MailHosts | Failure) -> Refusal | None:
    if isinstance(found, MailHosts):
        return None
    if found.trouble is Trouble.NULL_MX:
        return _NO_MAIL
    if found.trouble in _NOBODY and not found.enhanced.startswith("4"):
        return _UNKNOWN
    return _LATER
