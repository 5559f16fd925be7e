"""Passwords, as they are kept: scrypt hashes that say themselves how dear they are.

Guarantees: reading what :attr:`PasswordHash.text` wrote gives an equal hash; a text asks for no more memory
than ``_MOST_MEMORY``; comparing takes the same time whatever differs. Never keeps a password. RFC 7914.
"""

import hashlib
import hmac
import re
import secrets

import msgspec

from deliveryagent.protocol import scram
from deliveryagent.protocol.saslprep import prepare

LOG_N = 14
"""Cost of a new hash, as a power of two: 16 MiB, and some hundredths of a second."""

BLOCKS = 8
"""scrypt's r."""

LANES = 1
"""scrypt's p."""

_MOST_MEMORY = 256 << 20
_MOST_LANES = 16
_OCTETS = 32
_TEXT = re.compile(r"\$scrypt\$ln=(\d{1,2}),r=(\d{1,2}),p=(\d{1,2})\$([^$]+)\$([^$]+)")


class PasswordHash(msgspec.Struct, frozen=True):
    """What is kept of one password. The first three are scrypt's log2 N, r and p."""

    log_n: int
    blocks: int
    lanes: int
    salt: bytes
    digest: bytes

    @property
    def text(self) -> str:
        """One word of ASCII, as the PHC string format has it, with padding."""
        cost = f"ln={self.log_n},r={self.blocks},p={self.lanes}"
        return f"$scrypt${cost}${scram.encode(self.salt)}${scram.encode(self.digest)}"

    def fits(self, password: str) -> bool:
        """Whether it is the hash of this prepared password; takes its time, and other threads may run."""
        digest = _digest(password, self.salt, self.log_n, self.blocks, self.lanes)
        return hmac.compare_digest(digest, self.digest)

    def like(self, salt: bytes, digest: bytes) -> "PasswordHash":
        """Another one that is as dear to check."""
        return PasswordHash(self.log_n, self.blocks, self.lanes, salt, digest)

    def __repr__(self) -> str:
        return f"PasswordHash(log_n={self.log_n}, blocks={self.blocks}, lanes={self.lanes})"


def hashed(password: str, *, log_n: int = LOG_N) -> PasswordHash:
    """The hash of a new password. Raises ``PreparationError``."""
    salt = secrets.token_bytes(scram.SALT_OCTETS)
    digest = _digest(prepare(password, stored=True), salt, log_n, BLOCKS, LANES)
    return PasswordHash(log_n, BLOCKS, LANES, salt, digest)


def read(text: str) -> PasswordHash:
    """The hash that was written as ``text``. Raises ``ValueError``."""
    found = _TEXT.fullmatch(text)
    if found is None:
        raise ValueError("not a scrypt hash")
    log_n, blocks, lanes = (int(part) for part in found.groups()[:3])
    salt, digest = scram.decode(found[4]), scram.decode(found[5])
    cheap = 128 * blocks << log_n <= _MOST_MEMORY and lanes <= _MOST_LANES
    if not (cheap and min(log_n, blocks, lanes) >= 1 and len(digest) == _OCTETS):
        raise ValueError("a scrypt hash out of bounds")
    return PasswordHash(log_n, blocks, lanes, salt, digest)


def _digest(password: str, salt: bytes, log_n: int, blocks: int, lanes: int) -> bytes:
    return hashlib.scrypt(
        password.encode(),
        salt=salt,
        n=1 << log_n,
        r=blocks,
        p=lanes,
        maxmem=(128 * blocks << log_n) + (1 << 20) * lanes,
        dklen=_OCTETS,
    )
