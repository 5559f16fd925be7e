"""Logging in, seen from the server: the mechanisms of SASL as generators that know nobody.

:func:`begin` starts one. It yields steps, receives an answer for each, and returns how it ended.

==================  ==============================================  =====================================
step                the one who plays it                            sends back
==================  ==============================================  =====================================
``Challenge``       sends ``334`` and ``data`` in base64            the client's response, decoded
``CheckPassword``   compares                                        who that is, or None
``CheckToken``      asks whoever gave the token out                 who that is, or None
``CramSecret``      looks up                                        the secret, or None
``ScramKeys``       looks up                                        a ``ScramVerifier``, made up
                                                                    (``scram.made_up``) for a stranger
==================  ==============================================  =====================================

A client that cancels (``*``) or sends what is no base64 is the player's matter, who closes the generator then.

Guarantees: whatever octets come, it ends in a :class:`Login` or a :class:`Failure`; a stranger takes the same
steps as somebody with a wrong password, and reads the same words; nobody logs in as another than the one
whose password it was. Offers no channel binding. Never keeps, never shows a password. RFC 4422, RFC 4954;
PLAIN RFC 4616, CRAM-MD5 RFC 2195, SCRAM-SHA-256 RFC 5802 and 7677, OAUTHBEARER RFC 7628; LOGIN and XOAUTH2
as their inventors' clients speak them.
"""

import hmac
import re
from collections.abc import Callable, Generator

import msgspec

from deliveryagent.protocol import scram
from deliveryagent.protocol.saslprep import PreparationError, prepare
from deliveryagent.protocol.scram import ScramVerifier

NAME_OCTETS = 255
"""Longest user name (RFC 4616 2)."""

PASSWORD_OCTETS = 1024
"""Longest password: what is longer is not worth hashing."""

_TOKEN_OCTETS = 8192
_BEARER = re.compile(r"bearer ([!-~]+)", re.IGNORECASE)
_DIGEST = re.compile(rb"[0-9a-fA-F]{32}")
_SASLNAME = re.compile(r"(?:[^,=\0]|=2C|=3D)+")
_ATTRIBUTE = re.compile(r"[A-Za-z]=[^,\0]*")
_PRINTABLE = re.compile(r"[!-+\--~]+")  # all but the comma


class Challenge(msgspec.Struct, frozen=True):
    """Say this to the client."""

    data: bytes


class CheckPassword(msgspec.Struct, frozen=True):
    """Is this ``user``'s password? Both are prepared (``saslprep``)."""

    user: str
    password: str

    def __repr__(self) -> str:
        return f"CheckPassword(user={self.user!r})"


class CheckToken(msgspec.Struct, frozen=True):
    """May who shows this token be ``user``? ``user`` may be empty: the token says it (RFC 7628 3.1)."""

    user: str
    token: str

    def __repr__(self) -> str:
        return f"CheckToken(user={self.user!r})"


class CramSecret(msgspec.Struct, frozen=True):
    """What secret does ``user`` share with us?"""

    user: str


class ScramKeys(msgspec.Struct, frozen=True):
    """What is kept of ``user``'s password?"""

    user: str


class Login(msgspec.Struct, frozen=True):
    """The client has shown that it is ``user``."""

    user: str


class Failure(msgspec.Struct, frozen=True):
    """It has not: the reply to give. 535: it tried and was wrong, 501: it spoke nonsense."""

    code: int = 535
    enhanced: str = "5.7.8"
    text: str = "Authentication failed"


Question = CheckPassword | CheckToken | CramSecret | ScramKeys
Step = Challenge | Question
Answer = bytes | str | ScramVerifier | None
End = Login | Failure
Exchange = Generator[Step, Answer, End]


class _MalformedError(Exception):
    """The message of the client is not what the mechanism has there."""


class _WrongError(Exception):
    """The client is not who it says."""


def begin(mechanism: str, initial: bytes | None, *, nonce: str, hostname: str = "") -> Exchange:
    """Start a mechanism by its registered name, which must be one of :data:`MECHANISMS`.

    ``initial`` is the decoded initial response, None when the client gave none (``=`` is an empty one).
    ``nonce`` is for this exchange only and cannot be guessed: at least 18 random octets in base64, or any
    other printable ASCII without a comma. ``hostname`` is what we call ourselves.
    """
    try:
        return (yield from _MECHANISMS[mechanism](initial, nonce, hostname))
    except _MalformedError as error:
        return Failure(501, "5.5.2", str(error))
    except (_WrongError, PreparationError):
        return Failure()


