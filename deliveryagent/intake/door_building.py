"""From the settings of a listener to the door its sessions share.

The same for a listener process and for a program that receives mail itself: each setting has its one place
here. Never opens anything.
"""

import secrets
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from deliveryagent.intake.accounts import Accounts
from deliveryagent.intake.door import Done, Door, Limits, no_check
from deliveryagent.intake.guard import ListenerGuard
from deliveryagent.intake.hooks import Hooks
from deliveryagent.intake.listener_settings import ListenerSettings
from deliveryagent.intake.logins import ListenerLogins
from deliveryagent.intake.networks import Networks
from deliveryagent.intake.spool import Spool
from deliveryagent.mail.verdict import Refusal
from deliveryagent.policy.guessing import Guesses, GuessLimits
from deliveryagent.protocol.session import Session
from deliveryagent.protocol.smtpd_steps import HeloChecks, Terms


def build_door(
    settings: ListenerSettings,
    *,
    hostname: str,
    size_limit: int,
    hooks: Hooks,
    accounts: Accounts | None,
    tls: ssl.SSLContext | None,
    keep: Callable[[Session, Spool, Done], None],
    tell: Callable[[str, Mapping[str, Any]], None],
    trouble: Callable[[Exception], None],
    sender: Callable[[str], Refusal | Awaitable[Refusal | None] | None] = no_check,
) -> Door:
    """The door; raises ``ValueError`` for networks that are none. The parameters are those of ``Door``."""
    logins = ListenerLogins(
        accounts,
        hooks,
        Guesses(GuessLimits(sleep=settings.auth_error_sleep)),
        clock=time.monotonic,
        secret=secrets.token_bytes(32),
        tell=tell,
    )
    by_hook = "auth" in hooks.asked
    return Door(
        terms=conversation_terms(settings, hostname, size_limit, by_hook=by_hook),
        limits=session_limits(settings),
        guard=ListenerGuard(Networks(settings.trusted_networks), accounts),
        keep=keep,
        clock=time.time,
        nonce=lambda: secrets.token_urlsafe(24),
        listener=settings.address,
        logins=logins,
        sender=sender,
        ask=hooks.ask,
        asked=hooks.asked,
        admits=hooks.admits,
        tls=tls,
        tls_only=settings.tls_only,
        proxies=Networks(settings.proxy_networks),
        speakers=Networks(settings.xclient_networks),
        tell=tell,
        trouble=trouble,
    )


def conversation_terms(
    settings: ListenerSettings, hostname: str, size_limit: int, *, by_hook: bool
) -> Terms:
    """What the conversation goes by. ``by_hook``: some hook knows who may log in."""
    return Terms(
        kind=settings.kind,
        hostname=hostname,
        banner=settings.banner,
        own_names=frozenset({hostname.lower()}),
        tls=bool(settings.tls_certificate),
        require_tls=settings.require_tls,
        require_auth=settings.require_auth,
        mechanisms=settings.auth_mechanisms if settings.users or by_hook else (),
        auth_without_tls=settings.auth_without_tls,
        size_limit=size_limit,
        line_limit=settings.line_length_limit,
        normalise=settings.bare_newline == "normalise",
        recipient_limit=settings.recipient_limit,
        soft_error_limit=settings.soft_error_limit,
        hard_error_limit=settings.hard_error_limit,
        error_sleep=settings.error_sleep_time,
        command_limit=settings.command_limit,
        auth_error_limit=settings.auth_error_limit,
        check_sender_domain=settings.check_sender_domain,
        helo_checks=HeloChecks(
            own=settings.refuse_own_helo,
            reserved=settings.refuse_reserved_helo,
            bare=settings.refuse_bare_helo,
        ),
        hold_limit=settings.future_release_limit,
        priority_limit=settings.priority_limit,
    )


def session_limits(settings: ListenerSettings) -> Limits:
    """What sessions may cost, from the settings of a listener."""
    return Limits(
        connections=settings.connection_limit,
        per_address=settings.connection_limit_per_address,
        timeout=settings.timeout,
        session_timeout=settings.session_timeout,
        data_rate=settings.minimum_data_rate,
    )
