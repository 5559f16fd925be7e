"""The conversation: every recipient gets exactly one answer, and only the dot delivers."""

from collections.abc import Generator, Iterator
from typing import Any, TypeVar

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deliveryagent.mail.delivery import Failure, Outcome, Stage, Trouble
from deliveryagent.mail.status import SmtpReply
from deliveryagent.protocol import dialogue
from deliveryagent.protocol.capabilities import Capabilities
from deliveryagent.protocol.dialogue import Answer, Content, Dot, Exchange, Flight, Outcomes, Step
from tests.protocol.messages import ALL, PLAIN, message, recipients

T = TypeVar("T")

LOST = Failure(Trouble.LOST, "gone")
SURPLUS = Failure(Trouble.PROTOCOL, "too many replies")
LMTP = msgspec.structs.replace(ALL, lmtp=True)


def reply(text: str) -> SmtpReply:
    code, _, rest = text.partition(" ")
    return SmtpReply(int(code), "", rest)


OK, GO, BYE = reply("250 ok"), reply("354 go"), reply("421 bye")


def play(talk: Generator[Step, Outcomes, T], *answers: Outcomes) -> tuple[T, list[Step]]:
    """Hold a conversation with prepared answers; returns its result and the steps it took."""
    steps: list[Step] = []
    given_answers: Iterator[Outcomes] = iter(answers)
    try:
        step = next(talk)
        while True:
            steps.append(step)
            step = talk.send(() if isinstance(step, Content) else next(given_answers))
    except StopIteration as done:
        assert next(given_answers, None) is None, "not everything was asked for"
        result: T = done.value
        return result, steps


def send(
    *answers: Outcomes, peer: Capabilities = ALL, count: int = 1, reset: bool = False
) -> tuple[Exchange, list[Step]]:
    """A transaction with prepared answers."""
    people = recipients(count)
    request = message(recipients=people)
    return play(dialogue.transaction(request, people, peer, reset=reset), *answers)


def told(exchange: Exchange) -> list[str]:
    """The answers in short: stage and code or trouble."""
    return [
        f"{answer.stage} {answer.outcome.code}"
        if isinstance(answer.outcome, SmtpReply)
        else f"{answer.stage} {answer.outcome.trouble}"
        for answer in exchange.answers
    ]


# Transactions, one by one


def test_with_pipelining_the_envelope_is_one_flight() -> None:
    exchange, steps = send((OK, OK, OK, GO), (OK,), count=2)
    assert steps == [
        Flight(
            b"MAIL FROM:<a@example.org> SIZE=100\r\nRCPT TO:<r0@example.net>\r\n"
            b"RCPT TO:<r1@example.net>\r\nDATA\r\n",
            (Stage.MAIL, Stage.RCPT, Stage.RCPT, Stage.DATA),
        ),
        Content(),
        Dot(replies=1),
    ]
    assert exchange == Exchange(
        answers=(Answer(Stage.DOT, OK),) * 2,
        reusable=True,
        needs_reset=False,
        dot_sent=True,
        answered=True,
        dsn=True,
    )
    assert all(answer.delivered for answer in exchange.answers)


def test_without_pipelining_every_command_waits_for_its_reply() -> None:
    exchange, steps = send((OK,), (OK,), (GO,), (OK,), peer=PLAIN)
    assert [step.stages for step in steps if isinstance(step, Flight)] == [
        (Stage.MAIL,),
        (Stage.RCPT,),
        (Stage.DATA,),
    ]
    assert told(exchange) == ["dot 250"]
    assert exchange.dsn is False


def test_a_reset_goes_with_the_envelope() -> None:
    exchange, steps = send((OK, OK, OK, GO), (OK,), reset=True)
    assert isinstance(steps[0], Flight)
    assert steps[0].data.startswith(b"RSET\r\nMAIL ")
    assert not exchange.needs_reset


def test_a_refused_reset_ends_the_conversation() -> None:
    exchange, _ = send((reply("503 no"), OK, OK, GO), reset=True)
    assert told(exchange) == ["rset 503"]
    assert not exchange.reusable


def test_a_refused_sender_answers_for_all() -> None:
    for peer, answers in (
        (ALL, [(reply("550 no"), reply("503 no"), reply("503 no"), reply("503 no"))]),
        (PLAIN, [(reply("550 no"),)]),
    ):
        exchange, _ = send(*answers, peer=peer, count=2)
        assert told(exchange) == ["mail 550", "mail 550"]
        assert exchange.reusable
        assert exchange.needs_reset
        assert not exchange.dot_sent


