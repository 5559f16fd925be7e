"""A message from MAIL to the reply that decides who has it, over SMTP, submission and LMTP."""

from collections.abc import Callable

import msgspec
import pytest

from deliveryagent.mail.verdict import (
    Accept,
    Decision,
    Defer,
    Discard,
    Hold,
    Refusal,
    Reject,
    Tempfail,
)
from deliveryagent.protocol.session import Recipient, TlsFacts, Transaction
from deliveryagent.protocol.smtpd_steps import Kept, Outcome, Terms
from tests.doubles.smtp_talk import LMTP, NOW, SUBMISSION, TERMS, Guard, Message, Talk, answers
from tests.protocol.test_datastream import SMUGGLED

STRANGER = "192.0.2.7"
TAKEN = Kept("Ok")
BODY = ["Subject: x", "", "hi", "."]
LOGIN = "AUTH PLAIN AGtpbQBwZW5jaWw="
Open = Callable[..., Talk]


def begun(terms: Terms = TERMS, **more: object) -> Talk:
    """A session that has said hello."""
    talk = Talk(terms, **more)  # type: ignore[arg-type] # whatever the test gives
    talk.say(f"{'LHLO' if terms.kind == 'lmtp' else 'EHLO'} a.b.dev")
    return talk


def at_rcpt(terms: Terms = TERMS, **more: object) -> Talk:
    """A session with a sender and a recipient."""
    talk = begun(terms, **more)
    assert talk.codes("MAIL FROM:<a@b.dev>", "RCPT TO:<c@d.dev>") == ["250 2.1.0", "250 2.1.5"]
    return talk


# -- who may ---


def test_a_submission_begins_with_a_login() -> None:
    terms = msgspec.structs.replace(SUBMISSION, mechanisms=("PLAIN",), auth_without_tls=True)
    talk = begun(terms, address=STRANGER)
    assert talk.codes("MAIL FROM:<a@b.dev>", LOGIN, "MAIL FROM:<a@b.dev>", "RCPT TO:<c@d.dev>") == [
        "530 5.7.0",
        "235 2.7.0",
        "250 2.1.0",
        "250 2.1.5",
    ]


def test_hooks_that_only_look_on_let_nobody_in() -> None:
    talk = begun(SUBMISSION, address=STRANGER, hooks={"mail": None, "message": None})
    assert talk.code("MAIL FROM:<a@b.dev>") == "530 5.7.0"


def test_nothing_is_relayed_for_strangers() -> None:
    talk = begun(address=STRANGER)
    assert talk.codes("MAIL FROM:<a@b.dev>", "RCPT TO:<c@d.dev>", "DATA") == [
        "250 2.1.0",
        "550 5.7.1",
        "554 5.5.1",
    ]
    for path in (
        "<c%d.dev@mx.host.dev>",
        "<d.dev!c@mx.host.dev>",
        "<@mx.host.dev:c@d.dev>",
        '<"c@d.dev"@h.dev>',
    ):
        assert talk.code(f"RCPT TO:{path}") == "550 5.7.1"


def test_a_hook_may_let_a_recipient_in() -> None:
    hooks = {"rcpt": lambda one: Accept() if one.address == "c@d.dev" else None}
    talk = begun(address=STRANGER, hooks=hooks)
    talk.say("MAIL FROM:<a@b.dev>")
    assert talk.codes("RCPT TO:<c@d.dev>", "RCPT TO:<e@d.dev>") == ["250 2.1.5", "550 5.7.1"]


def test_a_user_has_sender_addresses_of_their_own() -> None:
    terms = msgspec.structs.replace(SUBMISSION, mechanisms=("PLAIN",), auth_without_tls=True)
    talk = begun(terms, address=STRANGER, guard=Guard(senders={"kim": {"kim@b.dev"}}))
    assert talk.codes(
        LOGIN, "MAIL FROM:<boss@b.dev>", "MAIL FROM:<>", "RSET", "MAIL FROM:<kim@b.dev>"
    ) == [
        "235 2.7.0",
        "553 5.7.1",
        "250 2.1.0",
        "250 2.0.0",
        "250 2.1.0",
    ]


