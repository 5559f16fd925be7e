"""What a client says, read: command lines, paths and parameters, as RFC 5321 and its extensions define them.

Guarantees: what is returned is in wire form and was checked by ``mail.address``; what cannot be read raises
``CommandError`` with the reply it deserves; reading depends on nothing but the line, the offer and the time.
Strict where two readers could differ (no blank before a colon, no parameter twice), forgiving where they could
not (case, blanks behind the colon and at the end). Never decides who may do what.

Extensions: SIZE (RFC 1870), 8BITMIME (6152), SMTPUTF8 (6531), DSN (3461), AUTH (4954), REQUIRETLS (8689),
FUTURERELEASE (4865), DELIVERBY (2852), MT-PRIORITY (6710).
"""

import re
from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from typing import NamedTuple

import msgspec

from deliveryagent.mail.address import AddressError, parse_mailbox
from deliveryagent.mail.envelope import DsnReturn, Notify
from deliveryagent.protocol.commands import orcpt_parameter
from deliveryagent.protocol.session import Recipient, Transaction

_PATH = re.compile(r'<((?:"(?:[^"\\]|\\.)*"|[^<>"])*)>(?: +(.*))?', re.DOTALL)
_BARE = re.compile(r"([^<> ]+)(?: +(.*))?")
_PARAMETER = re.compile(r"([A-Za-z0-9][A-Za-z0-9-]*)(?:=([^\x00-\x20=\x7f]+))?")
_HEXCHAR = re.compile(r"\+([0-9A-F]{2})")
_UNICHAR = re.compile(r"\\x\{([0-9A-F]{2,6})\}")
_XTEXT = re.compile(r"(?:[!-*,-<>-~]|\+[0-9A-F]{2})*")
_UNITEXT = re.compile(r"(?:[^\x00-\x20+=\\\x7f]|\\x\{[0-9A-F]{2,6}\})+")
_BY = re.compile(r"(-?[0-9]{1,9});([NR])(T?)", re.IGNORECASE)
_NUMBER = re.compile(r"[0-9]{1,20}")
_PRIORITY = re.compile(r"-?[0-9]")
_TYPE = re.compile(r"[A-Za-z0-9-]{1,60}")
_ENVID_LIMIT = 100  # RFC 3461 4.4
_ORCPT_LIMIT = 500  # RFC 3461 4.2
_WISHES = {"SUCCESS": Notify.SUCCESS, "FAILURE": Notify.FAILURE, "DELAY": Notify.DELAY}


