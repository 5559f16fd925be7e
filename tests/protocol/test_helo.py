"""What a client may call itself."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deliveryagent.protocol import helo


@pytest.mark.parametrize("name", ["[192.0.2.1]", "[IPv6:2001:db8::1]", "[ipv6:::1]"])
def test_an_address_in_brackets_is_a_literal(name: str) -> None:
    assert helo.is_literal(name)


@pytest.mark.parametrize(
    "name", ["192.0.2.1", "[192.0.2]", "[2001:db8::1]", "[IPv6:192.0.2.1]", "[]", "[", "[x]"]
)
def test_anything_else_is_none(name: str) -> None:
    assert not helo.is_literal(name)


@pytest.mark.parametrize(
    "name", ["example.com", "EXAMPLE.NET.", "a.b.example.org", "x.test", "localhost", "a.invalid"]
)
def test_reserved_names_and_all_below_them(name: str) -> None:
    assert helo.is_reserved(name)


@pytest.mark.parametrize(
    "name", ["myexample.com", "example.com.dev", "contest", "test.dev", "example.co"]
)
def test_names_that_only_look_like_it(name: str) -> None:
    assert not helo.is_reserved(name)


@pytest.mark.parametrize("name", ["a.b", "a-1.b.dev.", "x_1.dev", "1.2.dev"])
def test_host_names(name: str) -> None:
    assert helo.is_name(name)
    assert not helo.is_bare(name)


@pytest.mark.parametrize(
    "name", ["", ".", "a..b", "-a.b", "a-.b", "a b", "a/b", "x" * 64 + ".dev", "a." * 128 + "x"]
)
def test_what_is_no_name(name: str) -> None:
    assert not helo.is_name(name)


def test_bare_names() -> None:
    assert helo.is_bare("pc")
    assert helo.is_bare("pc.")


def test_own_names_in_any_case() -> None:
    assert helo.is_one_of("MX.Host.DEV.", {"mx.host.dev"})
    assert not helo.is_one_of("a.mx.host.dev", {"mx.host.dev"})


@given(st.text(max_size=400))
def test_no_name_breaks_out_of_a_received_field(name: str) -> None:
    shown = helo.shown(name)
    assert shown.isascii()
    assert not set(shown) & set('()\r\n;<> \t"\\')
    assert len(shown) <= 255
    for judge in (helo.is_literal, helo.is_name, helo.is_bare, helo.is_reserved):
        assert judge(name) in {True, False}