def _response(challenge: bytes) -> Generator[Step, Answer, bytes]:
    answer = yield Challenge(challenge)
    return answer if isinstance(answer, bytes) else b""


def _whoever(question: Question) -> Generator[Step, Answer, Login]:
    """The name that was answered."""
    answer = yield question
    if not isinstance(answer, str) or not answer:
        raise _WrongError
    return Login(answer)


def _text(octets: bytes, limit: int) -> str:
    if not octets or len(octets) > limit:
        raise _MalformedError("A name or password is empty or too long")
    try:
        text = octets.decode()
    except UnicodeDecodeError:
        raise _MalformedError("A name or password is not in UTF-8") from None
    if "\0" in text:
        raise _MalformedError("A name or password has a NUL")
    return text


def _name(octets: bytes) -> str:
    return prepare(_text(octets, NAME_OCTETS))


def _password(octets: bytes) -> str:
    return prepare(_text(octets, PASSWORD_OCTETS))


def _as_oneself(wanted: bytes, user: str) -> None:
    """Who asks to act as somebody must be that somebody."""
    if wanted and _name(wanted) != user:
        raise _WrongError


def _plain(initial: bytes | None, _nonce: str, _hostname: str) -> Exchange:
    message = initial if initial is not None else (yield from _response(b""))
    parts = message.split(b"\0")
    if len(parts) != 3:
        raise _MalformedError("Not a message of PLAIN")
    user, password = _name(parts[1]), _password(parts[2])
    _as_oneself(parts[0], user)
    return (yield from _whoever(CheckPassword(user, password)))


def _login(initial: bytes | None, _nonce: str, _hostname: str) -> Exchange:
    """As Outlook and others speak it: two questions; the first may be answered with AUTH already."""
    user = initial if initial is not None else (yield from _response(b"Username:"))
    password = yield from _response(b"Password:")
    return (yield from _whoever(CheckPassword(_name(user), _password(password))))


def _cram_md5(initial: bytes | None, nonce: str, hostname: str) -> Exchange:
    if initial is not None:  # RFC 4954 4: here the server begins
        return Failure(501, "5.5.4", "CRAM-MD5 has no initial response")
    challenge = f"<{nonce}@{hostname}>".encode()
    message = yield from _response(challenge)
    name, space, digest = message.rpartition(b" ")
    if not space or _DIGEST.fullmatch(digest) is None:
        raise _MalformedError("Not a message of CRAM-MD5")
    user = _name(name)
    secret = yield CramSecret(user)
    known = isinstance(secret, bytes) and secret
    wanted = hmac.new(known or nonce.encode(), challenge, "md5").hexdigest().encode()
    if not hmac.compare_digest(wanted, digest.lower()) or not known:
        raise _WrongError
    return Login(user)


def _scram_sha_256(initial: bytes | None, nonce: str, _hostname: str) -> Exchange:
    first = _ascii_or_utf8(initial if initial is not None else (yield from _response(b"")))
    header, bare, user, client_nonce = _client_first(first)
    keys = yield ScramKeys(user)
    if not isinstance(keys, ScramVerifier):
        raise _WrongError
    both = client_nonce + nonce
    said = f"r={both},s={scram.encode(keys.salt)},i={keys.iterations}"
    final = _ascii_or_utf8((yield from _response(said.encode())))
    without_proof, mark, proof = final.rpartition(",p=")
    binding, repeated, *_extensions = [*_attributes(without_proof), "", ""]
    if not mark or binding[:2] != "c=" or repeated[:2] != "r=":
        raise _MalformedError("Not the final message of SCRAM")
    # A header that is not the one it began with, or a nonce of its own, is somebody in between.
    if _octets(binding[2:]) != header.encode() or repeated[2:] != both:
        raise _WrongError
    exchanged = f"{bare},{said},{without_proof}".encode()
    if not keys.proves(_octets(proof), exchanged):
        raise _WrongError
    yield from _response(b"v=" + scram.encode(keys.signature(exchanged)).encode())
    return Login(user)


