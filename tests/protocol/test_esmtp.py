"""Commands as clients write them: what is read, and the replies to what cannot be."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from deliveryagent.mail.envelope import DsnReturn, Notify
from deliveryagent.protocol import commands
from deliveryagent.protocol.esmtp import (
    CommandError,
    Offers,
    read_mail,
    read_rcpt,
    split_command,
)
from deliveryagent.protocol.session import Recipient, Transaction

NOW = 1_800_000_000.0
OFFERS = Offers(default_domain="host.dev", size_limit=1000, hold_limit=3600, require_tls=True)
PLAIN = Offers(default_domain="host.dev")


def mail(argument: str, offers: Offers = OFFERS) -> Transaction:
    return read_mail(argument, offers, NOW)


def rcpt(argument: str, *, utf8: bool = False) -> Recipient:
    return read_rcpt(argument, OFFERS, utf8=utf8)


def check_status(error: CommandError) -> None:
    assert str(error.code)[0] == error.enhanced[0]


def refused(argument: str, offers: Offers = OFFERS) -> str:
    """The status with which MAIL or RCPT with this argument is refused."""
    to = argument.upper().startswith("TO:")
    with pytest.raises(CommandError) as caught:
        _ = read_rcpt(argument, offers, utf8=False) if to else read_mail(argument, offers, NOW)
    assert str(caught.value.code)[0] == caught.value.enhanced[0]
    return f"{caught.value.code} {caught.value.enhanced}"


@pytest.mark.parametrize(
    ("line", "read"),
    [
        (b"quit", ("QUIT", "")),
        (b"MAIL FROM:<a@b.dev>  ", ("MAIL", "FROM:<a@b.dev>")),
        (b"EHLO  a.dev", ("EHLO", "a.dev")),
        ("RCPT TO:<ä@b.dev>".encode(), ("RCPT", "TO:<ä@b.dev>")),
        (b"", ("", "")),
    ],
)
def test_a_line_is_a_verb_and_an_argument(line: bytes, read: tuple[str, str]) -> None:
    assert split_command(line) == read


@pytest.mark.parametrize(
    "line",
    [b"NOOP\n", b"NO\0OP", b"NOOP\r", b"NOOP\t", b"\x1b[2J", b"NOOP \x7f", b"RCPT TO:<\xe4@b.dev>", b"\xff\xfe",
     "\u017ftarttls".encode(), "ma\u0131l FROM:<a@b.dev>".encode()],
)  # fmt: skip
def test_octets_that_no_command_has_are_refused(line: bytes) -> None:
    with pytest.raises(CommandError) as caught:
        split_command(line)
    assert (caught.value.code, caught.value.enhanced) == (500, "5.5.2")


@pytest.mark.parametrize(
    ("path", "address"),
    [
        ("<>", ""),
        ("<Joe.User@Example.ORG>", "Joe.User@Example.ORG"),
        (" <a@b.dev>", "a@b.dev"),
        ("a@b.dev", "a@b.dev"),
        ("<@relay.dev,@other.dev:a@b.dev>", "a@b.dev"),
        ('<"a b"@c.dev>', '"a b"@c.dev'),
        ('<"a>b"@c.dev>', '"a>b"@c.dev'),
        ('<"a@b"@c.dev>', '"a@b"@c.dev'),
        ("<a@[192.0.2.1]>", "a@[192.0.2.1]"),
        ("<a%b.dev@c.dev>", "a%b.dev@c.dev"),
        ("<postmaster>", "postmaster@host.dev"),
    ],
)
def test_paths_are_read(path: str, address: str) -> None:
    assert mail(f"FROM:{path}").sender == address
    assert mail(f"from:{path} BODY=8BITMIME").sender == address
    if address:
        assert rcpt(f"TO:{path}").address == address


@pytest.mark.parametrize(
    ("argument", "status"),
    [
        ("", "501 5.5.4"),
        ("FROM", "501 5.5.4"),
        ("FROM :<a@b.dev>", "501 5.5.4"),
        ("TO:<>", "501 5.1.3"),
        ("FROM:<a@b.dev", "501 5.1.7"),
        ("FROM:<<a@b.dev>>", "501 5.1.7"),
        ("FROM:<a@b.dev>SIZE=1", "501 5.1.7"),
        ("FROM:<a@sales>", "501 5.1.7"),
        ("TO:<user@sales>", "501 5.1.3"),
        ("TO:<user@-x-.y>", "501 5.1.3"),
        ("TO:<a b@c.dev>", "501 5.1.3"),
        ("TO:<joe>", "501 5.1.3"),
        ("TO:<a@127.0.0.1>", "501 5.1.3"),
        ('TO:<"a@b.dev>', "501 5.1.3"),
        (f"TO:<{'x' * 65}@b.dev>", "501 5.1.3"),
        (f"TO:<a@{'x' * 64}.dev>", "501 5.1.3"),
        ("TO:<ä@b.dev>", "553 5.6.7"),
        ("FROM:<ä@b.dev>", "553 5.6.7"),
        ("FROM:<a@bücher.dev>", "553 5.6.7"),
    ],
)
def test_paths_that_are_none_are_refused(argument: str, status: str) -> None:
    assert refused(argument) == status


def test_with_smtputf8_an_address_may_be_beyond_ascii() -> None:
    assert mail("FROM:<ä@bücher.dev> SMTPUTF8").sender == "ä@xn--bcher-kva.dev"
    assert rcpt("TO:<ä@b.dev>", utf8=True).address == "ä@b.dev"


def test_all_parameters_of_mail_are_read() -> None:
    found = mail(
        "FROM:<a@b.dev> SIZE=1000 body=8bitmime SMTPUTF8 RET=hdrs ENVID=QQ+2B1 AUTH=<> REQUIRETLS "
        "HOLDFOR=60 BY=7200;nt MT-PRIORITY=-4"
    )
    assert (found.size, found.body, found.smtputf8) == (1000, "8BITMIME", True)
    assert (found.ret, found.envid, found.require_tls) == (DsnReturn.HDRS, "QQ+1", True)
    assert (found.not_before, found.deliver_by, found.by_mode) == (NOW + 60, NOW + 7200, "NT")
    assert found.priority == -4


@pytest.mark.parametrize(
    ("words", "status"),
    [
        ("SIZE=1001", "552 5.3.4"),
        ("SIZE=", "501 5.5.4"),
        ("SIZE=-1", "501 5.5.4"),
        ("SIZE=1 SIZE=1", "501 5.5.4"),
        ("BODY=BINARYMIME", "504 5.5.4"),
        ("BODY=9BIT", "501 5.5.4"),
        ("SMTPUTF8=1", "501 5.5.4"),
        ("RET=ALL", "501 5.5.4"),
        ("ENVID=a ENVID=b", "501 5.5.4"),
        ("ENVID=a+zz", "501 5.5.4"),
        ("ENVID=a+0A", "501 5.5.4"),
        ("ENVID=+C3+A4", "501 5.5.4"),
        (f"ENVID={'x' * 101}", "501 5.5.4"),
        ("HOLDFOR=3601", "501 5.5.4"),
        ("HOLDFOR=x", "501 5.5.4"),
        ("HOLDFOR=0 HOLDUNTIL=2027-01-15T08:00:00Z", "501 5.5.4"),
        ("HOLDUNTIL=2030-01-31T12:00:00Z", "501 5.5.4"),
        ("HOLDUNTIL=2027-01-15T08:00:00", "501 5.5.4"),
        ("HOLDFOR=600 BY=60;R", "501 5.5.4"),
        ("BY=0;R", "501 5.5.4"),
        ("BY=-5;R", "501 5.5.4"),
        ("BY=5", "501 5.5.4"),
        ("BY=1234567890;N", "501 5.5.4"),
        ("MT-PRIORITY=10", "501 5.5.2"),
        ("MT-PRIORITY=", "501 5.5.4"),
        ("MT-PRIORITY=1 MT-PRIORITY=1", "501 5.5.2"),
        ("AUTH=", "501 5.5.4"),
        ("FOO=bar", "555 5.5.4"),
        ("NOTIFY=NEVER", "555 5.5.4"),
        ("=", "501 5.5.4"),
        ("A=B=C", "501 5.5.4"),
    ],
)
def test_parameters_of_mail_that_cannot_be_granted(words: str, status: str) -> None:
    assert refused(f"FROM:<a@b.dev> {words}") == status


def test_what_is_not_offered_is_refused() -> None:
    assert refused("FROM:<a@b.dev> HOLDFOR=1", PLAIN) == "555 5.5.4"
    assert refused("FROM:<a@b.dev> REQUIRETLS", PLAIN) == "530 5.7.10"


def test_a_time_that_is_over_holds_nothing_back() -> None:
    assert mail("FROM:<a@b.dev> HOLDUNTIL=1970-01-01T00:00:00Z").not_before == NOW
    assert mail("FROM:<a@b.dev> BY=-10;N").deliver_by == NOW - 10


def test_a_hold_may_be_given_as_a_moment_of_any_zone() -> None:
    found = mail("FROM:<a@b.dev> HOLDUNTIL=2027-01-15T10:30:00+02:00")
    assert found.not_before == NOW + 1800


@pytest.mark.parametrize(
    ("words", "wish"),
    [
        ("NEVER", Notify.NEVER),
        ("success,Delay", Notify.SUCCESS | Notify.DELAY),
        ("FAILURE", Notify.FAILURE),
    ],
)
def test_wishes_for_reports_are_read(words: str, wish: Notify) -> None:
    assert rcpt(f"TO:<a@b.dev> NOTIFY={words}").notify == wish


@pytest.mark.parametrize(
    "words",
    ["NOTIFY=NEVER,SUCCESS", "NOTIFY=SUCCESS,SUCCESS", "NOTIFY=", "NOTIFY=SOON", "NOTIFY=DELAY NOTIFY=DELAY",
     "ORCPT=rfc822", "ORCPT=;a", "ORCPT=rfc822;", "ORCPT=rfc822;a+zz", "ORCPT=rfc822;a+0D+0A", "ORCPT=ä;a",
     f"ORCPT=rfc822;{'x' * 501}", r"ORCPT=utf-8;\x{0D}", "ORCPT=rfc822;+FF"],
)  # fmt: skip
def test_parameters_of_rcpt_that_are_none_are_refused(words: str) -> None:
    assert refused(f"TO:<a@b.dev> {words}") == "501 5.5.4"


def test_the_longest_parameters_of_the_rfc_are_taken() -> None:
    assert mail(f"FROM:<a@b.dev> ENVID={'x' * 100}").envid == "x" * 100
    assert rcpt(f"TO:<a@b.dev> ORCPT=rfc822;{'x' * 500}").orcpt == "rfc822;" + "x" * 500


@pytest.mark.parametrize(
    ("given_as", "orcpt"),
    [
        ("rfc822;a+2Bb@c.dev", "rfc822;a+b@c.dev"),
        (r"utf-8;\x{E4}@c.dev", "utf-8;ä@c.dev"),
        ("UTF-8;ä@c.dev", "utf-8;ä@c.dev"),
        ("utf-8;+5Cx{E4}@c.dev", "utf-8;ä@c.dev"),
        ("rfc822;+C3+A4@c.dev", "utf-8;ä@c.dev"),
    ],
)
def test_an_original_recipient_is_decoded(given_as: str, orcpt: str) -> None:
    assert rcpt(f"TO:<a@b.dev> ORCPT={given_as}").orcpt == orcpt


def test_an_original_recipient_that_no_host_would_take_again_is_refused() -> None:
    assert refused(f"TO:<a@b.dev> ORCPT=utf-8;{'ä' * 300}") == "501 5.5.4"


# -- whatever comes ---

words = st.sampled_from(
    ["FROM:", "TO:", "from:", "<", ">", "<a@b.dev>", '"', "\\", "@", " ", "=", "+", ";", "SIZE=", "BODY=",
     "ENVID=", "NOTIFY=", "ORCPT=", "rfc822;", "utf-8;", r"\x{E4}", r"\x{110000}", r"\x{D800}", "+C3+A4",
     "HOLDFOR=", "BY=", "HOLDUNTIL=", "2027-01-15T08:00:00Z", "0001-01-01T00:00:00+14:00", "9", ";R", ";N",
     "T", "MT-PRIORITY=", "-", "SMTPUTF8", "REQUIRETLS", "AUTH=", "RET=", "FULL", "NEVER", "SUCCESS", ",",
     "ä", "\u2028", "\u00a0", "\u0131"]
)  # fmt: skip
arguments = st.lists(words | st.text(max_size=3), max_size=12).map("".join)


@given(st.binary(max_size=60))
def test_no_line_breaks_the_reading(line: bytes) -> None:
    try:
        verb, argument = split_command(line)
    except CommandError as error:
        check_status(error)
    else:
        assert verb.isascii()
        assert not any(one < " " for one in verb + argument)


@given(arguments, st.booleans())
@example("TO:<a@b.dev> ORCPT=" + "a" * 70 + ";x", True)
@example("TO:<a@b.dev> ORCPT=utf-8;+5Cx{5C}x{41}", True)
def test_what_is_accepted_can_be_written_and_read_again(argument: str, utf8: bool) -> None:
    for prefix in ("", "FROM:<a@b.dev> ", "TO:<a@b.dev> "):
        _mail_again(prefix + argument)
        _rcpt_again(prefix + argument, utf8)


def _mail_again(argument: str) -> None:
    try:
        found = mail(argument)
    except CommandError as error:
        check_status(error)
        return
    parameters = f" ENVID={commands.xtext(found.envid)}" if found.envid else ""
    parameters += " SMTPUTF8" if found.smtputf8 else ""
    line = commands.mail_from(found.sender, parameters, utf8=found.smtputf8)
    verb, again = split_command(line.removesuffix(b"\r\n"))
    assert verb == "MAIL"
    once_more = mail(again)
    assert (once_more.sender, once_more.envid) == (found.sender, found.envid)
    assert -9 <= found.priority <= 9
    assert found.not_before == 0 or NOW <= found.not_before <= NOW + OFFERS.hold_limit


def _rcpt_again(argument: str, utf8: bool) -> None:
    try:
        found = rcpt(argument, utf8=utf8)
    except CommandError as error:
        check_status(error)
        return
    parameters = commands.notify_parameter(found.notify) + commands.orcpt_parameter(found.orcpt)
    assert parameters.isascii()
    line = commands.rcpt_to(found.address, parameters, utf8=utf8)
    verb, again = split_command(line.removesuffix(b"\r\n"))
    assert verb == "RCPT"
    once_more = rcpt(again, utf8=utf8)
    assert (once_more.address, once_more.notify) == (found.address, found.notify)
    assert once_more.orcpt == found.orcpt
