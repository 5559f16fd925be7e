"""What all commands share: refusals of one class, hooks asked where they want to be, decisions that last."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deliveryagent.mail.verdict import Defer, Discard, Hold, Reject, Tempfail
from deliveryagent.protocol.session import Transaction
from deliveryagent.protocol.smtpd_conversation import status_of
from tests.doubles.smtp_talk import NOW, TERMS, Talk, answers, check_statuses


@given(
    st.sampled_from([Reject, Tempfail]),
    st.integers(0, 999),
    st.sampled_from(["5.1.1", "4.2.2", "2.0.0", "", "5.1", "4.7.1\r\n250 x", "5.1.1 x"]),
    st.text(max_size=30),
)
def test_a_refusal_is_a_refusal_of_its_class(
    kind: type[Reject | Tempfail], code: int, enhanced: str, text: str
) -> None:
    talk = Talk()
    talk.said()
    talk.talk.decline(kind(code=code, enhanced=enhanced, text=text))
    said = answers(talk.said())
    check_statuses(said)
    assert said[0].code // 100 == (5 if kind is Reject else 4)


def test_what_makes_sense_is_left_alone() -> None:
    assert status_of(Reject(code=556, enhanced="5.1.10")) == (556, "5.1.10")
    assert status_of(Tempfail(code=421, enhanced="4.3.2")) == (421, "4.3.2")


def test_hooks_are_asked_only_where_they_want_to_be() -> None:
    talk = Talk(hooks={"helo": None})
    talk.say("EHLO a.b.dev", "MAIL FROM:<a@b.dev>", "RCPT TO:<c@d.dev>")
    assert talk.asked == [("helo", "a.b.dev")]


@pytest.mark.parametrize("decision", [Hold(), Discard(), Defer(seconds=5)])
def test_decisions_change_the_message_at_hand_only(decision: Hold) -> None:
    talk = Talk().talk
    talk.apply(decision)
    talk.begin(Transaction(sender="a@b.dev"))
    talk.apply(decision)
    found = talk.session.transaction
    assert found is not None
    assert (found.hold, found.discard, found.not_before) == (
        isinstance(decision, Hold),
        isinstance(decision, Discard),
        NOW + 5 if isinstance(decision, Defer) else 0,
    )
    talk.begin(Transaction(sender="a@b.dev"))
    assert talk.session.transaction == Transaction(sender="a@b.dev")


def test_a_longer_wait_is_not_shortened() -> None:
    talk = Talk(msgspec.structs.replace(TERMS, hold_limit=3600.0), hooks={"mail": Defer(seconds=5)})
    talk.say("EHLO a.b.dev", "MAIL FROM:<a@b.dev> HOLDFOR=600")
    assert talk.session.transaction is not None
    assert talk.session.transaction.not_before == NOW + 600
