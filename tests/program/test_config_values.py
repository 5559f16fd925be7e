"""What a written value means."""

import tomllib
from enum import StrEnum
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deliveryagent.config.values import choices_of, expected, read, show, type_name
from deliveryagent.setting import ByteSize, Duration


class Level(StrEnum):
    NONE = "none"
    MAY = "may"


Choice = Literal["text", "json"]
Texts = tuple[str, ...]


@pytest.mark.parametrize(
    ("kind", "written", "meant"),
    [
        (str, "a text", "a text"),
        (int, 7, 7),
        (float, 2, 2.0),
        (bool, False, False),
        (Duration, "1h30m", 5400.0),
        (Duration, 1.5, 1.5),
        (ByteSize, "50 MB", 50_000_000),
        (ByteSize, 12, 12),
        (Texts, ["a", "b"], ("a", "b")),
        (Texts, [], ()),
        (Choice, "json", "json"),
        (Level, "may", Level.MAY),
        (Level | Literal[""], "", ""),
        (Level | Literal[""], "none", Level.NONE),
        (tuple[Choice, ...], ["text"], ("text",)),
    ],
)
def test_values_of_a_file(kind: Any, written: Any, meant: Any) -> None:
    found = read(kind, written)
    assert found == meant
    assert type(found) is type(meant)


@pytest.mark.parametrize(
    ("kind", "written", "meant"),
    [
        (str, "[not a list]", "[not a list]"),
        (int, "7", 7),
        (float, "1.5", 1.5),
        (bool, "yes", True),
        (bool, "FALSE", False),
        (Duration, "5m", 300.0),
        (ByteSize, "1 KiB", 1024),
        (Texts, "a, b c", ("a", "b", "c")),
        (Texts, '["a b", "c"]', ("a b", "c")),
        (Texts, "[192.0.2.1]:25, b", ("[192.0.2.1]:25", "b")),
        (Texts, "", ()),
        (Level, "none", Level.NONE),
    ],
)
def test_values_of_the_command_line(kind: Any, written: str, meant: Any) -> None:
    assert read(kind, written, textual=True) == meant


@pytest.mark.parametrize(
    ("kind", "written", "complaint"),
    [
        (str, 7, "expected a text in quotes, not 7"),
        (str, "a\x1bb", "control character"),
        (int, "7", 'expected a whole number, not "7"'),
        (int, True, "expected a whole number, not true"),
        (int, 1.5, "expected a whole number"),
        (int, -1, "cannot be negative"),
        (float, "x", "expected a number"),
        (bool, 1, "expected true or false, not 1"),
        (Duration, "soon", "is not a time"),
        (Duration, True, "expected a time"),
        (Duration, [], "expected a time such as .* not a list"),
        (ByteSize, 1.5, "expected a size"),
        (ByteSize, {}, "expected a size such as .* not a table"),
        (Texts, "a", 'expected a list of texts, not "a"'),
        (Texts, ["a", 2], "element 2: expected a text"),
        (Choice, "xml", 'expected one of "text", "json", not "xml"'),
        (Level, 3, 'expected one of "none", "may", not 3'),
        (tuple[Choice, ...], ["xml"], 'element 1: expected one of "text", "json"'),
    ],
)
def test_a_value_of_the_wrong_kind_is_explained(kind: Any, written: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        read(kind, written)


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        (Duration, "time"),
        (ByteSize, "size"),
        (Texts, "list"),
        (Level, "choice"),
        (bool, "yes/no"),
        (int, "number"),
        (str, "text"),
    ],
)
def test_each_type_has_a_word(kind: Any, word: str) -> None:
    assert type_name(kind) == word
    assert expected(kind)


def test_choices_of_a_union() -> None:
    assert choices_of(Level | Literal[""]) == ("none", "may", "")
    assert choices_of(int) == ()
    assert expected(tuple[Choice, ...]) == 'a list of one of "text", "json"'


@given(
    st.one_of(
        st.tuples(st.just(str), st.text(st.characters(categories=["L", "P", "N"]))),
        st.tuples(st.just(int), st.integers(0)),
        st.tuples(st.just(bool), st.booleans()),
        st.tuples(st.just(Duration), st.integers(0, 10**9).map(lambda n: n / 1000)),
        st.tuples(st.just(ByteSize), st.integers(0, 10**13)),
        st.tuples(
            st.just(Texts), st.lists(st.text(st.characters(categories=["L", "P"]))).map(tuple)
        ),
    )
)
def test_what_is_shown_is_toml_and_reads_back(pair: tuple[Any, Any]) -> None:
    kind, value = pair
    again = read(kind, tomllib.loads(f"x = {show(kind, value)}")["x"])
    assert again == pytest.approx(value) if kind is Duration else again == value
