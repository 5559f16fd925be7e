"""Transport security as values: what a delivery demands of TLS, and what a session turned out to have.

Guarantees: levels are ordered from ``none`` upward by ``TlsDemand.required`` and ``TlsDemand.wanted`` only;
nothing here reads certificates or decides (see ``policy.tls`` and ``wire.contexts``).
"""

from enum import StrEnum

import msgspec


class TlsLevel(StrEnum):
    """How much TLS a delivery asks for; the words of Postfix's ``smtp_tls_security_level``."""

    NONE = "none"  # never
    MAY = "may"  # when the peer offers it, without asking who the peer is (RFC 7435)
    ENCRYPT = "encrypt"  # always, without asking who the peer is


class TlsDemand(msgspec.Struct, frozen=True):
    """The level that applies to a delivery, and where it comes from, in words for ``why`` and ``probe``."""

    level: TlsLevel
    provenance: str = ""

    @property
    def wanted(self) -> bool:
        """Whether STARTTLS is used when offered."""
        return self.level is not TlsLevel.NONE

    @property
    def required(self) -> bool:
        """Whether nothing may be sent in clear."""
        return self.level is TlsLevel.ENCRYPT


class TlsFacts(msgspec.Struct, frozen=True):
    """What a handshake agreed on.

    ``bits`` is the strength of the cipher. ``verified`` is set when the peer proved one of the names that
    were demanded. ``peer_names`` are those its certificate carries, as far as they are known.
    """

    protocol: str
    cipher: str
    bits: int = 0
    verified: bool = False
    peer_names: tuple[str, ...] = ()

    def summary(self) -> str:
        """One line for logs and history.

        >>> TlsFacts("TLSv1.3", "TLS_AES_256_GCM_SHA384", 256).summary()
        'TLSv1.3 TLS_AES_256_GCM_SHA384 untrusted'
        """
        return f"{self.protocol} {self.cipher} {'verified' if self.verified else 'untrusted'}"
