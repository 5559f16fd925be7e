"""Mail addresses: strict reading, one way of writing.

Reads what people and programs hand over as RFC 5321 4.1.2 defines it, extended by RFC 6531 3.3, and writes it
in the form that goes on the wire: quotes around the local part only where the grammar needs them, the domain
as A-labels. Guarantees: an accepted address holds no control character, no space outside quotes, nothing that
could end an SMTP command, and respects the limits of RFC 5321 4.5.3.1; writing and reading it again changes
nothing. Never folds the case of a local part, never looks a domain up.

Departures from the letter of the grammar: an underscore in a domain label is accepted, since such domains
receive mail; a domain made of numbers only is refused, since it is an address that lost its brackets.
"""

import ipaddress
import re
import unicodedata

import msgspec

LOCAL_LIMIT = 64
"""Octets of a local part (RFC 5321 4.5.3.1.1)."""

DOMAIN_LIMIT = 255
"""Octets of a domain (RFC 5321 4.5.3.1.2)."""

ADDRESS_LIMIT = 254
"""Octets of a whole address: a path of 256 (RFC 5321 4.5.3.1.3) less its angle brackets."""

_INPUT_LIMIT = 1000  # beyond any address with a source route; keeps hostile input cheap

# All but RFC 5322 3.2.3's specials, blanks and controls: said so, it is compiled many times as quickly.
_ATOM = r'[^\x00-\x20"(),.:;<>@\[\\\]\x7f]+'
_DOT_STRING = re.compile(rf"{_ATOM}(?:\.{_ATOM})*")
_QUOTED_STRING = re.compile(r'"(?:[^"\\]|\\[ -~])*"')
_QUOTED_PAIR = re.compile(r"\\(.)")
_SOURCE_ROUTE = re.compile(
    r'@(?:\[[^\[\]]*\]|[^\[\]@,:"<> ]+)(?:,@(?:\[[^\[\]]*\]|[^\[\]@,:"<> ]+))*:'
)
_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?")
_REFUSED_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp", "Zs"})
_JOINERS = frozenset("\u200c\u200d")  # spelling of several scripts needs them


class AddressError(ValueError):
    """A text that is no mail address; the message says why, in words for people."""


class Mailbox(msgspec.Struct, frozen=True):
    """An address taken apart.

    ``local`` is in wire form (quoted where needed), ``domain`` in A-labels with its case kept, or an address
    literal in brackets.
    """

    local: str
    domain: str

    @property
    def address(self) -> str:
        """The wire form, as MAIL and RCPT carry it between angle brackets."""
        return f"{self.local}@{self.domain}"

    @property
    def destination(self) -> str:
        """What routing looks up: the domain in lower case, or the literal."""
        return destination_of(self.domain)

    @property
    def needs_utf8(self) -> bool:
        """Whether only a peer with SMTPUTF8 can take it (RFC 6531 3.2)."""
        return not self.local.isascii()

    def __str__(self) -> str:
        return self.address


def parse_mailbox(text: str, *, default_domain: str = "") -> Mailbox:
    """Read one address, with or without angle brackets.

    A source route is dropped (RFC 5321 3.6.1). An address without a domain gets ``default_domain``. Raises
    :class:`AddressError`.

    >>> parse_mailbox("<@relay.example:Joe.User@Example.ORG>").address
    'Joe.User@Example.ORG'
    >>> parse_mailbox('"joe"@example.org').address, parse_mailbox('"a b"@example.org').address
    ('joe@example.org', '"a b"@example.org')
    """
    _refuse_odd_characters(text)
    path = text
    if path.startswith("<") and path.endswith(">"):
        path = path[1:-1]
    if path.startswith("@"):
        route = _SOURCE_ROUTE.match(path)
        if route is None:
            raise AddressError(f'"{text}" has no local part before the "@"')
        path = path[route.end() :]
    local, rest = _split_local(path, text)
    if not rest:
        if not default_domain:
            raise AddressError(f'"{text}" has no domain: write it as name@domain')
        rest = "@" + default_domain
    mailbox = Mailbox(local, _parse_domain(rest[1:], text))
    _check_limits(mailbox, text)
    return mailbox


def parse_sender(text: str, *, default_domain: str = "") -> str:
    """A reverse-path in wire form; empty for the null sender, written as ``<>`` or as nothing.

    Raises :class:`AddressError`.

    >>> parse_sender("<>"), parse_sender("joe", default_domain="example.org")
    ('', 'joe@example.org')
    """
    if text in ("", "<>"):
        return ""
    return parse_mailbox(text, default_domain=default_domain).address


def destination_of(address: str) -> str:
    """The destination of an address that is already in wire form; no checks, so it is fast.

    >>> destination_of("Joe@Example.ORG"), destination_of("joe@[IPV6:2001:DB8::1]")
    ('example.org', '[IPv6:2001:db8::1]')
    """
    domain = address[address.rfind("@") + 1 :].lower()
    return f"[IPv6:{domain[6:]}" if domain.startswith("[ipv6:") else domain


