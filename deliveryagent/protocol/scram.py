"""What a server keeps of a password for SCRAM-SHA-256, and the sums that are done with it.

Who reads a verifier cannot log in with it, but can try passwords out, each at the price of ``iterations``
rounds. Guarantees: reading what :attr:`ScramVerifier.text` wrote gives an equal verifier; comparisons take
the same time whatever differs. RFC 5802, RFC 7677; the text is that of RFC 5803.
"""

import base64
import binascii
import hashlib
import hmac
import re

import msgspec

from deliveryagent.protocol.saslprep import prepare

ITERATIONS = 15_000
"""Rounds for a new password (RFC 7677 4); the client does them at each login, the server does not."""

SALT_OCTETS = 16
"""Length of a salt."""

_KEY_OCTETS = 32
_MOST_ITERATIONS = 10_000_000
_TEXT = re.compile(r"SCRAM-SHA-256\$(\d{1,8}):([^$:]+)\$([^$:]+):([^$:]+)")


class ScramVerifier(msgspec.Struct, frozen=True):
    """What is kept of one password."""

    iterations: int
    salt: bytes
    stored_key: bytes
    server_key: bytes

    @property
    def text(self) -> str:
        """One word of ASCII, as RFC 5803 and PostgreSQL write it."""
        salt, stored, server = map(encode, (self.salt, self.stored_key, self.server_key))
        return f"SCRAM-SHA-256${self.iterations}:{salt}${stored}:{server}"

    def proves(self, proof: bytes, exchanged: bytes) -> bool:
        """Whether a client that said ``exchanged`` (the AuthMessage) knows the password."""
        if len(proof) != _KEY_OCTETS:
            return False
        signature = _hmac(self.stored_key, exchanged)
        client_key = bytes(a ^ b for a, b in zip(proof, signature, strict=True))
        return hmac.compare_digest(hashlib.sha256(client_key).digest(), self.stored_key)

    def signature(self, exchanged: bytes) -> bytes:
        """The server's own proof, by which a client knows that it knew the password."""
        return _hmac(self.server_key, exchanged)

    def __repr__(self) -> str:
        return f"ScramVerifier(iterations={self.iterations})"


def read(text: str) -> ScramVerifier:
    """The verifier that was written as ``text``. Raises ``ValueError``."""
    found = _TEXT.fullmatch(text)
    if found is None:
        raise ValueError("not a SCRAM-SHA-256 verifier")
    salt, stored, server = (decode(part) for part in found.groups()[1:])
    iterations = int(found[1])
    if not 1 <= iterations <= _MOST_ITERATIONS or {len(stored), len(server)} != {_KEY_OCTETS}:
        raise ValueError("not a SCRAM-SHA-256 verifier")
    return ScramVerifier(iterations, salt, stored, server)


def derive(password: str, salt: bytes, iterations: int = ITERATIONS) -> ScramVerifier:
    """The verifier of a password. Raises ``PreparationError``."""
    octets = prepare(password).encode()
    salted = hashlib.pbkdf2_hmac("sha256", octets, salt, iterations)
    stored = hashlib.sha256(_hmac(salted, b"Client Key")).digest()
    return ScramVerifier(iterations, salt, stored, _hmac(salted, b"Server Key"))


def made_up(user: str, secret: bytes, iterations: int = ITERATIONS) -> ScramVerifier:
    """A verifier for somebody who does not exist, the same every time for the same ``secret``.

    No password fits it, and without the secret nobody can tell it from a real one (RFC 5802 9).
    """
    salt, stored, server = (
        _hmac(secret, word + user.encode("utf-8", "surrogatepass"))
        for word in (b"salt\0", b"stored\0", b"server\0")
    )
    return ScramVerifier(iterations, salt[:SALT_OCTETS], stored, server)


def encode(octets: bytes) -> str:
    """Base64, as everywhere in SASL."""
    return base64.b64encode(octets).decode()


def decode(text: str) -> bytes:
    """Base64, read strictly. Raises ``ValueError``."""
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from None


def _hmac(key: bytes, octets: bytes) -> bytes:
    return hmac.digest(key, octets, "sha256")
