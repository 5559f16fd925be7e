"""From the settings of a listener to what its conversations and sessions go by.

Never decides anything: each setting has its one place here.
"""

from deliveryagent.intake.door import Limits
from deliveryagent.intake.listener_settings import ListenerSettings
from deliveryagent.protocol.smtpd_steps import HeloChecks, Terms


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
