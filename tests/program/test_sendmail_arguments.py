"""The command line of ``sendmail``: any words mean something, or are refused with status 64."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deliveryagent.cli.sendmail.arguments import Arguments, read
from deliveryagent.cli.sendmail.submission import addresses, before_dot
from deliveryagent.cli.sendmail.sysexits import SendmailError

LETTERS = "ABCDEFGHILMNORSTUVXZabcdefghimnopqrstvxz0?:-="
VALUES = [
    "",
    "-",
    "--",
    "kim@example.net",
    "i",
    "em",
    "never",
    "success,delay",
    "full",
    "R",
    "I",
    "V",
]
WORDS = st.one_of(
    st.sampled_from(VALUES),
    st.sampled_from(LETTERS).map(lambda letter: f"-{letter}"),
    st.text(LETTERS, max_size=4).map(lambda letters: f"-{letters}"),
    st.builds(lambda a, b: f"-{a}{b}", st.sampled_from(LETTERS), st.sampled_from(VALUES)),
    st.text(max_size=6),
)


def meaning(found: Arguments) -> dict[str, object]:
    return {name: getattr(found, name) for name in Arguments.__slots__}


def refused(*words: str) -> SendmailError:
    with pytest.raises(SendmailError) as caught:
        read(words)
    return caught.value


def outcome(words: list[str]) -> Arguments | SendmailError:
    try:
        return read(words)
    except SendmailError as error:
        return error


@given(st.lists(WORDS, max_size=8))
def test_any_words_are_read_or_refused_as_misuse(words: list[str]) -> None:
    found = outcome(words)
    if isinstance(found, SendmailError):
        assert found.status in (64, 69)  # 69: known, but not offered
        assert str(found)
    else:
        assert found.mode in {"send", "smtp", "list", "flush", "probe", "aliases"}
        assert set(found.recipients) <= set(words)


@given(st.lists(WORDS, max_size=6), st.lists(st.text(max_size=5), max_size=4))
def test_behind_two_dashes_everything_is_a_recipient(words: list[str], behind: list[str]) -> None:
    before = outcome([*words, "-i"])  # so that no option waits for its value
    if isinstance(before, SendmailError) or "--" in words:
        return
    found = read([*words, "-i", "--", *behind])
    assert found.recipients == before.recipients + behind


@pytest.mark.parametrize(
    ("joined", "split"),
    [
        ("-fshop@example.org", "-f shop@example.org"),
        ("-rshop@example.org", "-f shop@example.org"),
        ("-FCronDaemon", "-F CronDaemon"),
        ("-ti", "-t -i"),
        ("-itfkim", "-i -t -f kim"),
        ("-oi", "-i"),
        ("-Nnever", "-N NEVER"),
        ("-Rhdrs", "-R hdrs"),
        ("-Ve1", "-V e1"),
        ("-bp", "-b p"),
        ("-qR example.net", "-qRexample.net"),
        ("-qI 0C7QK4M2V9XTB", "-qI0C7QK4M2V9XTB"),
        ("-vq", "-q"),
    ],
)
def test_both_ways_of_writing_mean_the_same(joined: str, split: str) -> None:
    assert meaning(read(joined.split())) == meaning(read(split.split()))


def test_the_last_one_counts() -> None:
    found = read(
        ["-fa", "-fb", "-Fx", "-Fy", "-Rfull", "-Rhdrs", "-Nnever", "-Nfailure", "-bp", "-bm"]
    )
    assert (found.sender, found.full_name, found.ret, found.dsn) == ("b", "y", "hdrs", "failure")
    assert found.mode == "send"


def test_protected_transport_can_be_asked_for() -> None:
    assert read(["-O", "RequireTLS=yes", "kim@example.net"]).require_tls
    assert not read(["-Orequiretls=yes", "-Orequiretls=no", "kim@example.net"]).require_tls


def test_options_may_stand_behind_recipients() -> None:
    found = read(["kim@example.net", "-f", "shop@example.org", "-i", "lee@example.net"])
    assert found.recipients == ["kim@example.net", "lee@example.net"]
    assert (found.sender, found.keep_dots) == ("shop@example.org", True)


@pytest.mark.parametrize(
    "line",
    [
        *("-Am", "-Ac", "-C /etc/mail/main.cf", "-G", "-h 5", "-L label", "-m", "-n", "-U", "-v"),
        *("-O x=y", "-om", "-o7", "-o8", "-oem", "-odi", "-odq", "-o x", "-X /tmp/log", "-e m"),
        *("-B 8BITMIME", "-B7BIT", "-bm", "-bh", "-bH", "-q30m", "-p smtp", "-c", "-x"),
    ],
)
def test_what_postfix_ignores_is_ignored(line: str) -> None:
    assert meaning(read([*line.split(), "kim@example.net"])) == meaning(read(["kim@example.net"]))


@pytest.mark.parametrize(
    "line", ["-Z", "-f", "-tf", "-N", "-qS x", "-qx", "-qI", "-qR", "-bt", "-bz", "-b", "-E", "--x"]
)
def test_what_means_nothing_is_refused(line: str) -> None:
    assert refused(*line.split()).status == 64


@pytest.mark.parametrize("line", ["-bd", "-bD", "-bl", "-bd -q30m"])
def test_a_daemon_is_refused_with_advice(line: str) -> None:
    error = refused(*line.split())
    assert error.status == 64
    assert "systemctl start" in str(error)


def test_variable_return_paths_are_not_silently_left_out() -> None:
    assert refused("-XV+=", "-f", "list@example.org", "kim@example.net").status == 69


@pytest.mark.parametrize("line", ["-N sometimes", "-N never,delay", "-R half", f"-V{'x' * 101}"])
def test_nonsense_about_reports_is_ignored_with_a_warning(line: str) -> None:
    found = read(line.split())
    assert (found.dsn, found.ret, found.envid) == ("", "", "")
    assert len(found.warnings) == 1


def test_an_argument_may_be_a_list_with_names() -> None:
    words = [
        "kim@example.net, lee@example.net",
        "Ann <ann@example.net>",
        "",
        "root",
        "<a@b.example>",
    ]
    assert addresses(words) == [
        *("kim@example.net", "lee@example.net", "ann@example.net", "root", "a@b.example")
    ]


def test_an_argument_that_cannot_be_read_is_bad_data() -> None:
    with pytest.raises(SendmailError) as caught:
        addresses(["kim lee@example.net"])
    assert caught.value.status == 65


def as_lines(content: bytes) -> bytes:
    """What stands before a lone dot, the slow way."""
    kept = []
    for line in _lines(content):
        if line in (b".\n", b".\r\n", b"."):
            break
        kept.append(line)
    return b"".join(kept)


def _lines(content: bytes) -> list[bytes]:
    *whole, last = content.split(b"\n")
    return [line + b"\n" for line in whole] + ([last] if last else [])


@given(st.text(".\n\rx", max_size=30), st.lists(st.integers(0, 30), max_size=8))
def test_a_lone_dot_ends_the_message_however_it_is_cut(text: str, cuts: list[int]) -> None:
    content = text.encode()
    edges = [0, *sorted(min(cut, len(content)) for cut in cuts), len(content)]
    pieces = [content[a:b] for a, b in pairwise(edges) if a < b]
    assert b"".join(before_dot(pieces)) == as_lines(content)
