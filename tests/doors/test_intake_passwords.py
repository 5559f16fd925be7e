"""Passwords are kept as hashes that say how dear they are."""

import pytest

from deliveryagent.intake import passwords
from deliveryagent.intake.passwords import PasswordHash
from deliveryagent.protocol.saslprep import PreparationError


def test_a_hash_fits_its_password_and_is_read_as_it_was_written() -> None:
    kept = passwords.hashed("pen\u00adcil", log_n=4)
    assert kept.fits("pencil")
    assert not kept.fits("pencils")
    assert passwords.read(kept.text) == kept
    assert kept.text.startswith("$scrypt$ln=4,r=8,p=1$")
    assert kept.text not in repr(kept)


def test_the_same_password_has_another_hash_each_time() -> None:
    one, other = passwords.hashed("pencil", log_n=4), passwords.hashed("pencil", log_n=4)
    assert one != other


def test_new_hashes_are_as_dear_as_they_should_be() -> None:
    assert passwords.hashed("pencil").text.startswith("$scrypt$ln=14,r=8,p=1$")


def test_the_example_of_the_standard() -> None:
    """RFC 7914 12, the first half of what it derives."""
    digest = "7023bdcb3afd7348461c06cd81fd38ebfda8fbba904f8e3ea9b543f6545da1f2"
    kept = PasswordHash(14, 8, 1, b"SodiumChloride", bytes.fromhex(digest))
    assert kept.fits("pleaseletmein")


def test_a_hash_as_dear_as_another_fits_nothing() -> None:
    kept = passwords.hashed("pencil", log_n=4)
    decoy = kept.like(b"salt", bytes(32))
    assert (decoy.log_n, decoy.blocks, decoy.lanes) == (4, 8, 1)
    assert not decoy.fits("pencil")


@pytest.mark.parametrize(
    "cost", ["ln=30,r=8,p=1", "ln=15,r=99,p=1", "ln=4,r=8,p=17", "ln=0,r=8,p=1"]
)
def test_a_hash_that_asks_for_too_much_is_refused(cost: str) -> None:
    kept = passwords.hashed("pencil", log_n=4).text
    with pytest.raises(ValueError, match="bounds"):
        passwords.read(kept.replace("ln=4,r=8,p=1", cost))


@pytest.mark.parametrize("text", ["", "$scrypt$", "$2b$12$abc", "$scrypt$ln=4,r=8,p=1$!$!"])
def test_what_is_no_hash_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        passwords.read(text)


def test_what_cannot_be_a_password_is_refused() -> None:
    with pytest.raises(PreparationError):
        passwords.hashed("")
