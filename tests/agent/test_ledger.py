"""The account of a delivery adds up: everybody is decided once, by the right reason."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deliveryagent.agent.ledger import Ledger, Source
from deliveryagent.mail.delivery import Failure, Outcome, Pressure, Stage, Trouble, Verdict
from deliveryagent.mail.status import SmtpReply
from deliveryagent.policy.classify import RefusalSettings
from tests.doubles.courier import request

SOURCE = Source(RefusalSettings(), 0, "mx.test[192.0.2.1]:25")
OTHER = Source(RefusalSettings(), 1, "mx2.test[192.0.2.2]:25")

outcomes: st.SearchStrategy[Outcome] = st.one_of(
    st.builds(SmtpReply, st.integers(200, 599), st.just(""), st.text(max_size=20)),
    st.builds(Failure, st.sampled_from(Trouble), st.text(max_size=20)),
)
steps = st.lists(st.tuples(st.integers(1, 5), st.sampled_from(Stage), outcomes), max_size=20)


@given(steps=steps, end=st.sampled_from(["conclude", "stop", "give up"]))
def test_everybody_is_decided_exactly_once(
    steps: list[tuple[int, Stage, Outcome]], end: str
) -> None:
    ledger = Ledger(request(*(f"r{n}@example.net" for n in range(5))), 0.0)
    for number, stage, outcome in steps:
        for recipient in ledger.undecided:
            if recipient.number == number:
                ledger.apply(recipient, stage, outcome, SOURCE)
    match end:
        case "conclude":
            ledger.conclude()
        case "stop":
            ledger.stop()
        case _:
            ledger.give_up(ValueError("x"))
    result = ledger.result(3)
    assert ledger.over
    assert [r.number for r in result.recipients] == [1, 2, 3, 4, 5]
    assert all(r.verdict != Verdict.NEXT_HOST for r in result.recipients)
    assert all(r.enhanced for r in result.recipients)


def test_the_reason_people_see_is_that_of_the_last_host() -> None:
    ledger = Ledger(request("kim@example.net"), 0.0)
    ledger.apply_to_all(Stage.RCPT, SmtpReply(450, "4.7.1", "grey"), SOURCE)
    ledger.apply_to_all(Stage.CONNECT, Failure(Trouble.CONNECT_FAILED, "refused"), OTHER)
    ledger.conclude()
    (found,) = ledger.result().recipients
    assert (found.verdict, found.enhanced, found.text, found.host) == (
        Verdict.DEFERRED, "4.4.1", "refused", 1,
    )  # fmt: skip


def test_a_fault_of_the_last_host_bounces_only_at_the_end() -> None:
    ledger = Ledger(request("kim@example.net"), 0.0)
    ledger.apply_to_all(Stage.MAIL, Failure(Trouble.TOO_LARGE, "too large"), SOURCE)
    assert not ledger.over
    ledger.conclude()
    assert ledger.result().recipients[0].verdict == Verdict.BOUNCED


def test_what_burdens_the_site_is_told_in_a_line() -> None:
    ledger = Ledger(request("kim@example.net"), 0.0)
    ledger.apply_to_all(Stage.MAIL, SmtpReply(421, "4.7.0", "slow\ndown"), SOURCE)
    ledger.conclude()
    result = ledger.result()
    assert result.pressure == Pressure.SLOW
    assert result.reason == "mx.test[192.0.2.1]:25 said: 421 4.7.0 slow down"


def test_pressure_is_counted_once_per_answer_not_per_recipient() -> None:
    ledger = Ledger(request(*(f"r{n}@example.net" for n in range(5))), 0.0)
    ledger.apply_to_all(Stage.CONNECT, Failure(Trouble.CONNECT_FAILED, "refused"), SOURCE)
    assert len(ledger._pressures) == 1


@pytest.mark.parametrize("length", [10, 100_000])
def test_long_texts_are_cut(length: int) -> None:
    ledger = Ledger(request("kim@example.net"), 0.0)
    ledger.apply_to_all(Stage.DOT, SmtpReply(554, "", "x" * length), SOURCE)
    assert len(ledger.result().recipients[0].text) == min(length, 2000)


def test_only_the_delivered_are_relayed() -> None:
    ledger = Ledger(request("kim@example.net", "lee@example.net"), 0.0)
    kim, lee = ledger.undecided
    ledger.apply(kim, Stage.DOT, SmtpReply(250, "", "ok"), SOURCE, relayed=True)
    ledger.apply(lee, Stage.RCPT, SmtpReply(550, "", "no"), SOURCE, relayed=True)
    assert [r.relayed for r in ledger.result().recipients] == [True, False]
    assert not ledger.untried


def test_who_goes_back_is_untried() -> None:
    ledger = Ledger(request("kim@example.net"), 0.0)
    ledger.stop()
    assert ledger.untried