def test_a_sender_domain_must_exist() -> None:
    senders: dict[str, Refusal] = {
        "gone.dev": Reject(code=550, enhanced="5.1.8", text="No such domain"),
        "slow.dev": Tempfail(code=450, enhanced="4.1.8", text="Cannot be looked up"),
    }
    terms = msgspec.structs.replace(TERMS, check_sender_domain=True)
    talk = begun(terms, senders=senders, address=STRANGER)
    assert talk.codes("MAIL FROM:<a@gone.dev>", "MAIL FROM:<a@slow.dev>", "MAIL FROM:<>") == [
        "550 5.1.8",
        "450 4.1.8",
        "250 2.1.0",
    ]
    assert begun(terms, senders=senders).code("MAIL FROM:<a@gone.dev>") == "250 2.1.0"
    for free in (begun(address=STRANGER, senders=senders), begun(terms, senders=senders)):
        assert free.code("MAIL FROM:<a@gone.dev>") == "250 2.1.0", "switched off, or trusted"


# -- the order of things ---


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (["MAIL FROM:<a@b.dev>"], "503 5.5.1"),
        (["EHLO a.b.dev", "RCPT TO:<c@d.dev>"], "503 5.5.1"),
        (["EHLO a.b.dev", "DATA"], "503 5.5.1"),
        (["EHLO a.b.dev", "MAIL FROM:<a@b.dev>", "MAIL FROM:<a@b.dev>"], "503 5.5.1"),
        (["EHLO a.b.dev", "MAIL FROM:<a@b.dev>", "DATA"], "554 5.5.1"),
        (["EHLO a.b.dev", "MAIL FROM:<a@b.dev>", "RCPT TO:<c@d.dev>", "DATA now"], "501 5.5.4"),
        (["EHLO a.b.dev", "MAIL FROM:<a@b.dev>", "RCPT TO:<c@d.dev>", "RSET", "DATA"], "503 5.5.1"),
    ],
)
def test_commands_out_of_order(lines: list[str], status: str) -> None:
    assert Talk().codes(*lines)[-1] == status


def test_after_the_end_of_a_content_nothing_of_it_remains() -> None:
    for outcome in (Kept("Ok"), Reject(), Tempfail()):
        talk = at_rcpt(outcome=lambda _, found=outcome: Outcome(found))
        talk.say("DATA", *BODY)
        assert talk.codes("RCPT TO:<c@d.dev>", "DATA") == ["503 5.5.1", "503 5.5.1"]
        assert talk.code("MAIL FROM:<a@b.dev>") == "250 2.1.0"


def test_more_recipients_than_the_limit_are_for_later() -> None:
    talk = begun(msgspec.structs.replace(TERMS, recipient_limit=2))
    lines = ["MAIL FROM:<a@b.dev>", *(f"RCPT TO:<u{number}@d.dev>" for number in range(4))]
    assert talk.codes(*lines)[1:] == ["250 2.1.5", "250 2.1.5", "452 4.5.3", "452 4.5.3"]
    talk.say("DATA", *BODY)
    assert talk.kept[0].recipients == ("u0@d.dev", "u1@d.dev")


def test_without_a_limit_there_is_room_for_all() -> None:
    talk = begun(msgspec.structs.replace(TERMS, recipient_limit=0))
    lines = ["MAIL FROM:<a@b.dev>", *(f"RCPT TO:<u{number}@d.dev>" for number in range(2000))]
    assert set(talk.codes(*lines)[1:]) == {"250 2.1.5"}


