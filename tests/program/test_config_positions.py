"""Lines of a TOML text, checked against what the standard parser reads."""

import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deliveryagent.config.positions import Path, positions


def paths(tree: Any, prefix: Path = ()) -> set[Path]:
    """Every path of a parsed document."""
    found: set[Path] = set()
    items: Any = []
    if isinstance(tree, dict):
        items = tree.items()
    elif isinstance(tree, list):
        items = enumerate(tree)
    for name, value in items:
        found |= {(*prefix, name)} | paths(value, (*prefix, name))
    return found


EVERYTHING = '''\
# a comment
hostname = "mail.example.org"   # with = and [ in a comment
"quoted key" = 1
'literal "key"' = 2
"esc\\u0061ped" = 3
a.b . "c.d" = 4

[smtp]  # table
connect_timeout = """
[not a table]
key = "value" \\""" still
"""
literal = \'\'\'
[[nor this]]
\'\'\'
list = [
  "one", # comment ] with bracket
  [2, 3],
  { x = 1, y = "}" },
]
empty = []
inline = { a = "#", b = { c = [1] } }
date = 1979-05-27 07:32:00

[[route]]
match = ["*"]
[[route]]
match = "second"
[route.nested]
deep = true
[[route.list]]
one = 1
[[route.list]]
one = 2
[x.y.z]
'''


def test_every_kind_of_key_has_its_line() -> None:
    found = positions(EVERYTHING)
    assert paths(tomllib.loads(EVERYTHING)) == set(found)
    lines = EVERYTHING.split("\n")
    for path, line in found.items():
        name = next((part for part in reversed(path) if isinstance(part, str)), "")
        if name in EVERYTHING and not isinstance(path[-1], int):
            assert name in lines[line - 1], (path, line)


def test_routes_are_told_apart() -> None:
    found = positions(EVERYTHING)
    assert found["route", 1, "match"] == found["route", 0, "match"] + 2
    assert found["route", 1, "list", 1, "one"] == found["route", 1, "list", 0, "one"] + 2


@pytest.mark.parametrize("text", ["", "\n\n", "# only", "a = 1", "a = 1\r\nb = 2\r\n"])
def test_small_texts(text: str) -> None:
    assert paths(tomllib.loads(text)) == set(positions(text))


STRINGS = st.text(st.sampled_from("ab \"'\\#[]{}=,.\n\té"), max_size=8)


def _basic(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


@st.composite
def values(draw: st.DrawFn, depth: int = 2) -> str:
    """A TOML value in one of its writings."""
    kind = draw(st.integers(0, 6 if depth else 4))
    text = draw(STRINGS)
    if kind == 0:
        return str(draw(st.integers(-5, 5)))
    if kind == 1:
        return _basic(text)
    if kind == 2:
        return f'"""{text}"""'.replace("\\", "\\\\") if '"' not in text else _basic(text)
    if kind == 3:
        return f"'''{text}'''" if "'" not in text else "''"
    if kind == 4:
        return "true"
    if kind == 5:
        items = draw(st.lists(values(depth=depth - 1), max_size=3))
        gap = draw(st.sampled_from([" ", "\n", " # ] }\n"]))
        return "[" + "".join(f"{gap}{item},{gap}" for item in items) + "]"
    names = draw(st.lists(st.sampled_from("xyz"), unique=True, max_size=3))
    return "{ " + ", ".join(f"{n} = {draw(values(depth=depth - 1))}" for n in names) + " }"


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["", "[s{0}]", "[[r]]", "[[q.w]]", '["t {0}".u]', "[v{0} . w]"]),
            st.dictionaries(STRINGS.filter(bool), values(), max_size=3),
        ),
        max_size=5,
    )
)
def test_agrees_with_the_parser_on_any_document(tables: list[tuple[str, dict[str, str]]]) -> None:
    document = ""
    for number, (heading, pairs) in enumerate(tables):
        document += (heading or "[h{0}]").format(number) + "\n"
        document += "".join(f"{_basic(name)} = {value}\n" for name, value in pairs.items())
    try:
        tree = tomllib.loads(document)
    except tomllib.TOMLDecodeError:
        return
    assert paths(tree) == set(positions(document))
