"""What is kept of a password for SCRAM-SHA-256."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deliveryagent.protocol import scram
from deliveryagent.protocol.saslprep import PreparationError, prepare
from deliveryagent.protocol.scram import ScramVerifier

SALT = scram.decode("W22ZaJ0SNY7soEsUEjb6gQ==")
EXCHANGED = (
    b"n=user,r=rOprNGfwEbeRWgbNEkqO,"
    b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,"
    b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
)


def test_the_example_of_the_standard() -> None:
    """RFC 7677 3."""
    verifier = scram.derive("pencil", SALT, 4096)
    proof = scram.decode("dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=")
    assert verifier.proves(proof, EXCHANGED)
    assert not verifier.proves(proof, EXCHANGED + b"x")
    assert not verifier.proves(proof[:-1], EXCHANGED)
    signature = scram.encode(verifier.signature(EXCHANGED))
    assert signature == "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="


@settings(max_examples=20)
@given(st.text(min_size=1), st.binary(min_size=1, max_size=40), st.integers(1, 50))
def test_a_verifier_is_read_as_it_was_written(password: str, salt: bytes, iterations: int) -> None:
    try:
        prepare(password)
    except PreparationError:
        return
    verifier = scram.derive(password, salt, iterations)
    assert scram.read(verifier.text) == verifier
    assert scram.encode(verifier.stored_key) not in repr(verifier)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "SCRAM-SHA-1$4096:YQ==$YQ==:YQ==",
        "SCRAM-SHA-256$4096:YQ==$YQ==:YQ==",
        "SCRAM-SHA-256$0:YQ==$" + "A" * 43 + "=:" + "A" * 43 + "=",
        "SCRAM-SHA-256$4096:!$" + "A" * 43 + "=:" + "A" * 43 + "=",
    ],
)
def test_what_is_no_verifier_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        scram.read(text)


def test_a_made_up_verifier_is_the_same_each_time_and_looks_like_any() -> None:
    one, again = scram.made_up("kim", b"secret"), scram.made_up("kim", b"secret")
    real: ScramVerifier = scram.derive("pencil", SALT)
    assert one == again
    assert one != scram.made_up("alex", b"secret")
    assert one != scram.made_up("kim", b"another secret")
    assert len(one.salt) == len(real.salt) == scram.SALT_OCTETS
    assert one.iterations == real.iterations
