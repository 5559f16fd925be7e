"""Who is at the other end of the local socket, and what they may do.

The kernel says who connected (``SO_PEERCRED``, ``SO_PEERGROUPS``); nothing a caller says about
itself is believed. Guarantees: root and the service's own user may do everything; everybody
``[submit] allow`` names may send; only members of ``[submit] admin_group``, root and the service's
user may look at the queue and change it. Names are looked up again for every connection, so a
change of groups needs no restart. Never asks for a password, never reads the network.
"""

import grp
import os
import pwd
import socket
import struct
from dataclasses import dataclass, replace
from typing import Annotated

from deliveryagent.setting import key

_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid
_SO_PEERGROUPS = 59  # Linux 4.13; Python has no name for it
_MOST_OCTETS = 1024  # of an answer of the kernel, as far as Python's getsockopt goes: 256 groups
_GROUP = struct.Struct("I")


@dataclass(frozen=True, kw_only=True)
class SubmitSettings:
    """Who may use the local socket."""

    allow: Annotated[
        tuple[str, ...],
        key(
            'Who may send: names of users or groups, or "*" for every local user.',
            postfix="authorized_submit_users",
        ),
    ] = ("*",)
    admin_group: Annotated[
        str,
        key(
            "Members of this group may look at the queue and change it, as root and the service's "
            "own user always may. Empty: nobody else may.",
            postfix="authorized_mailq_users, authorized_flush_users",
        ),
    ] = "deliveryagent"


@dataclass(frozen=True, kw_only=True)
class Peer:
    """The process at the other end. ``user`` is empty when its user id has no name."""

    uid: int
    gid: int
    pid: int
    groups: frozenset[int]
    user: str
    admin: bool = False

    @property
    def origin(self) -> str:
        """How the queue remembers who handed a message over."""
        return f"uid={self.uid}"


def peer_of(connection: socket.socket) -> Peer:
    """Ask the kernel and the user database who connected; ``OSError`` when it is gone already."""
    pid, uid, gid = credentials_of(connection)
    user = user_name(uid)
    groups = _groups_of_process(connection, user, gid) | {gid}
    return Peer(uid=uid, gid=gid, pid=pid, groups=groups, user=user)


def credentials_of(connection: socket.socket) -> tuple[int, int, int]:
    """Process, user and group id of who connected, as the kernel has them; ``OSError`` as above."""
    packed = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, gid = _CREDENTIALS.unpack(packed)
    return pid, uid, gid


def own_peer() -> Peer:
    """This process, as it would appear to a service it connects to."""
    uid, gid = os.geteuid(), os.getegid()
    return Peer(
        uid=uid,
        gid=gid,
        pid=os.getpid(),
        groups=frozenset({gid, *os.getgroups()}),
        user=user_name(uid),
        admin=True,
    )


def user_name(uid: int) -> str:
    """The name of a user id, or nothing."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return ""


@dataclass(frozen=True, kw_only=True)
class Admission:
    """The rules of ``[submit]``, for a service that runs as ``service_uid``."""

    settings: SubmitSettings
    service_uid: int

    def may_send(self, peer: Peer) -> bool:
        """Whether this peer may hand over mail."""
        allowed = self.settings.allow
        if "*" in allowed or self._trusted(peer) or peer.user in allowed:
            return True
        return any(_in_group(peer, name) for name in allowed)

    def may_administer(self, peer: Peer) -> bool:
        """Whether this peer may look at the queue and change it."""
        return self._trusted(peer) or _in_group(peer, self.settings.admin_group)

    def with_rights(self, peer: Peer) -> Peer:
        """The same peer with ``admin`` as the rules say."""
        return replace(peer, admin=self.may_administer(peer))

    def _trusted(self, peer: Peer) -> bool:
        return peer.uid in (0, self.service_uid)


def _in_group(peer: Peer, name: str) -> bool:
    """Whether the process has the group, or its user is listed as a member."""
    if not name:
        return False
    try:
        group = grp.getgrnam(name)
    except KeyError:
        return False
    return group.gr_gid in peer.groups or (bool(peer.user) and peer.user in group.gr_mem)


def _groups_of_process(connection: socket.socket, user: str, gid: int) -> frozenset[int]:
    try:
        packed = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _MOST_OCTETS)
    except OSError:  # more groups than fit, or an older kernel: what the user database says
        return frozenset(os.getgrouplist(user, gid)) if user else frozenset({gid})
    return frozenset(gid for (gid,) in _GROUP.iter_unpack(packed))
