"""Judging outcomes: the documented table row by row, and what holds for every row."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deliveryagent.mail.delivery import Failure, Outcome, Pressure, Stage, Trouble, Verdict
from deliveryagent.mail.nexthop import parse_next_hops
from deliveryagent.mail.status import SmtpReply, is_enhanced
from deliveryagent.policy.classify import (
    IN_DOUBT_TEXT,
    REPLIES,
    TROUBLES,
    Judgement,
    RefusalSettings,
    Scope,
    classify,
    judge_route,
    pressure_of,
)

DOCUMENT = Path(__file__).parents[2] / "docs" / "error-table.md"
DEFAULTS = RefusalSettings()

VERDICTS = {
    "delivered": Verdict.DELIVERED,
    "next host": Verdict.NEXT_HOST,
    "deferred": Verdict.DEFERRED,
    "bounced": Verdict.BOUNCED,
    "in doubt": Verdict.IN_DOUBT,
    "held": Verdict.HELD,
    "returned": Verdict.RETURNED,
}
PRESSURES = {
    "up": Pressure.UP,
    "-": Pressure.NONE,
    "slow": Pressure.SLOW,
    "down": Pressure.DOWN,
}
ANSWERS: dict[str, tuple[SmtpReply, ...]] = {
    "421": (SmtpReply(421, "4.3.0", "closing"), SmtpReply(421, "", "")),
    "4xx": (SmtpReply(451, "4.3.0", "local error"), SmtpReply(471, "", "550 no")),
    "4xx greylisting": (
        SmtpReply(450, "4.7.1", "Greylisted, too many unknown senders"),
        SmtpReply(451, "4.7.0", "gray-listing in action"),
    ),
    "4xx asking for less": (
        SmtpReply(450, "4.2.1", "is receiving mail at a rate that prevents delivery"),
        SmtpReply(451, "4.3.2", "please try again"),
        SmtpReply(450, "4.7.0", "too many messages, slow down"),
    ),
    "452": (SmtpReply(452, "4.5.3", "too many recipients"), SmtpReply(452, "", "enough")),
    "552": (SmtpReply(552, "", "too much"), SmtpReply(552, "5.3.4", "too big")),
    "5xx": (SmtpReply(550, "5.1.1", "no such user"), SmtpReply(599, "", "250 OK")),
    "5xx refusing us": (SmtpReply(554, "5.7.1", "listed"), SmtpReply(550, "5.7.26", "no")),
    "2xx": (SmtpReply(250, "2.0.0", "queued as 1"), SmtpReply(259, "", "550 no")),
}


class Row(NamedTuple):
    """One row of the document, cell by cell."""

    stage: str
    answer: str
    hosts_left: str
    last_host: str
    status: str
    concerns: str
    site: str
    session: str
    note: str


def rows() -> Iterator[Row]:
    for line in DOCUMENT.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if line.startswith("|") and len(cells) == 9 and cells[0].split(",")[0] in set(Stage):
            yield Row(*cells)


ROWS = tuple(rows())


def outcomes(row: Row, stage: Stage) -> Iterator[Outcome]:
    answer, _, condition = row.answer.partition(" (")
    condition = condition.rstrip(")")
    if answer in set(Trouble):
        yield Failure(Trouble(answer), "what happened", condition if is_enhanced(condition) else "")
    elif answer == "unexpected":
        yield SmtpReply(354, "", "go ahead")
        if stage is not Stage.DOT:
            yield SmtpReply(250, "2.0.0", "fine")
    else:
        yield from ANSWERS[answer]


def cases() -> Iterator[tuple[str, Row, Stage, Outcome, bool]]:
    for row in ROWS:
        for stage in map(Stage, row.stage.split(", ")):
            for number, outcome in enumerate(outcomes(row, stage)):
                for last_host in (False, True):
                    name = f"{stage}-{row.answer}-{number}-{'last' if last_host else 'left'}"
                    yield name, row, stage, outcome, last_host


CASES = tuple(cases())


def judge(row: Row, stage: Stage, outcome: Outcome, *, last_host: bool) -> Judgement:
    return classify(
        stage,
        outcome,
        last_host=last_host,
        settings=RefusalSettings(
            skip_4xx_greeting="skip_4xx_greeting = false" not in row.answer,
            skip_5xx_greeting="skip_5xx_greeting = false" not in row.answer,
        ),
        relay="(relay)" in row.answer,
        opportunistic="(TLS optional)" in row.answer,
    )


@pytest.mark.parametrize(
    ("row", "stage", "outcome", "last_host"),
    [case[1:] for case in CASES],
    ids=[case[0] for case in CASES],
)
def test_a_row_of_the_documented_table_is_what_classify_says(
    row: Row, stage: Stage, outcome: Outcome, last_host: bool
) -> None:
    judgement = judge(row, stage, outcome, last_host=last_host)
    assert judgement.verdict is VERDICTS[row.last_host if last_host else row.hosts_left]
    assert judgement.pressure is PRESSURES[row.site]
    assert judgement.reusable is (row.session == "kept")
    if row.concerns != "any":
        assert judgement.scope is Scope(row.concerns)
    assert judgement.enhanced == expected_status(row, outcome)


def expected_status(row: Row, outcome: Outcome) -> str:
    if is_enhanced(row.status):
        return row.status
    assert isinstance(outcome, SmtpReply)
    match row.status:
        case "reply":
            return outcome.status()
        case "reply as 4.x.x":
            return "4" + outcome.status()[1:]
        case "reply or 5.3.4":
            return outcome.enhanced or "5.3.4"
    pytest.fail(f"the document has an unknown status: {row.status}")


def test_the_document_has_every_rule_of_the_table() -> None:
    documented = {
        (stage, row.answer.partition(" (")[0]) for row in ROWS for stage in row.stage.split(", ")
    }
    for stage, digit in REPLIES:
        assert (stage.value, f"{digit}xx") in documented
        if digit == 4:
            assert (stage.value, "421") in documented
    for trouble in TROUBLES:
        assert any(answer == trouble.value for _, answer in documented), trouble
    assert set(TROUBLES) == set(Trouble)


def test_the_document_has_no_row_twice() -> None:
    keys = [(stage, row.answer) for row in ROWS for stage in row.stage.split(", ")]
    assert len(keys) == len(set(keys))


ENHANCED = st.one_of(
    st.just(""),
    st.tuples(st.integers(0, 9), st.integers(0, 999)).map(lambda pair: f"{pair[0]}.{pair[1]}"),
)
TEXTS = st.one_of(
    st.text(max_size=60),
    st.sampled_from(["greylisted", "rate limit", "too many recipients", "try again in 5 minutes"]),
)


@st.composite
def replies(draw: st.DrawFn) -> SmtpReply:
    code = draw(st.integers(200, 599))
    rest = draw(ENHANCED)
    enhanced = f"{code // 100}.{rest}" if rest and code // 100 in (2, 4, 5) else ""
    return SmtpReply(code, enhanced, draw(TEXTS))


FAILURES = st.builds(
    Failure, st.sampled_from(Trouble), st.text(max_size=20), st.sampled_from(["", "4.4.4", "5.1.2"])
)
SETTINGS = st.builds(
    RefusalSettings, skip_4xx_greeting=st.booleans(), skip_5xx_greeting=st.booleans()
)


@given(
    st.sampled_from(Stage), st.one_of(replies(), FAILURES), st.booleans(), SETTINGS, st.booleans()
)
def test_every_outcome_at_every_stage_gets_a_sound_judgement(
    stage: Stage, outcome: Outcome, last_host: bool, settings: RefusalSettings, relay: bool
) -> None:
    judgement = classify(stage, outcome, last_host=last_host, settings=settings, relay=relay)
    assert is_enhanced(judgement.enhanced)
    assert not (last_host and judgement.verdict is Verdict.NEXT_HOST)
    match judgement.verdict:
        case Verdict.DELIVERED:
            assert stage is Stage.DOT
            assert isinstance(outcome, SmtpReply)
            assert outcome.positive
            assert judgement.enhanced.startswith("2")
            assert judgement.pressure is Pressure.UP
        case Verdict.BOUNCED:
            assert judgement.enhanced.startswith("5")
        case Verdict.DEFERRED | Verdict.IN_DOUBT | Verdict.HELD | Verdict.RETURNED:
            assert judgement.enhanced.startswith("4")
        case Verdict.NEXT_HOST:
            pass


@given(st.sampled_from(Stage), ENHANCED, TEXTS, st.booleans(), SETTINGS)
def test_421_never_bounces_and_ends_the_session(
    stage: Stage, enhanced: str, text: str, last_host: bool, settings: RefusalSettings
) -> None:
    reply = SmtpReply(421, f"4.{enhanced}" if enhanced else "", text)
    judgement = classify(stage, reply, last_host=last_host, settings=settings)
    assert judgement.verdict in (Verdict.DEFERRED, Verdict.NEXT_HOST)
    assert not judgement.reusable


@given(st.one_of(replies(), FAILURES), st.booleans())
def test_after_the_dot_only_a_clear_no_lets_another_host_have_the_message(
    outcome: Outcome, last_host: bool
) -> None:
    judgement = classify(Stage.DOT, outcome, last_host=last_host, settings=DEFAULTS)
    clear = isinstance(outcome, SmtpReply) and outcome.code // 100 in (2, 4, 5)
    assert (judgement.verdict is Verdict.IN_DOUBT) is not clear
    if not clear:
        assert judgement.text.endswith(IN_DOUBT_TEXT)


@given(replies(), st.booleans())
def test_an_answer_to_one_recipient_touches_no_other(reply: SmtpReply, last_host: bool) -> None:
    judgement = classify(Stage.RCPT, reply, last_host=last_host, settings=DEFAULTS)
    if reply.code // 100 in (4, 5) and reply.code != 421:
        assert judgement.scope is Scope.RECIPIENT
    else:
        assert judgement.scope is Scope.HOST


@given(st.sampled_from(Stage), st.integers(400, 499), TEXTS)
def test_a_temporary_refusal_is_never_final_while_hosts_are_left(
    stage: Stage, code: int, text: str
) -> None:
    judgement = classify(stage, SmtpReply(code, "", text), last_host=False, settings=DEFAULTS)
    assert judgement.verdict is Verdict.NEXT_HOST


@pytest.mark.parametrize("code", [500, 501, 502, 503, 504, 509, 555])
def test_a_peer_that_does_not_understand_us_gets_no_second_message_on_the_session(
    code: int,
) -> None:
    judgement = classify(Stage.MAIL, SmtpReply(code, "", ""), last_host=True, settings=DEFAULTS)
    assert judgement.verdict is Verdict.BOUNCED
    assert not judgement.reusable


@pytest.mark.parametrize(
    ("reply", "again"),
    [
        (SmtpReply(452, "4.5.3", "Too many recipients received this hour"), True),
        (SmtpReply(452, "", "enough"), True),
        (SmtpReply(552, "", "enough"), True),
        (SmtpReply(451, "4.5.3", ""), True),
        (SmtpReply(550, "5.5.3", "too many recipients"), True),
        (SmtpReply(452, "4.2.2", "mailbox full"), False),
        (SmtpReply(452, "", "too many messages at once, slow down"), False),
        (SmtpReply(450, "4.7.1", "greylisted"), False),
        (SmtpReply(550, "5.1.1", "unknown"), False),
    ],
)
def test_a_full_transaction_is_told_from_a_bad_recipient(reply: SmtpReply, again: bool) -> None:
    judgement = classify(Stage.RCPT, reply, last_host=True, settings=DEFAULTS)
    assert judgement.again is again
    if again:
        assert judgement.pressure is Pressure.NONE


def test_a_full_mailbox_said_with_552_is_temporary() -> None:
    reply = SmtpReply(552, "5.2.2", "mailbox full")
    judgement = classify(Stage.RCPT, reply, last_host=True, settings=DEFAULTS)
    assert (judgement.verdict, judgement.enhanced) == (Verdict.DEFERRED, "4.2.2")


def test_the_delay_a_greylister_states_is_kept() -> None:
    reply = SmtpReply(450, "4.7.1", "Greylisted, please try again in 5 minutes")
    judgement = classify(Stage.RCPT, reply, last_host=True, settings=DEFAULTS)
    assert judgement.retry_after == 300.0
    assert judgement.pressure is Pressure.NONE


def test_a_domain_that_does_not_exist_may_be_reported_as_such() -> None:
    failure = Failure(Trouble.HOST_NOT_FOUND, "the domain does not exist", "5.1.2")
    judgement = classify(Stage.RESOLVE, failure, last_host=True, settings=DEFAULTS)
    assert (judgement.verdict, judgement.enhanced) == (Verdict.BOUNCED, "5.1.2")


def test_a_relay_that_cannot_be_found_defers_as_a_configuration_problem() -> None:
    failure = Failure(Trouble.HOST_NOT_FOUND, "no such host")
    judgement = classify(Stage.RESOLVE, failure, last_host=True, settings=DEFAULTS, relay=True)
    assert (judgement.verdict, judgement.enhanced) == (Verdict.DEFERRED, "4.3.5")
    assert judgement.text == "configuration problem: no such host"


def test_a_greeting_that_speaks_of_too_many_connections_slows_and_does_not_close() -> None:
    reply = SmtpReply(421, "4.7.0", "too many connections from your address")
    judgement = classify(Stage.GREETING, reply, last_host=True, settings=DEFAULTS)
    assert judgement.pressure is Pressure.SLOW


@pytest.mark.parametrize(
    ("pressures", "whole"),
    [
        ([], Pressure.NONE),
        ([Pressure.DOWN, Pressure.DOWN], Pressure.DOWN),
        ([Pressure.DOWN, Pressure.UP], Pressure.UP),
        ([Pressure.NONE, Pressure.DOWN], Pressure.NONE),
        ([Pressure.NONE, Pressure.UP], Pressure.UP),
        ([Pressure.SLOW, Pressure.DOWN], Pressure.SLOW),
        ([Pressure.SLOW, Pressure.UP], Pressure.NONE),
    ],
)
def test_a_request_says_of_the_site_what_its_best_host_showed(
    pressures: list[Pressure], whole: Pressure
) -> None:
    assert pressure_of(pressures) is whole


@pytest.mark.parametrize(
    ("next_hop", "verdict", "enhanced", "text"),
    [
        ("error:5.1.1 no such user", Verdict.BOUNCED, "5.1.1", "no such user"),
        ("error:4.3.2 moving house", Verdict.DEFERRED, "4.3.2", "moving house"),
        ("error:gone", Verdict.BOUNCED, "5.0.0", "gone"),
        ("hold:let me look", Verdict.HELD, "4.3.0", "let me look"),
        ("discard:unwanted", Verdict.DELIVERED, "2.0.0", "unwanted"),
    ],
)
def test_a_route_that_decides_by_itself_is_judged_without_a_host(
    next_hop: str, verdict: Verdict, enhanced: str, text: str
) -> None:
    judgement = judge_route(parse_next_hops(next_hop)[0])
    assert (judgement.verdict, judgement.enhanced, judgement.text) == (verdict, enhanced, text)


@pytest.mark.parametrize("next_hop", ["error:", "hold:", "discard:"])
def test_a_route_that_says_nothing_still_gives_a_reason(next_hop: str) -> None:
    assert judge_route(parse_next_hops(next_hop)[0]).text


def test_a_route_to_a_host_does_not_decide_by_itself() -> None:
    with pytest.raises(ValueError, match=re.escape("[mail.example] does not decide")):
        judge_route(parse_next_hops("[mail.example]")[0])