class CommandError(Exception):
    """A command that cannot be carried out as it was given, and the reply that says so."""

    def __init__(self, code: int, enhanced: str, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.enhanced = enhanced
        self.text = text


class Offers(msgspec.Struct, frozen=True, kw_only=True):
    """What this session may be asked for beyond plain mail.

    ``hold_limit`` is in seconds (0: FUTURERELEASE is not offered), ``size_limit`` in octets (0: no limit).
    ``default_domain`` completes ``postmaster``.
    """

    default_domain: str
    size_limit: int = 0
    hold_limit: float = 0.0
    require_tls: bool = False


@lru_cache(maxsize=1024)
def split_command(line: bytes) -> tuple[str, str]:
    """Verb, in capitals, and argument of a line without its end.

    Raises ``CommandError`` for octets that no command has. Beyond ASCII only UTF-8 is read at all; where it may
    stand is for the commands to say.

    >>> split_command(b"mail from:<a@b.example> "), split_command(b"QUIT")
    (('MAIL', 'from:<a@b.example>'), ('QUIT', ''))
    """
    try:
        text = line.decode("ascii")
    except UnicodeDecodeError:
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError:
            raise CommandError(500, "5.5.2", "Syntax error: neither ASCII nor UTF-8") from None
    if text.endswith("\n"):
        raise CommandError(500, "5.5.2", "Syntax error: a line ends in CRLF, not in LF alone")
    if not text.isprintable() and not _is_tame(text):
        raise CommandError(500, "5.5.2", "Syntax error: control characters in a command")
    verb, _, argument = text.partition(" ")
    if not verb.isascii():  # some letters beyond ASCII have capitals within it
        raise CommandError(500, "5.5.2", "Command not recognised")
    return verb.upper(), argument.strip(" ")


def _is_tame(text: str) -> bool:
    """Whether what is not printable is no control character (odd blanks: an address is read strictly)."""
    return not any(letter < " " or letter == "\x7f" for letter in text)


def read_mail(argument: str, offers: Offers, now: float) -> Transaction:
    """The argument of MAIL; raises ``CommandError``."""
    plain = _plain(argument, "FROM:", offers.default_domain)
    if plain is not None:
        return Transaction(sender=plain.address, given=plain.path)
    path, words = _path(argument, "FROM:", "5.5.4")
    transaction = Transaction(sender="", given=path)
    seen: set[str] = set()
    for name, value in _parameters(words):
        if name in seen:
            status = "5.5.2" if name == "MT-PRIORITY" else "5.5.4"  # RFC 6710 4
            raise CommandError(501, status, f"{name} is there twice")
        seen.add(name)
        read = _MAIL.get(name)
        if read is None:
            raise CommandError(555, "5.5.4", f"Unsupported parameter {name}")
        read(transaction, value, offers, now)
    if transaction.deliver_by and transaction.not_before > transaction.deliver_by:
        raise CommandError(501, "5.5.4", "Asked to be delivered before it may be sent")
    transaction.sender = _address(path, offers, utf8=transaction.smtputf8, sender=True)
    return transaction


def read_rcpt(argument: str, offers: Offers, *, utf8: bool) -> Recipient:
    """The argument of RCPT; ``utf8`` as the transaction says. Raises ``CommandError``."""
    plain = _plain(argument, "TO:", offers.default_domain)
    if plain is not None and plain.path:
        return Recipient(address=plain.address, given=plain.path)
    path, words = _path(argument, "TO:", "5.5.4")
    notify, orcpt = Notify.DEFAULT, ""
    seen: set[str] = set()
    for name, value in _parameters(words):
        if name in seen:
            raise CommandError(501, "5.5.4", f"{name} is there twice")
        seen.add(name)
        if name == "NOTIFY":
            notify = _notify(value)
        elif name == "ORCPT":
            orcpt = _orcpt(value)
        else:
            raise CommandError(555, "5.5.4", f"Unsupported parameter {name}")
    if not path:
        raise CommandError(501, "5.1.3", "A recipient cannot be empty")
    address = _address(path, offers, utf8=utf8, sender=False)
    return Recipient(address=address, given=path, notify=notify, orcpt=orcpt)


class _Plain(NamedTuple):
    """A path without parameters."""

    path: str
    address: str


@lru_cache(maxsize=2048)
def _plain(argument: str, word: str, default_domain: str) -> _Plain | None:
    """What most commands are: the same few senders, ordinary recipients. None for what needs a closer look."""
    path, words = _path(argument, word, "5.5.4")
    if words or not path.isascii():
        return None
    try:
        return _Plain(path, _known_address(path, default_domain) if path else "")
    except AddressError:
        return None


def _path(argument: str, word: str, enhanced: str) -> tuple[str, str]:
    """What stands between the angle brackets, and the parameters behind them."""
    if argument[: len(word)].upper() != word:
        raise CommandError(
            501, enhanced, f"Syntax: {'MAIL' if word == 'FROM:' else 'RCPT'} {word}<address>"
        )
    rest = argument[len(word) :].lstrip(" ")
    match = _PATH.fullmatch(rest) or _BARE.fullmatch(rest)
    if match is None:
        reason = "5.1.7" if word == "FROM:" else "5.1.3"
        raise CommandError(501, reason, f"Bad address syntax, use {word}<address>")
    return match[1], match[2] or ""


def _parameters(words: str) -> list[tuple[str, str]]:
    found = []
    for word in words.split():
        match = _PARAMETER.fullmatch(word)
        if match is None:
            raise CommandError(501, "5.5.4", f"Bad parameter syntax: {word[:60]}")
        found.append((match[1].upper(), match[2] or ""))
    return found


def _address(path: str, offers: Offers, *, utf8: bool, sender: bool) -> str:
    if not path:
        return ""
    if not path.isascii() and not utf8:
        raise CommandError(553, "5.6.7", "Address beyond ASCII without SMTPUTF8")
    try:
        return _known_address(path, offers.default_domain)
    except AddressError as error:
        raise CommandError(501, "5.1.7" if sender else "5.1.3", f"Bad address: {error}") from None


@lru_cache(maxsize=2048)
def _known_address(path: str, default_domain: str) -> str:
    """The same addresses come again and again."""
    if "@" not in path and path.lower() != "postmaster":
        raise AddressError("it has no domain")
    mailbox = parse_mailbox(path, default_domain=default_domain)
    if "." not in mailbox.domain and not mailbox.domain.startswith("["):
        raise AddressError("its domain is not fully qualified")
    return mailbox.address


# -- the parameters of MAIL ---


def _size(transaction: Transaction, value: str, offers: Offers, now: float) -> None:
    del now
    if _NUMBER.fullmatch(value) is None:
        raise CommandError(501, "5.5.4", "Bad SIZE")
    transaction.size = int(value)
    if offers.size_limit and transaction.size > offers.size_limit:
        raise CommandError(
            552, "5.3.4", f"Message size exceeds the limit of {offers.size_limit} octets"
        )


def _body(transaction: Transaction, value: str, offers: Offers, now: float) -> None:
    del offers, now
    transaction.body = value.upper()
    if transaction.body == "BINARYMIME":
        raise CommandError(504, "5.5.4", "BINARYMIME is not supported; use 8BITMIME or an encoding")
    if transaction.body not in {"7BIT", "8BITMIME"}:
        raise CommandError(501, "5.5.4", "Bad BODY")


def _smtputf8(transaction: Transaction, value: str, offers: Offers, now: float) -> None:
    del offers, now
    if value:
        raise CommandError(501, "5.5.4", "SMTPUTF8 has no value")
    transaction.smtputf8 = True


def _ret(transaction: Transaction, value: str, offers: Offers, now: float) -> None:
    del offers, now
    if value.upper() not in {"FULL", "HDRS"}:
        raise CommandError(501, "5.5.4", "RET is FULL or HDRS")
    transaction.ret = DsnReturn(value.upper())


def _envid(transaction: Transaction, value: str, offers: Offers, now: float) -> None:
    del offers, now
    transaction.envid = _from_xtext(value, "ENVID", _ENVID_LIMIT)
    if not transaction.envid or not transaction.envid.isascii():
        raise CommandError(501, "5.5.4", "Bad ENVID")


def _auth(transaction: Transaction, value: str, offers: Offers, now: float) -> None:
    """Who a client says the sender is (RFC 4954 5). Read, so that it may be given; believed of nobody."""
    del transaction, offers, now
    if not value or _XTEXT.fullmatch(value) is None:
        raise CommandError(501, "5.5.4", "Bad AUTH")


def _requiretls(transaction: Transaction, value: str, offers: Offers, now: float) -> None:
    del now
    if value:
        raise CommandError(501, "5.5.4", "REQUIRETLS has no value")
    if not offers.require_tls:
        raise CommandError(530, "5.7.10", "REQUIRETLS asks for a session under TLS")
    transaction.require_tls = True


def _holdfor(transaction: Transaction, value: str, offers: Offers, now: float) -> None:
    if _NUMBER.fullmatch(value) is None:
        raise CommandError(501, "5.5.4", "Bad HOLDFOR")
    _hold(transaction, now + int(value), offers, now)


def _holduntil(transaction: Transaction, value: str, offers: Offers, now: float) -> None:
    try:
        moment = datetime.fromisoformat(value.upper())
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise CommandError(501, "5.5.4", "HOLDUNTIL is a time such as 2030-01-31T12:00:00Z")
    _hold(transaction, moment.timestamp(), offers, now)


def _hold(transaction: Transaction, moment: float, offers: Offers, now: float) -> None:
    if not offers.hold_limit:
        raise CommandError(555, "5.5.4", "FUTURERELEASE is not offered")
    if transaction.not_before:
        raise CommandError(501, "5.5.4", "HOLDFOR and HOLDUNTIL exclude each other")
    if moment > now + offers.hold_limit:
        raise CommandError(
            501, "5.5.4", f"A message is held for {int(offers.hold_limit)} seconds at most"
        )
    transaction.not_before = max(moment, now)


def _by(transaction: Transaction, value: str, offers: Offers, now: float) -> None:
    del offers
    match = _BY.fullmatch(value)
    if match is None:
        raise CommandError(501, "5.5.4", "BY is seconds;R or seconds;N")
    seconds, mode = int(match[1]), match[2].upper()
    if mode == "R" and seconds <= 0:
        raise CommandError(501, "5.5.4", "BY with R needs a time that is still to come")
    transaction.deliver_by = max(1.0, now + seconds)
    transaction.by_mode = mode + match[3].upper()


def _mt_priority(transaction: Transaction, value: str, offers: Offers, now: float) -> None:
    del offers, now
    if _PRIORITY.fullmatch(value) is None:
        raise CommandError(501, "5.5.2", "MT-PRIORITY is a number from -9 to 9")
    transaction.priority = int(value)


_MAIL: dict[str, Callable[[Transaction, str, Offers, float], None]] = {
    "SIZE": _size,
    "BODY": _body,
    "SMTPUTF8": _smtputf8,
    "RET": _ret,
    "ENVID": _envid,
    "AUTH": _auth,
    "REQUIRETLS": _requiretls,
    "HOLDFOR": _holdfor,
    "HOLDUNTIL": _holduntil,
    "BY": _by,
    "MT-PRIORITY": _mt_priority,
}


# -- the parameters of RCPT ---


def _notify(value: str) -> Notify:
    words = value.upper().split(",")
    if words == ["NEVER"]:
        return Notify.NEVER
    wish = Notify.DEFAULT
    for word in words:
        if word not in _WISHES or wish & _WISHES[word]:
            raise CommandError(501, "5.5.4", "NOTIFY is NEVER, or some of SUCCESS,FAILURE,DELAY")
        wish |= _WISHES[word]
    return wish


def _orcpt(value: str) -> str:
    kind, semicolon, address = value.partition(";")
    if not semicolon or _TYPE.fullmatch(kind) is None or not address:
        raise CommandError(501, "5.5.4", "ORCPT is type;address")
    international = kind.lower() == "utf-8"
    if international and _XTEXT.fullmatch(address) is None:
        text = _from_unitext(address)
    else:
        text = _from_xtext(address, "ORCPT", _ORCPT_LIMIT)
        if international:
            text = _printable(_UNICHAR.sub(_character, text), "ORCPT")
    if international or not text.isascii():
        kind = "utf-8"
    orcpt = f"{kind};{text}"
    # It must be possible to pass it on, also to hosts that know no SMTPUTF8 (RFC 6533 3).
    if len(orcpt_parameter(orcpt)) - len(f" ORCPT={kind};") > _ORCPT_LIMIT:
        raise CommandError(501, "5.5.4", f"ORCPT is longer than {_ORCPT_LIMIT} characters")
    return orcpt


def _from_xtext(value: str, what: str, limit: int) -> str:
    """RFC 3461 4; raises ``CommandError`` for what is none, or hides characters that are no text."""
    if len(value) > limit:
        raise CommandError(501, "5.5.4", f"{what} is longer than {limit} characters")
    if _XTEXT.fullmatch(value) is None:
        raise CommandError(501, "5.5.4", f"{what} is not xtext")
    octets = _HEXCHAR.sub(lambda match: chr(int(match[1], 16)), value).encode("latin-1")
    try:
        return _printable(octets.decode("utf-8"), what)
    except UnicodeDecodeError:
        raise CommandError(501, "5.5.4", f"{what} hides octets that are no text") from None


def _from_unitext(value: str) -> str:
    if len(value) > _ORCPT_LIMIT or _UNITEXT.fullmatch(value) is None:
        raise CommandError(501, "5.5.4", "ORCPT is not UTF-8 text as RFC 6533 has it")
    return _printable(_UNICHAR.sub(_character, value), "ORCPT")


def _character(match: re.Match[str]) -> str:
    number = int(match[1], 16)
    surrogate = 0xD800 <= number <= 0xDFFF
    return "\ufffd" if number > 0x10FFFF or surrogate else chr(number)


def _printable(text: str, what: str) -> str:
    if not text.isprintable():
        raise CommandError(501, "5.5.4", f"{what} hides control characters")
    return text
