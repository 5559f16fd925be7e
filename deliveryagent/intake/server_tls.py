"""TLS at the door: the context a listener has, and what came of a handshake.

Guarantees: TLS 1.2 at least, no compression, no renegotiation; a context, and so a session ticket, belongs to
one listener; the certificate is the one whose names cover what the client asks for (SNI), else the first. A
certificate or key that cannot be used raises ``OSError`` or ``ValueError`` with the file's name. Never
verifies clients.
"""

import ssl
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from weakref import WeakKeyDictionary

from deliveryagent.intake.listener_settings import ServerTlsSettings
from deliveryagent.protocol.session import TlsFacts

_asked: "WeakKeyDictionary[ssl.SSLObject, str]" = WeakKeyDictionary()


def server_context(settings: ServerTlsSettings, passphrase: str = "") -> ssl.SSLContext | None:
    """The context, None without a certificate."""
    if not settings.tls_certificate:
        return None
    if settings.tls_key and len(settings.tls_key) != len(settings.tls_certificate):
        raise ValueError("tls_key names another number of files than tls_certificate")
    pairs = list(zip_longest(settings.tls_certificate, settings.tls_key, fillvalue=""))
    contexts = [_context(settings, chain, key, passphrase) for chain, key in pairs]
    if len(contexts) > 1:
        _choose_by_name(contexts, [names_of(chain) for chain, _ in pairs])
    else:
        contexts[0].sni_callback = _remember
    return contexts[0]


def _context(settings: ServerTlsSettings, chain: str, key: str, passphrase: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    oldest = settings.tls_protocols.replace(".", "_")
    context.minimum_version = ssl.TLSVersion[oldest]
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    try:
        if settings.tls_ciphers:
            context.set_ciphers(settings.tls_ciphers)
        # Without a passphrase OpenSSL would ask for one on the terminal.
        context.load_cert_chain(chain, key or None, password=lambda: passphrase or "-")
    except ssl.SSLError as error:
        reason = (error.reason or str(error)).lower().replace("_", " ")
        raise ValueError(f"{chain}: the certificate or its key cannot be used: {reason}") from None
    except OSError as error:
        raise ValueError(f"{chain}{f' or {key}' if key else ''}: {error.strerror}") from None
    return context


def names_of(path: str) -> list[str]:
    """The host names a certificate is for, in lower case; raises ``ValueError``."""
    from cryptography import x509  # noqa: PLC0415 - large, and most listeners have one certificate

    try:
        certificate = x509.load_pem_x509_certificates(Path(path).read_bytes())[0]
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return []
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None
    return [name.lower() for name in found.value.get_values_for_type(x509.DNSName)]


def _remember(connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
    del context
    _asked[connection] = name or ""


def _choose_by_name(contexts: Sequence[ssl.SSLContext], names: Sequence[Sequence[str]]) -> None:
    by_name = {
        name: context
        for context, own in reversed(list(zip(contexts, names, strict=True)))
        for name in own
    }

    def choose(connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        _remember(connection, name, context)
        asked = (name or "").lower()
        chosen = by_name.get(asked) or by_name.get("*." + asked.partition(".")[2])
        if chosen is not None:
            connection.context = chosen

    contexts[0].sni_callback = choose


def facts_of(connection: ssl.SSLObject) -> TlsFacts:
    """What protects a connection."""
    cipher, _, bits = connection.cipher() or ("", "", 0)
    asked = _asked.get(connection, "")
    return TlsFacts(version=connection.version() or "", cipher=cipher, bits=bits, server_name=asked)
