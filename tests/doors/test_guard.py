"""Who may relay, who may send as whom, which senders exist."""

import asyncio
from collections.abc import Awaitable
from pathlib import Path

import pytest

from deliveryagent.intake import passwords, users_file
from deliveryagent.intake.accounts import Accounts
from deliveryagent.intake.guard import ListenerGuard, SenderDomains
from deliveryagent.intake.networks import Networks
from deliveryagent.intake.users_file import Account
from deliveryagent.mail.delivery import Failure, Trouble
from deliveryagent.mail.nexthop import MailHosts, NextHop
from deliveryagent.mail.verdict import Refusal
from deliveryagent.protocol import scram
from deliveryagent.protocol.esmtp import CommandError
from deliveryagent.protocol.session import Client

HOSTS = MailHosts(hosts=())


class Names:
    """What a resolver says, by domain; ``known`` what it says at once."""

    def __init__(self, answers: dict[str, MailHosts | Failure], known: bool) -> None:
        self.answers = answers
        self.at_once = known

    def known(self, hop: NextHop) -> MailHosts | Failure | None:
        return self.answers[hop.host] if self.at_once else None

    async def next_hop(self, hop: NextHop) -> MailHosts | Failure:
        await asyncio.sleep(0)
        return self.answers[hop.host]


def judged(found: MailHosts | Failure, address: str = "a@b.dev", *, known: bool = False) -> str:
    domains = SenderDomains(Names({"b.dev": found}, known))  # type: ignore[arg-type] # a resolver's half

    async def main() -> Refusal | None:
        answer = domains(address)
        return await answer if isinstance(answer, Awaitable) else answer

    refusal = asyncio.run(main())
    return f"{refusal.code} {refusal.enhanced}" if refusal else ""


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize(
    ("found", "status"),
    [
        (HOSTS, ""),
        (Failure(Trouble.HOST_NOT_FOUND, "no such domain"), "550 5.1.8"),
        (Failure(Trouble.NULL_MX, "takes no mail"), "550 5.7.27"),
        (Failure(Trouble.HOST_NOT_FOUND, "not now", "4.4.3"), "450 4.1.8"),
        (Failure(Trouble.DNS_TEMPORARY, "no answer"), "450 4.1.8"),
    ],
)
def test_a_sender_domain_must_be_there(
    found: MailHosts | Failure, status: str, known: bool
) -> None:
    assert judged(found, known=known) == status


def test_an_address_literal_needs_no_lookup() -> None:
    assert judged(Failure(Trouble.HOST_NOT_FOUND, "x"), "a@[192.0.2.1]") == ""


def test_only_who_is_named_is_trusted() -> None:
    guard = ListenerGuard(Networks(["10.0.0.0/8"]), None)
    assert guard.trusts(Client(address="10.1.2.3"))
    assert guard.trusts(Client(uid=1000)), "the mode of the socket let them in"
    for stranger in (
        Client(address="192.0.2.7"),
        Client(),
        Client(address="", proxied=True),
        Client(uid=1000, address="192.0.2.7", proxied=True),
    ):
        assert not guard.trusts(stranger)


def test_users_have_addresses_and_when_nobody_can_tell_it_is_for_later(tmp_path: Path) -> None:
    path = tmp_path / "users"
    with users_file.editing(path) as users:
        users.put(
            Account(
                name="kim",
                password=passwords.hashed("pencil", log_n=4),
                scram=scram.derive("pencil", b"0123456789abcdef", 100),
                senders=("kim@b.dev",),
            )
        )
    accounts = Accounts(path)
    guard = ListenerGuard(Networks([]), accounts)
    assert guard.may_send_as("kim", "kim@b.dev")
    assert guard.may_send_as("kim", "")
    assert not guard.may_send_as("kim", "boss@b.dev")
    assert not guard.may_send_as("nobody", "kim@b.dev")
    path.unlink()
    with pytest.raises(CommandError) as caught:
        guard.may_send_as("kim", "kim@b.dev")
    assert (caught.value.code, caught.value.enhanced) == (451, "4.3.0")
    accounts.close()
    assert ListenerGuard(Networks([]), None).may_send_as("anybody", "x@y.dev")