def test_recipients_are_judged_one_by_one() -> None:
    exchange, _ = send((OK, OK, reply("450 later"), reply("550 no"), GO), (OK,), count=3)
    assert told(exchange) == ["dot 250", "rcpt 450", "rcpt 550"]
    assert exchange.reusable


@pytest.mark.parametrize("code", [250, 251, 252, 259])
def test_any_2xx_accepts_a_recipient(code: int) -> None:
    exchange, _ = send((OK, SmtpReply(code, "", ""), GO), (SmtpReply(code, "", ""),))
    assert told(exchange) == [f"dot {code}"]
    assert exchange.answers[0].delivered


def test_all_refused_and_data_refused_needs_no_more_than_a_reset() -> None:
    exchange, steps = send((OK, reply("550 no"), reply("503 no")))
    assert told(exchange) == ["rcpt 550"]
    assert len(steps) == 1
    assert (exchange.reusable, exchange.needs_reset) == (True, True)


def test_all_refused_but_data_accepted_gets_a_lone_dot_that_never_delivers() -> None:
    exchange, steps = send((OK, reply("550 no"), GO), (OK,))
    assert steps[1:] == [Dot(replies=1, lone=True)]
    assert told(exchange) == ["rcpt 550"]
    assert not exchange.dot_sent
    assert (exchange.reusable, exchange.needs_reset) == (True, True)
    exchange, _ = send((reply("450 no"), OK, GO), (OK,))
    assert told(exchange) == ["mail 450"]
    assert not exchange.dot_sent


def test_a_lone_dot_to_an_lmtp_peer_has_no_reply() -> None:
    exchange, steps = send((OK, reply("550 no"), GO), (), peer=LMTP)
    assert steps[1:] == [Dot(replies=0, lone=True)]
    assert told(exchange) == ["rcpt 550"]
    assert not exchange.reusable


def test_without_pipelining_data_is_not_even_said_when_all_are_refused() -> None:
    exchange, steps = send((OK,), (reply("550 no"),), peer=PLAIN)
    assert len(steps) == 2
    assert told(exchange) == ["rcpt 550"]


@pytest.mark.parametrize("code", [250, 251, 220, 450, 503, 554])
def test_no_content_follows_a_data_that_was_not_answered_with_3xx(code: int) -> None:
    exchange, steps = send((OK, OK, reply("550 no"), SmtpReply(code, "", "")), count=2)
    assert len(steps) == 1
    assert told(exchange) == [f"data {code}", "rcpt 550"]
    assert exchange.reusable is (code >= 400)
    assert not any(answer.delivered for answer in exchange.answers)


@pytest.mark.parametrize("code", [250, 354, 450, 550])
def test_the_dot_answers_for_all_accepted(code: int) -> None:
    exchange, _ = send((OK, OK, OK, GO), (SmtpReply(code, "", ""),), count=2)
    assert told(exchange) == [f"dot {code}"] * 2
    assert exchange.dot_sent
    assert exchange.reusable is (code != 354)
    assert exchange.needs_reset is (code != 250)


def test_an_lmtp_peer_answers_for_each_accepted_recipient() -> None:
    exchange, steps = send(
        (OK, OK, reply("550 no"), OK, OK, GO),
        (OK, reply("450 full"), reply("552 fuller")),
        peer=LMTP,
        count=4,
    )
    assert steps[-1] == Dot(replies=3)
    assert told(exchange) == ["dot 250", "rcpt 550", "dot 450", "dot 552"]
    assert exchange.reusable


def test_an_lmtp_peer_that_leaves_owes_the_rest() -> None:
    exchange, _ = send((OK, OK, OK, OK, GO), (OK, LOST), peer=LMTP, count=3)
    assert told(exchange) == ["dot 250", "dot lost", "dot lost"]
    assert exchange.dot_sent
    assert not exchange.reusable


def test_421_in_the_middle_answers_for_whoever_is_left() -> None:
    exchange, _ = send((OK, reply("550 no"), BYE, LOST), count=3)
    assert told(exchange) == ["rcpt 550", "rcpt 421", "rcpt 421"]
    assert not exchange.reusable
    exchange, _ = send((OK, OK, BYE), count=1)
    assert told(exchange) == ["data 421"]
    exchange, _ = send((OK, OK, GO), (BYE,))
    assert told(exchange) == ["dot 421"]
    assert not exchange.reusable
    exchange, _ = send((BYE, LOST))
    assert told(exchange) == ["mail 421"]