def _client_first(message: str) -> tuple[str, str, str, str]:
    """The GS2 header, the rest, the user's name and the client's nonce (RFC 5802 7)."""
    binding, comma, rest = message.partition(",")
    wanted, second, bare = rest.partition(",")
    if not comma or not second:
        raise _MalformedError("Not the first message of SCRAM")
    if binding.startswith("p="):  # only SCRAM-SHA-256-PLUS binds, and it was not offered
        raise _WrongError
    if binding not in {"n", "y"} or (wanted and not wanted.startswith("a=")):
        raise _MalformedError("Not the first message of SCRAM")
    name, nonce, *_extensions = [*_attributes(bare), "", ""]
    if name.startswith("m="):  # an extension that must not be overlooked: none is known
        raise _WrongError
    if name[:2] != "n=" or nonce[:2] != "r=" or _PRINTABLE.fullmatch(nonce[2:]) is None:
        raise _MalformedError("Not the first message of SCRAM")
    user = _saslname(name[2:])
    if wanted:
        _as_oneself(_unescaped(wanted[2:]).encode(), user)
    return f"{binding},{wanted},", bare, user, nonce[2:]


def _attributes(text: str) -> list[str]:
    parts = text.split(",")
    if not all(_ATTRIBUTE.fullmatch(part) for part in parts):
        raise _MalformedError("Not a message of SCRAM")
    return parts


def _saslname(text: str) -> str:
    return _name(_unescaped(text).encode())


def _unescaped(text: str) -> str:
    if _SASLNAME.fullmatch(text) is None:
        raise _MalformedError("A name is not written as SCRAM has it")
    return text.replace("=2C", ",").replace("=3D", "=")


def _ascii_or_utf8(octets: bytes) -> str:
    try:
        return octets.decode()
    except UnicodeDecodeError:
        raise _MalformedError("Not in UTF-8") from None


def _octets(text: str) -> bytes:
    try:
        return scram.decode(text)
    except ValueError:
        raise _MalformedError("Not in base64") from None


def _xoauth2(initial: bytes | None, _nonce: str, _hostname: str) -> Exchange:
    message = initial if initial is not None else (yield from _response(b""))
    fields = _fields(_ascii_or_utf8(message))
    user = _name(fields.get("user", "").encode())
    complaint = b'{"status":"401","schemes":"bearer","scope":""}'
    return (yield from _token(user, fields, complaint))


def _oauthbearer(initial: bytes | None, _nonce: str, _hostname: str) -> Exchange:
    message = initial if initial is not None else (yield from _response(b""))
    header, mark, rest = _ascii_or_utf8(message).partition("\1")
    binding, comma, name = header.partition(",")
    if not mark or not comma or binding not in {"n", "y"} or not name.endswith(","):
        raise _MalformedError("Not a message of OAUTHBEARER")
    wanted = name[:-1]
    if wanted and not wanted.startswith("a="):
        raise _MalformedError("Not a message of OAUTHBEARER")
    user = _saslname(wanted[2:]) if wanted else ""
    return (yield from _token(user, _fields(rest), b'{"status":"invalid_token"}'))


def _fields(text: str) -> dict[str, str]:
    """``key=value`` pairs, each ended by an octet 1, and one more of these at the end."""
    if not text.endswith("\1\1"):
        raise _MalformedError("Not a message of this mechanism")
    pairs = [pair.partition("=") for pair in text[:-2].split("\1")]
    return {key.lower(): value for key, _, value in pairs}


def _token(user: str, fields: dict[str, str], complaint: bytes) -> Exchange:
    bearer = _BEARER.fullmatch(fields.get("auth", ""))
    if bearer is None or len(bearer[1]) > _TOKEN_OCTETS:
        raise _MalformedError("No bearer token")
    try:
        return (yield from _whoever(CheckToken(user, bearer[1])))
    except _WrongError:
        yield from _response(complaint)  # clients wait for this before they believe the 535
        raise


_MECHANISMS: dict[str, Callable[[bytes | None, str, str], Exchange]] = {
    "PLAIN": _plain,
    "LOGIN": _login,
    "CRAM-MD5": _cram_md5,
    "SCRAM-SHA-256": _scram_sha_256,
    "XOAUTH2": _xoauth2,
    "OAUTHBEARER": _oauthbearer,
}

MECHANISMS = tuple(_MECHANISMS)
"""All that can be begun."""
