"""How much TLS a delivery demands, and what follows when it cannot be had.

Guarantees: at ``encrypt`` nothing is ever sent in clear. At ``may`` a broken handshake leads to clear text
only after the message has waited a backoff, so that a passing fault, or somebody who resets connections, does
not strip the first attempt of its encryption; and never after a final dot. RFC 3207 4.1, RFC 7435.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from deliveryagent.mail.delivery import Stage, Trouble
from deliveryagent.mail.security import TlsDemand, TlsLevel
from deliveryagent.setting import key


@dataclass(frozen=True, kw_only=True)
class TlsSettings:
    """Encryption towards receiving hosts."""

    tls_security_level: Annotated[
        Literal["", "none", "may", "encrypt"],
        key(
            'How much TLS is demanded: "none", "may" (when offered), "encrypt" (always); empty chooses "may" '
            'for SMTP and "none" for LMTP over a Unix socket.',
            postfix="smtp_tls_security_level",
        ),
    ] = ""


def demand(settings: TlsSettings, *, unix: bool = False) -> TlsDemand:
    """The level for a delivery; ``unix`` when the next hop is a Unix socket."""
    configured = settings.tls_security_level
    if unix and configured in ("", TlsLevel.MAY):
        return TlsDemand(TlsLevel.NONE, "a Unix socket needs no encryption")
    if not configured:
        return TlsDemand(TlsLevel.MAY, "default")
    return TlsDemand(TlsLevel(configured), f'tls_security_level = "{configured}"')


def goes_on_in_clear(demanded: TlsDemand) -> bool:
    """Whether a session goes on without TLS when STARTTLS is not offered, or refused in a reply."""
    return not demanded.required


def redials_in_clear(
    demanded: TlsDemand,
    *,
    stage: Stage,
    trouble: Trouble,
    undecided: int,
    age: float,
    minimal_backoff: float,
) -> bool:
    """Whether the same address is dialled again without TLS after a session broke.

    ``stage`` is where a session that used or began TLS broke, ``undecided`` how many recipients have no
    outcome yet, ``age`` how long the message had been in the queue when this attempt began, in seconds.
    """
    if demanded.level is not TlsLevel.MAY or not undecided or age < minimal_backoff:
        return False
    if stage in (Stage.CONNECT, Stage.GREETING, Stage.DOT, Stage.QUIT):
        return False
    return trouble in (Trouble.TLS_FAILED, Trouble.LOST, Trouble.TIMEOUT)
