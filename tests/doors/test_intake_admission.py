"""Who is who, and who may do what."""

import grp
import os
import pwd
import socket
from types import SimpleNamespace
from typing import Any

import pytest

from deliveryagent.intake import admission
from deliveryagent.intake.admission import (
    Admission,
    Peer,
    SubmitSettings,
    own_peer,
    peer_of,
    user_name,
)

GROUPS = {
    "users": SimpleNamespace(gr_gid=100, gr_mem=["berta"]),
    "mailadmin": SimpleNamespace(gr_gid=200, gr_mem=["anna"]),
}


@pytest.fixture(autouse=True)
def _groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grp, "getgrnam", GROUPS.__getitem__)


def peer(**facts: Any) -> Peer:
    values = {"uid": 1000, "gid": 1000, "pid": 1, "groups": frozenset({1000}), "user": "carla"}
    return Peer(**{**values, **facts})


def rules(*allow: str, admin_group: str = "mailadmin") -> Admission:
    settings = SubmitSettings(allow=allow or ("*",), admin_group=admin_group)
    return Admission(settings=settings, service_uid=900)


def test_by_default_everybody_may_send_and_nobody_else_may_give_orders() -> None:
    default = Admission(settings=SubmitSettings(), service_uid=900)
    assert default.may_send(peer())
    assert not default.may_administer(peer())


@pytest.mark.parametrize(
    ("who", "may"),
    [
        (peer(user="anna"), True),
        (peer(user="berta"), True),  # listed in the group
        (peer(groups=frozenset({1000, 100})), True),  # the process has the group
        (peer(), False),
        (peer(user=""), False),
        (peer(uid=0, user="root"), True),
        (peer(uid=900), True),
    ],
)
def test_allow_names_users_and_groups(who: Peer, *, may: bool) -> None:
    assert rules("anna", "users", "nosuchgroup").may_send(who) is may


@pytest.mark.parametrize(
    ("who", "may"),
    [
        (peer(user="anna"), True),
        (peer(groups=frozenset({200})), True),
        (peer(uid=0), True),
        (peer(uid=900), True),
        (peer(), False),
        (peer(user="mailadmin"), False),
    ],
)
def test_orders_are_for_the_group_root_and_the_service(who: Peer, *, may: bool) -> None:
    assert rules().may_administer(who) is may
    assert rules().with_rights(who).admin is may


def test_without_a_group_only_root_and_the_service_give_orders() -> None:
    assert not rules(admin_group="").may_administer(peer(user="anna"))
    assert not rules(admin_group="nosuchgroup").may_administer(peer(user="anna"))


def test_the_kernel_says_who_connected() -> None:
    one, two = socket.socketpair(socket.AF_UNIX)
    with one, two:
        found = peer_of(one)
    me = own_peer()
    assert (found.uid, found.gid, found.pid, found.user) == (me.uid, me.gid, me.pid, me.user)
    assert found.groups == me.groups
    assert not found.admin
    assert found.origin == f"uid={os.geteuid()}"


def test_an_old_kernel_leaves_the_user_database(monkeypatch: pytest.MonkeyPatch) -> None:
    class Old:
        def getsockopt(self, _level: int, option: int, size: int) -> bytes:
            if option == socket.SO_PEERCRED:
                return (1).to_bytes(4, "little") + (54321).to_bytes(4, "little") * 2
            raise OSError(size)

    old: Any = Old()
    nameless = peer_of(old)
    assert nameless.user == ""
    assert nameless.groups == {54321}
    monkeypatch.setattr(admission, "user_name", lambda _: "anna")
    monkeypatch.setattr(os, "getgrouplist", lambda user, gid: [gid, 7])
    assert peer_of(old).groups == {54321, 7}


def test_a_user_id_without_a_name_has_none() -> None:
    assert user_name(os.geteuid()) == pwd.getpwuid(os.geteuid()).pw_name
    assert user_name(3_999_999_999) == ""