def test_a_priority_that_is_not_granted_is_lowered() -> None:
    talk = begun(msgspec.structs.replace(TERMS, priority_limit=4))
    assert (
        talk.hear(b"MAIL FROM:<a@b.dev> MT-PRIORITY=9\r\n")
        == b"250 2.3.6 Ok, priority lowered to 4\r\n"
    )
    talk.say("RCPT TO:<c@d.dev>", "DATA", *BODY)
    assert talk.kept[0].transaction.priority == 4
    assert talk.codes("MAIL FROM:<a@b.dev> MT-PRIORITY=4") == ["250 2.1.0"]
    stranger = begun(address=STRANGER)
    assert stranger.code("MAIL FROM:<a@b.dev> MT-PRIORITY=1") == "250 2.3.6"
    assert stranger.codes("RSET", "MAIL FROM:<a@b.dev> MT-PRIORITY=-1")[1] == "250 2.1.0"


def test_requiretls_only_under_tls() -> None:
    assert begun().code("MAIL FROM:<a@b.dev> REQUIRETLS") == "530 5.7.10"
    talk = begun(tls=TlsFacts(version="TLSv1.3", cipher="x"))
    assert talk.code("MAIL FROM:<a@b.dev> REQUIRETLS") == "250 2.1.0"


# -- contents ---


@pytest.mark.parametrize("end", SMUGGLED.values(), ids=SMUGGLED)
@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("by", ["DATA", "BDAT"])
def test_smuggled_commands_stay_text(end: bytes, normalise: bool, by: str) -> None:
    content = (
        b"Subject: one\r\n\r\ntext"
        + end
        + b"MAIL FROM:<evil@b.dev>\r\nRCPT TO:<evil@d.dev>\r\nDATA\r\nevil\r\n"
    )
    talk = at_rcpt(msgspec.structs.replace(TERMS, normalise=normalise))
    if by == "DATA":
        said = answers(talk.hear(b"DATA\r\n" + content + b".\r\n"))[1:]
    else:
        said = answers(talk.hear(b"BDAT %d LAST\r\n" % len(content) + content))
    assert len(said) == 1
    assert said[0].code == 250 if talk.kept else said[0].code == 550
    assert len(talk.kept) <= 1
    assert all(b"evil@b.dev" in one.content for one in talk.kept)
    assert talk.code("MAIL FROM:<a@b.dev>") == "250 2.1.0"


def test_a_content_that_is_too_large_is_refused_at_its_end() -> None:
    talk = at_rcpt(msgspec.structs.replace(TERMS, size_limit=100))
    assert talk.codes("DATA", "x" * 200, ".") == ["354", "552 5.3.4"]
    assert not talk.kept
    assert talk.code("MAIL FROM:<a@b.dev> SIZE=101") == "552 5.3.4"


def test_chunks_make_one_message() -> None:
    talk = at_rcpt()
    said = talk.hear(
        b"BDAT 11\r\nSubject: x\r", b"BDAT 3\r\n\n\r\n", b"BDAT 6 LAST\r\n.\r\n.\r\nNOOP\r\n"
    )
    assert [one.code for one in answers(said)] == [250, 250, 250, 250]
    assert talk.kept[0].content == b"Subject: x\r\n\r\n.\r\n.\r\n"
    assert talk.hear(b"BDAT 2 LAST\r\nhiNOOP\r\n").startswith(b"503 5.5.1")


def test_a_message_may_end_with_an_empty_chunk() -> None:
    talk = at_rcpt()
    talk.hear(b"BDAT 4\r\nhi\r\nBDAT 0 last\r\n")
    assert talk.kept[0].content == b"hi\r\n"


def test_data_and_chunks_do_not_mix() -> None:
    talk = at_rcpt()
    talk.hear(b"BDAT 4\r\nhi\r\n")
    assert talk.codes("DATA", "RCPT TO:<e@d.dev>", "MAIL FROM:<>", "RSET") == [
        "503 5.5.1",
        "503 5.5.1",
        "503 5.5.1",
        "250 2.0.0",
    ]
    talk.say("MAIL FROM:<a@b.dev>", "RCPT TO:<c@d.dev>", "DATA", *BODY)
    assert talk.kept[0].content == b"Subject: x\r\n\r\nhi\r\n"


