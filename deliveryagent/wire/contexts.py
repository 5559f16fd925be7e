"""TLS contexts, one per kind of demand, made once: making one costs a hundred times a handshake's share.

Guarantees: TLS 1.2 at least, no compression, no renegotiation. ``may`` and ``encrypt`` do not ask who the
peer is (RFC 7435): an unknown certificate is still better than none. Never falls back to clear by itself.
"""

import ssl
from functools import lru_cache

from deliveryagent.mail.security import TlsLevel


@lru_cache(maxsize=16)
def client_context(level: TlsLevel) -> ssl.SSLContext:
    """The context for a delivery that demands this level, which must not be NONE."""
    if level is TlsLevel.NONE:
        raise ValueError("no TLS context for a delivery in clear")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    if level is TlsLevel.MAY:
        # Where clear text is the alternative, a short key or an old server's handshake is the lesser evil.
        context.set_ciphers("DEFAULT:@SECLEVEL=0")
        context.options |= _LEGACY_SERVER_CONNECT
    return context


_LEGACY_SERVER_CONNECT = (
    0x4  # SSL_OP_LEGACY_SERVER_CONNECT; named in the ssl module from Python 3.12
)