def test_a_lost_connection_answers_for_whoever_is_left() -> None:
    exchange, _ = send((LOST,))
    assert told(exchange) == ["mail lost"]
    assert not exchange.answered
    exchange, _ = send((OK, reply("550 no"), LOST), count=2)
    assert told(exchange) == ["rcpt 550", "rcpt lost"]
    assert exchange.answered
    exchange, _ = send((reply("550 no"), LOST), count=2)
    assert told(exchange) == ["mail 550", "mail 550"]
    assert not exchange.reusable


def test_more_replies_than_commands_answer_for_nobody() -> None:
    exchange, _ = send((OK, reply("550 no"), OK, GO, SURPLUS), count=2)
    assert told(exchange) == ["data protocol"] * 2
    exchange, _ = send((reply("550 no"), OK, GO, SURPLUS))
    assert told(exchange) == ["data protocol"]


def test_a_refusal_during_the_content_is_the_answer() -> None:
    for outcomes, answer in (((reply("552 big"), LOST), "content 552"), ((LOST,), "content lost")):
        talk = dialogue.transaction(message(), recipients(), ALL)
        next(talk)
        assert talk.send((OK, OK, GO)) == Content()
        with pytest.raises(StopIteration) as done:
            talk.send(outcomes)
        exchange: Exchange = done.value.value
        assert told(exchange) == [answer]
        assert not exchange.dot_sent
        assert not exchange.reusable


def test_what_the_peer_cannot_take_is_answered_without_a_word() -> None:
    request = message(size=1000)
    small = Capabilities(size=True, size_limit=10)
    talk = dialogue.transaction(request, recipients(2), small, reset=True)
    exchange, steps = play(talk)
    assert steps == []
    assert told(exchange) == ["mail too_large"] * 2
    assert exchange.reusable
    assert exchange.needs_reset
    assert not exchange.answered


def test_a_thousand_recipients_are_not_sent_in_one_breath() -> None:
    people = recipients(1000)
    talk = dialogue.transaction(message(recipients=people), people, ALL)
    step = next(talk)
    flights = 0
    sent = b""
    while isinstance(step, Flight):
        flights += 1
        sent += step.data
        assert len(step.data) <= 8192
        step = talk.send(tuple(GO if stage is Stage.DATA else OK for stage in step.stages))
    assert flights > 3
    assert sent.count(b"RCPT") == 1000
    assert sent.endswith(b"DATA\r\n")


def test_after_a_refused_sender_the_next_flight_stays_home() -> None:
    people = recipients(1000)
    talk = dialogue.transaction(message(recipients=people), people, ALL)
    step = next(talk)
    assert isinstance(step, Flight)
    with pytest.raises(StopIteration) as done:
        talk.send((reply("550 no"), *[reply("503 no")] * (len(step.stages) - 1)))
    assert set(told(done.value.value)) == {"mail 550"}


# Transactions, all of them

codes = st.sampled_from([250, 251, 354, 421, 450, 452, 550, 552, 220, 334, 599])
replies = st.builds(SmtpReply, codes, st.just(""), st.just("text"))
failures = st.sampled_from([LOST, Failure(Trouble.TIMEOUT, "slow"), SURPLUS])


@st.composite
def outcomes_of(draw: st.DrawFn, count: int, *, surplus: bool = True) -> Outcomes:
    """What a player may send back for that many replies."""
    said: list[Outcome] = draw(st.lists(replies, min_size=count, max_size=count))
    kind = draw(st.sampled_from(["all", "all", "all", "fewer", "more", "left"]))
    if kind == "fewer" and count:
        return (*said[: draw(st.integers(0, count - 1))], draw(failures))
    if kind == "more" and surplus and count:
        return (*said, SURPLUS)
    if kind == "left" and surplus and count == 1:
        return (draw(st.sampled_from([BYE, reply("450 idle")])), LOST)
    return tuple(said)