@pytest.mark.parametrize("size", ["", "x", "-1", "1 2", "1 FIRST", "1 LAST LAST", "9" * 16])
def test_a_chunk_of_unknown_size_ends_the_session(size: str) -> None:
    talk = at_rcpt()
    assert talk.codes(f"BDAT {size}", "NOOP") == ["501 5.5.4"]
    assert talk.closed


def test_a_refused_chunk_ends_its_message() -> None:
    """The chunks behind it must not pass for the whole."""
    answers_of_hook = iter([Tempfail(), None])
    talk = at_rcpt(hooks={"data": lambda: next(answers_of_hook)})
    assert talk.hear(b"BDAT 4\r\nNOOPBDAT 6 LAST\r\nQUIT\r\n").split(b"\r\n")[:-1] == [
        b"451 4.7.1 Not accepted",
        b"503 5.5.1 Need MAIL first",
    ]
    assert not talk.kept
    talk = begun(address=STRANGER)
    talk.say("MAIL FROM:<a@b.dev>", "RCPT TO:<c@d.dev>")
    assert talk.hear(b"BDAT 6\r\nQUIT\r\nBDAT 6 LAST\r\nQUIT\r\n").startswith(
        b"554 5.5.1 No valid recipients"
    )
    assert not talk.closed


def test_a_chunk_too_much_is_refused_at_once_and_read_all_the_same() -> None:
    talk = at_rcpt(msgspec.structs.replace(TERMS, size_limit=100))
    said = talk.hear(
        b"BDAT 90\r\n" + b"x" * 90, b"BDAT 1000\r\n", b"QUIT\r\n" * 166, b"QUIT", b"NOOP\r\n"
    )
    assert [one.code for one in answers(said)] == [250, 552, 250]
    assert talk.most_held <= 1100
    assert talk.code("BDAT 0 LAST") == "503 5.5.1"


def test_very_many_chunks_are_flat() -> None:
    talk = at_rcpt(msgspec.structs.replace(TERMS, size_limit=10))
    talk.hear(b"BDAT 1\r\nx" * 5000)
    assert talk.session.transaction is None
    assert talk.most_held < 60_000


def test_empty_chunks_lead_nowhere() -> None:
    talk = at_rcpt(msgspec.structs.replace(TERMS, command_limit=5))
    assert talk.codes(*["BDAT 0"] * 6) == ["250 2.0.0"] * 4 + ["452 4.7.0"] * 2


# -- hooks ---


@pytest.mark.parametrize("stage", ["mail", "rcpt", "data"])
@pytest.mark.parametrize(
    ("decision", "status"),
    [
        (Reject(), "550 5.7.1"),
        (Tempfail(), "451 4.7.1"),
        (Tempfail(code=421, enhanced="4.3.2"), "421 4.3.2"),
    ],
)
def test_a_hook_may_refuse_at_every_stage(stage: str, decision: Decision, status: str) -> None:
    talk = begun(hooks={stage: decision})
    codes = talk.codes("MAIL FROM:<a@b.dev>", "RCPT TO:<c@d.dev>", "DATA")
    assert status in codes
    assert codes.index(status) == ["mail", "rcpt", "data"].index(stage)
    assert talk.closed == status.startswith("421")


def test_a_hook_may_rewrite_both_ends() -> None:
    talk = at_rcpt(hooks={"mail": Accept(address="x@y.dev"), "rcpt": Accept(address="z@y.dev")})
    talk.say("DATA", *BODY)
    assert talk.kept[0].transaction.sender == "x@y.dev"
    assert talk.kept[0].recipients == ("z@y.dev",)


