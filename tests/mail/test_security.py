"""Words of transport security."""

import doctest

from deliveryagent.mail import security
from deliveryagent.mail.security import TlsDemand, TlsFacts, TlsLevel


def test_the_examples_hold() -> None:
    assert doctest.testmod(security).failed == 0


def test_levels_differ_in_what_they_want_and_what_they_require() -> None:
    wanted = [TlsDemand(level).wanted for level in TlsLevel]
    required = [TlsDemand(level).required for level in TlsLevel]
    assert wanted == [False, True, True]
    assert required == [False, False, True]


def test_a_summary_says_whether_the_peer_was_verified() -> None:
    facts = TlsFacts("TLSv1.2", "ECDHE-RSA-AES256-GCM-SHA384", 256, verified=True)
    assert facts.summary() == "TLSv1.2 ECDHE-RSA-AES256-GCM-SHA384 verified"