@given(st.data(), st.integers(1, 4), st.booleans(), st.booleans(), st.booleans())
def test_any_conversation_gives_each_recipient_exactly_one_true_answer(
    data: st.DataObject, count: int, lmtp: bool, pipelining: bool, reset: bool
) -> None:
    peer = msgspec.structs.replace(ALL, lmtp=lmtp, pipelining=pipelining)
    talk = dialogue.transaction(message(), recipients(count), peer, reset=reset)
    said = b""
    taken: dict[bytes, SmtpReply] = {}
    accepted: list[int] = []
    final: list[Outcome] = []
    contents = dots = 0
    broken = False
    step = next(talk)
    try:
        while True:
            outcomes: Outcomes = ()
            assert not broken, "the peer was spoken to after the end"
            match step:
                case Flight(sent, stages):
                    lines = sent.splitlines(keepends=True)
                    assert len(lines) == len(stages)
                    assert pipelining or len(lines) == 1
                    assert b"DATA" not in b"".join(lines[:-1])
                    said += sent
                    outcomes = data.draw(outcomes_of(len(stages)))
                    broken = any(isinstance(one, Failure) or one.code == 421 for one in outcomes)
                    pairs = zip(lines, outcomes, strict=False)
                    taken |= {line: one for line, one in pairs if isinstance(one, SmtpReply)}
                case Content():
                    contents += 1
                    assert taken[b"DATA\r\n"].intermediate
                    outcomes = data.draw(
                        st.sampled_from([(), (), (LOST,), (reply("552 big"), LOST)])
                    )
                    broken = bool(outcomes)
                case Dot(owed, lone):
                    dots += 1
                    accepted = [
                        number
                        for number in range(count)
                        if taken[b"RCPT TO:<r%d@example.net>\r\n" % number].positive
                        and any(
                            outcome.positive
                            for line, outcome in taken.items()
                            if line.startswith(b"MAIL")
                        )
                    ]
                    assert lone is not bool(accepted)
                    assert contents == (not lone)
                    assert owed == (len(accepted) if lmtp else 1)
                    outcomes = data.draw(outcomes_of(owed, surplus=False))
                    final = list(outcomes)
            step = talk.send(outcomes)
    except StopIteration as done:
        exchange: Exchange = done.value
    order = [line.split(b" ")[0].strip() for line in said.splitlines()]
    whole = [b"RSET"] * reset + [b"MAIL"] + [b"RCPT"] * count + [b"DATA"]
    assert order == whole[: len(order)]
    assert len(exchange.answers) == count
    assert dots <= 1
    assert exchange.dot_sent is bool(accepted)
    delivered = [n for n in range(count) if exchange.answers[n].delivered]
    if lmtp:
        yes = [
            isinstance(final[min(place, len(final) - 1)], SmtpReply)
            and place < len(final)
            and isinstance(final[place], SmtpReply)
            and final[place].positive  # type: ignore[union-attr]  # the line above says so
            for place in range(len(accepted))
        ]
        assert delivered == [n for n, taken_ in zip(accepted, yes, strict=True) if taken_]
    else:
        ok = bool(final) and isinstance(final[0], SmtpReply) and final[0].positive
        assert delivered == (accepted if ok else [])
    if broken or any(isinstance(one, Failure) or one.code == 421 for one in final):
        assert not exchange.reusable
    for answer in exchange.answers:
        if answer.stage is Stage.DOT:
            assert exchange.dot_sent


# The rest of a session


def test_the_greeting_is_read_without_a_word() -> None:
    assert play(dialogue.greeting(), (reply("554 go away"),)) == (
        reply("554 go away"),
        [Flight(b"", (Stage.GREETING,))],
    )
    assert play(dialogue.greeting(), (reply("220 hi"), SURPLUS))[0] == SURPLUS


def test_ehlo_gives_the_capabilities() -> None:
    offer = reply("250 mx.example hello\nPIPELINING\nDSN")
    hello, steps = play(dialogue.hello("me.example", discard={"DSN"}), (offer,))
    assert steps == [Flight(b"EHLO me.example\r\n", (Stage.EHLO,))]
    assert hello.capabilities is not None
    assert hello.capabilities.pipelining
    assert not hello.capabilities.dsn
    assert not hello.capabilities.lmtp


@pytest.mark.parametrize("code", [450, 500, 502, 554, 354])
def test_a_refused_ehlo_is_followed_by_helo(code: int) -> None:
    answers = (SmtpReply(code, "", "no"),), (reply("250 old.example\nPIPELINING"),)
    hello, steps = play(dialogue.hello("me.example"), *answers)
    assert steps[1] == Flight(b"HELO me.example\r\n", (Stage.EHLO,))
    assert hello.capabilities == Capabilities(name="old.example")


def test_421_or_a_lost_connection_is_not_followed_by_helo() -> None:
    for outcomes in ((BYE, LOST), (BYE,), (LOST,), (OK, SURPLUS)):
        hello, steps = play(dialogue.hello("me.example"), outcomes)
        assert len(steps) == 1
        assert hello.capabilities is None
    assert play(dialogue.hello("me.example"), (reply("500 no"),), (reply("500 no"),))[0] == (
        dialogue.Hello(None, reply("500 no"))
    )


