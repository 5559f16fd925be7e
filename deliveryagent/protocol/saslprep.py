"""How user names and passwords are written before they are compared (SASLprep, RFC 4013).

The same word typed on two keyboards is not always the same octets. Guarantees: preparing twice changes
nothing; what is returned holds no control character and nothing invisible; printable ASCII comes back as it
was. Never folds case: "Kim" and "kim" are two names.
"""

import stringprep
import unicodedata

_PROHIBITED = (
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
)


class PreparationError(ValueError):
    """A text that cannot be a user name or a password; the message says why, without repeating it."""


def prepare(text: str, *, stored: bool = False) -> str:
    """The form in which a name or a password is compared; never empty.

    ``stored``: it is to be kept, so characters that Unicode 3.2 does not know, on which two programs may
    differ, are refused (RFC 3454 7). Raises :class:`PreparationError`.

    >>> prepare("I\\u00adX"), prepare("\\u2168"), prepare("a\\u00a0b")
    ('IX', 'IX', 'a b')
    """
    if text.isascii() and text.isprintable() and text:
        return text
    mapped = "".join(
        " " if stringprep.in_table_c12(character) else character
        for character in text
        if not stringprep.in_table_b1(character)
    )
    prepared = unicodedata.ucd_3_2_0.normalize("NFKC", mapped)
    if not prepared:
        raise PreparationError("nothing is left of it")
    for character in prepared:
        if any(prohibited(character) for prohibited in _PROHIBITED):
            raise PreparationError("it has a character that is invisible or means different things")
        if stored and stringprep.in_table_a1(character):
            raise PreparationError("it has a character that not every program knows")
    _check_direction(prepared)
    return prepared


def _check_direction(text: str) -> None:
    """What is written from right to left is so from its first character to its last (RFC 3454 6)."""
    if not any(stringprep.in_table_d1(character) for character in text):
        return
    if any(stringprep.in_table_d2(character) for character in text):
        raise PreparationError("it mixes what is written to the right and to the left")
    if not (stringprep.in_table_d1(text[0]) and stringprep.in_table_d1(text[-1])):
        raise PreparationError("it begins or ends with what is not written to the left")