@pytest.mark.parametrize("stage", ["mail", "rcpt", "data"])
def test_a_hook_may_hold_and_defer(stage: str) -> None:
    talk = at_rcpt(hooks={stage: Hold()})
    talk.say("DATA", *BODY)
    assert talk.kept[0].transaction.hold
    talk = at_rcpt(hooks={stage: Defer(seconds=60)})
    talk.say("DATA", *BODY)
    assert talk.kept[0].transaction.not_before == NOW + 60


def test_a_discarded_message_is_answered_with_yes() -> None:
    talk = at_rcpt(hooks={"mail": Discard()})
    assert talk.codes("DATA", *BODY) == ["354", "250 2.0.0"]
    assert not talk.kept
    talk = begun(hooks={"rcpt": lambda one: Discard() if one.address == "c@d.dev" else None})
    talk.say("MAIL FROM:<a@b.dev>", "RCPT TO:<c@d.dev>", "RCPT TO:<e@d.dev>", "DATA", *BODY)
    assert talk.kept[0].recipients == ("e@d.dev",)


def test_hooks_see_what_was_read() -> None:
    talk = at_rcpt(hooks={"mail": None, "rcpt": None, "data": None})
    talk.say("DATA", *BODY)
    (_, transaction), (_, recipient), last = talk.asked
    assert isinstance(transaction, Transaction)
    assert recipient == Recipient(address="c@d.dev", given="c@d.dev")
    assert last == ("data",)


def test_a_delay_keeps_the_reply_back() -> None:
    talk = begun(hooks={"mail": Accept(delay=3.0)})
    assert talk.code("MAIL FROM:<a@b.dev>") == "250 2.1.0"
    assert talk.waited == [3.0]


# -- LMTP ---


def each(
    refused: dict[str, Refusal], whole: Kept | Refusal = TAKEN
) -> Callable[[Message], Outcome]:
    return lambda _: Outcome(whole, refused)


def lmtp(**more: object) -> Talk:
    talk = begun(LMTP, **more)
    lines = [
        "MAIL FROM:<a@b.dev>",
        "RCPT TO:<u1@d.dev>",
        "RCPT TO:<bad>",
        "RCPT TO:<u2@d.dev>",
        "RCPT TO:<u3@d.dev>",
    ]
    assert talk.codes(*lines) == ["250 2.1.0", "250 2.1.5", "501 5.1.3", "250 2.1.5", "250 2.1.5"]
    return talk


@pytest.mark.parametrize("by", ["DATA", "BDAT"])
def test_over_lmtp_every_accepted_recipient_has_a_reply(by: str) -> None:
    refused: dict[str, Refusal] = {
        "u2@d.dev": Tempfail(code=452, enhanced="4.2.2"),
        "u3@d.dev": Reject(),
    }
    talk = lmtp(outcome=each(refused))
    lines = ["DATA", *BODY] if by == "DATA" else ["BDAT 4 LAST", "hi"]
    codes = [one for one in talk.codes(*lines) if one != "354"]
    assert codes == ["250 2.0.0", "452 4.2.2", "550 5.7.1"]


def test_over_lmtp_a_refused_content_is_refused_to_each() -> None:
    talk = lmtp()
    said = talk.hear(b"DATA\r\na\nb\r\n.\r\nNOOP\r\n")
    assert [one.code for one in answers(said)] == [354, 550, 550, 550, 250]
    assert talk.talk.errors == 2, "one of them is the bad address"


def test_over_lmtp_all_replies_come_before_the_session_is_closed() -> None:
    talk = lmtp(outcome=each({}, Tempfail(code=451, close=True)))
    assert talk.codes("DATA", *BODY) == ["354", *["451 4.7.1"] * 3]
    assert talk.closed


def test_over_lmtp_a_discarded_recipient_has_a_reply_too() -> None:
    talk = begun(LMTP, hooks={"rcpt": Discard()})
    talk.say("MAIL FROM:<a@b.dev>", "RCPT TO:<u1@d.dev>", "RCPT TO:<u2@d.dev>")
    assert talk.codes("DATA", *BODY) == ["354", "250 2.0.0", "250 2.0.0"]