def domain_to_ascii(text: str) -> str:
    """A domain name in A-labels (RFC 5891, mapped as UTS 46 says); case of plain ASCII names is kept.

    Raises :class:`AddressError` for what cannot be a domain name.

    >>> domain_to_ascii("Bücher.example"), domain_to_ascii("Example.ORG")
    ('xn--bcher-kva.example', 'Example.ORG')
    """
    if len(text) > DOMAIN_LIMIT:
        raise AddressError(f"a domain of more than {DOMAIN_LIMIT} characters")
    domain = text if text.isascii() else _encode_idna(text)
    for label in domain.split("."):
        if _LABEL.fullmatch(label) is None:
            reason = (
                f'has the impossible part "{label}"' if label else "has an empty part between dots"
            )
            raise AddressError(f'the domain "{text}" {reason}')
        if len(label) > 63:
            raise AddressError(f'the domain "{text}" has a part of more than 63 characters')
    if domain.rpartition(".")[2].isdigit():
        raise AddressError(
            f'the domain "{text}" is a number; an IP address is written as "[{text}]"'
        )
    return domain


def _encode_idna(text: str) -> str:
    # Imported late: its tables cost more time than the rest of a short command, and few domains need them.
    import idna  # noqa: PLC0415

    try:
        return idna.encode(text, uts46=True).decode("ascii")
    except UnicodeError as error:
        raise AddressError(
            f'the domain "{text}" is not a valid international name: {error}'
        ) from error


def _refuse_odd_characters(text: str) -> None:
    if not text:
        raise AddressError("an empty address")
    if len(text) > _INPUT_LIMIT:
        raise AddressError(f"an address of more than {ADDRESS_LIMIT} octets")
    if text.isascii() and text.isprintable():
        return
    for character in text:
        if character == " " or character in _JOINERS:
            continue
        if unicodedata.category(character) in _REFUSED_CATEGORIES:
            raise AddressError(f"an address cannot contain the character U+{ord(character):04X}")


def _split_local(path: str, text: str) -> tuple[str, str]:
    """The local part in wire form, and what follows it: nothing or ``@domain``."""
    if path.startswith('"'):
        quoted = _QUOTED_STRING.match(path)
        if quoted is None:
            raise AddressError(f'"{text}" has quotes that are not closed or a stray backslash')
        content, rest = _QUOTED_PAIR.sub(r"\1", quoted[0][1:-1]), path[quoted.end() :]
        plain = _DOT_STRING.fullmatch(content) is not None
        # RFC 5321 4.1.2: all quoted forms mean the same, and the one with the least quoting is sent.
        local = content if plain else '"' + re.sub(r'(["\\])', r"\\\1", content) + '"'
    else:
        local, at, domain = path.partition("@")
        rest = at + domain
        if _DOT_STRING.fullmatch(local) is None:
            raise AddressError(_local_reason(local, text))
    if rest and not rest.startswith("@"):
        raise AddressError(f'"{text}" has something between the quotes and the "@"')
    return local, rest


def _local_reason(local: str, text: str) -> str:
    if not local:
        return f'"{text}" has no local part before the "@"'
    if "." in (local[0], local[-1]) or ".." in local:
        return f'"{text}" has a dot too many in the part before the "@"'
    odd = next(c for c in local if c != "." and _DOT_STRING.fullmatch(c) is None)
    shown = "a space" if odd == " " else f'"{odd}"'
    return f'"{text}" has {shown} in the part before the "@", which needs quotes around it'


def _parse_domain(domain: str, text: str) -> str:
    if not domain:
        raise AddressError(f'"{text}" has no domain after the "@"')
    if domain.startswith("["):
        return _parse_literal(domain, text)
    return domain_to_ascii(domain)


def _parse_literal(domain: str, text: str) -> str:
    """An address literal (RFC 5321 4.1.3) in its shortest writing."""
    inside = domain[1:-1]
    if domain.endswith("]"):
        try:
            if inside[:5].lower() == "ipv6:":
                if "%" in inside:  # a scope names an interface of this machine, nobody's mailbox
                    raise AddressError(f'"{text}" has an IP address with a scope')
                return f"[IPv6:{ipaddress.IPv6Address(inside[5:])}]"
            return f"[{ipaddress.IPv4Address(inside)}]"
        except ipaddress.AddressValueError:
            pass
    raise AddressError(
        f'"{text}" has brackets without an IP address: write [192.0.2.1] or [IPv6:2001:db8::1]'
    )


def _check_limits(mailbox: Mailbox, text: str) -> None:
    if len(mailbox.local.encode()) > LOCAL_LIMIT:
        raise AddressError(f'"{text}" has more than {LOCAL_LIMIT} octets before the "@"')
    if len(mailbox.address.encode()) > ADDRESS_LIMIT:
        raise AddressError(f'"{text}" has more than {ADDRESS_LIMIT} octets')
