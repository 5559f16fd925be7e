"""The words in which hooks answer."""

import pytest

from deliveryagent.mail.verdict import (
    Accept,
    Defer,
    Discard,
    Hold,
    Refusal,
    Reject,
    Tempfail,
    Verdict,
)


@pytest.mark.parametrize(("refusal", "first"), [(Reject(), "5"), (Tempfail(), "4")])
def test_refusals_have_codes_of_their_class(refusal: Refusal, first: str) -> None:
    assert str(refusal.code)[0] == refusal.enhanced[0] == first
    assert not refusal.close


@pytest.mark.parametrize(
    "verdict", [Accept(), Defer(seconds=1), Discard(), Hold(), Reject(), Tempfail()]
)
def test_every_verdict_may_have_a_text_and_a_delay_but_needs_none(verdict: Verdict) -> None:
    assert (verdict.text, verdict.delay) == ("", 0.0)


def test_verdicts_are_values() -> None:
    assert Reject(text="No") == Reject(text="No")
    with pytest.raises(AttributeError):
        Reject().text = "changed"  # type: ignore[misc]
