"""Two settings read without the parser: what the parser would find, or nothing."""

import tomllib
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from deliveryagent.config.glance import glance
from deliveryagent.config.location import glimpse, locate
from deliveryagent.config.problems import ConfigError
from deliveryagent.config.sources import gather

LINES = st.sampled_from(
    [
        *("", "# run_dir = 'no'", "[queue]", " [ queue ] # x", "[queue.url]", "[[queue]]", '["queue"]'),
        *("[smtp]", "[[route]]", "[a.b]", "['x']", "[true]", "list = [", "]", "[inf],", "'a',", "  1,"),
        *('run_dir = "/run"', "run_dir='/r'  # c", 'run_dir = "a\\tb"', "run_dir = 3", '"run_dir" = "q"'),
        *('url = "sqlite:///q"', "url='x'", "url.a = 1", 'queue.url = "d"', 'queue = {url = "i"}'),
        *("queue . url = 'd'", 'text = """', '"""', "other = 'run_dir = \"no\"'", 'x = "[queue]"'),
        *("'url' = 'q'", "url = [", "\ufeff", "port = 25", "{a = 1},", "t = {url = 'no'}", "\t url = 'w' "),
    ]
)  # fmt: skip


@given(st.lists(LINES, max_size=9), st.sampled_from(["\n", "\r\n"]))
@example(["list = [", "[true]", "]", "run_dir = 'x'"], "\n")
@example(["[queue.url]"], "\n")
@example(["[run_dir]"], "\n")
@example(["list = ['''", "[queue]", "''']", "url = 'x'"], "\n")
def test_a_glance_sees_what_the_parser_sees(lines: list[str], end: str) -> None:
    text = end.join(lines) + end
    seen = glance(text)
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    queue = tree.get("queue", {})
    found = {"run_dir": tree.get("run_dir")}
    found["queue.url"] = queue.get("url") if isinstance(queue, dict) else None
    if seen is not None:
        assert seen == {key: value for key, value in found.items() if value is not None}


def test_a_usual_file_takes_no_parser() -> None:
    text = (
        '# of the host\nhostname = "mail.example.org"\nrun_dir = "/run/x" # here\n\n'
        '[queue]\nurl = "sqlite:////q"\n\n[[route]]\nmatch = [\n  "a.example",\n  "b.example",\n]\n'
        'nexthop = "[127.0.0.1]:2525"\n'
    )
    assert glance(text) == {"run_dir": "/run/x", "queue.url": "sqlite:////q"}


@pytest.mark.parametrize(
    ("overrides", "environ"),
    [
        ((), {}),
        (("run_dir=r", "smtp.port=26"), {}),
        (("queue.url=sqlite:///x",), {"DELIVERYAGENT_RUN_DIR": "/e"}),
        ((), {"DELIVERYAGENT_QUEUE__URL": "sqlite:////e", "RUNTIME_DIRECTORY": "/run/unit"}),
        ((), {"STATE_DIRECTORY": "/state"}),
    ],
)
def test_a_glimpse_leads_where_the_configuration_does(
    tmp_path: Path, overrides: tuple[str, ...], environ: dict[str, str]
) -> None:
    file = tmp_path / "agent.toml"
    for text in ("", '[queue]\nurl = "sqlite:///q"\n', 'run_dir = "here"\n'):
        file.write_text(text)
        seen, found = glimpse(file, overrides, environ), locate(file, overrides, environ)
        assert seen is not None
        assert (seen.run_dir, seen.queue_url) == (found.run_dir, found.queue_url)
        assert seen.socket == found.socket
        assert gather(file, overrides, environ).path == str(file)


def test_a_glimpse_gives_nothing_where_it_takes_more(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    assert glimpse(file, (), {}) is None
    for octets in (b"\xff", b"run_dir = 3\n", b'run_dir = "\\u0041"\n'):
        file.write_bytes(octets)
        assert glimpse(file, (), {}) is None
    file.write_text("")
    assert glimpse(file, ("run_dir",), {}) is None
    with pytest.raises(ConfigError):
        locate(file, ("run_dir",), {})