def test_lhlo_has_no_fallback() -> None:
    hello, steps = play(dialogue.hello("me.example", lmtp=True), (reply("500 no"),))
    assert steps == [Flight(b"LHLO me.example\r\n", (Stage.EHLO,))]
    assert hello == dialogue.Hello(None, reply("500 no"))
    hello, _ = play(dialogue.hello("me.example", lmtp=True), (OK,))
    assert hello.capabilities is not None
    assert hello.capabilities.lmtp


def test_a_peer_with_our_own_name_is_ourselves() -> None:
    talk = dialogue.hello("me.example", own_names={"me.example"})
    hello, _ = play(talk, (reply("250 ME.example. hello"),))
    assert hello.capabilities is None
    assert isinstance(hello.outcome, Failure)
    assert hello.outcome.trouble is Trouble.LOOP
    hello, _ = play(dialogue.hello("me.example"), (reply("250 me.example"),))
    assert hello.capabilities is not None


def test_starttls_says_one_thing() -> None:
    assert play(dialogue.starttls(), (reply("220 go"),))[1] == [
        Flight(b"STARTTLS\r\n", (Stage.STARTTLS,))
    ]
    assert play(dialogue.starttls(), (reply("220 go"), SURPLUS))[0] == SURPLUS
    assert play(dialogue.starttls(), (BYE, LOST))[0] == BYE


def test_a_rehearsal_asks_and_sends_nothing() -> None:
    talk = dialogue.rehearsal(message(), recipients(3), ALL)
    exchange, steps = play(talk, (OK,), (OK,), (reply("550 no"),), (BYE, LOST))
    assert [step.stages for step in steps if isinstance(step, Flight)] == [
        (Stage.MAIL,),
        (Stage.RCPT,),
        (Stage.RCPT,),
        (Stage.RCPT,),
    ]
    assert told(exchange) == ["rcpt 250", "rcpt 550", "rcpt 421"]
    assert not any(answer.delivered for answer in exchange.answers)
    exchange, _ = play(dialogue.rehearsal(message(), recipients(2), ALL), (reply("550 no"),))
    assert told(exchange) == ["mail 550"] * 2
    exchange, _ = play(dialogue.rehearsal(message(), recipients(), ALL), (OK,), (OK,))
    assert told(exchange) == ["rcpt 250"]
    assert exchange.needs_reset


# The short way of most messages


CODES = st.sampled_from([200, 250, 251, 300, 354, 421, 450, 503, 550])
REPLIES = st.builds(SmtpReply, CODES, st.just(""), st.just("x"))


@given(
    st.lists(REPLIES, max_size=4).flatmap(
        lambda replies: st.sampled_from([tuple(replies), (*replies[:3], LOST)])
    )
)
def test_an_answer_is_an_agreement_just_where_the_content_comes_next(outcomes: Outcomes) -> None:
    if not outcomes:
        return
    request = message(recipients=recipients(1))
    talk = dialogue.transaction(request, request.recipients, ALL)
    first = next(talk)
    assert isinstance(first, Flight)
    assert first.data == dialogue.opening(request, ALL)
    assert first.stages == dialogue.OPENING
    try:
        goes_on = isinstance(talk.send(outcomes), Content)
    except StopIteration:
        goes_on = False
    assert dialogue.agreed(outcomes) == goes_on


@pytest.mark.parametrize(
    "facts",
    [
        {}, {"size": 20_000_000}, {"eightbit": True}, {"utf8": True}, {"sender": ""}, {"ret": "HDRS"},
        {"sender": "ä@example.org"}, {"sender": "a b@example.org"}, {"envid": "x"},
        {"sender": "a" * 3000 + "@example.org"}, {"recipients": recipients(2)}, {"recipients": ()},
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "peer",
    [
        ALL,
        PLAIN,
        msgspec.structs.replace(ALL, size=False),
        msgspec.structs.replace(ALL, size_limit=50),
    ],
)
def test_an_opening_is_what_the_dialogue_says_first_or_nothing(
    facts: dict[str, Any], peer: Capabilities
) -> None:
    request = message(**facts)
    opening = dialogue.opening(request, peer)
    first = next(dialogue.transaction(request, request.recipients, peer), None)
    whole = isinstance(first, Flight) and first.stages == dialogue.OPENING
    assert opening == (first.data if whole and isinstance(first, Flight) else b"")
