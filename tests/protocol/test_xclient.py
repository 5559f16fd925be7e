"""What proxies say: XCLIENT, and PROXY headers of both versions."""

import ipaddress
import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from deliveryagent.protocol.esmtp import CommandError
from deliveryagent.protocol.session import Client
from deliveryagent.protocol.xclient import PROXY_LONGEST, read_proxy, read_xclient

PROXY = Client(address="10.0.0.1", port=9)
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


def version_2(command: int, family: int, body: bytes) -> bytes:
    return SIGNATURE + struct.pack("!BBH", 0x20 | command, family, len(body)) + body


def addresses(source: str, port: int = 4711) -> bytes:
    packed = ipaddress.ip_address(source).packed
    return packed + bytes(len(packed)) + struct.pack("!HH", port, 25)


def test_xclient_describes_the_client() -> None:
    client, user = read_xclient(
        "name=mail.b.dev ADDR=IPV6:2001:db8::1 PORT=25 LOGIN=kim+40b.dev HELO=x", PROXY
    )
    assert client == Client(address="2001:db8::1", port=25, name="mail.b.dev", proxied=True)
    assert user == "kim@b.dev"


def test_what_is_not_said_stays_but_for_the_login() -> None:
    client, user = read_xclient("NAME=[TEMPUNAVAIL] PORT=x", PROXY)
    assert client == Client(address="10.0.0.1", port=0, proxied=True)
    assert user == ""


@given(
    st.text(max_size=60)
    | st.sampled_from(["ADDR=", "NAME=+0D+0A", "LOGIN=+FF", "PORT=99999", "ADDR=::ffff:10.1.1.1"])
)
def test_nothing_but_a_command_error_comes_of_it(argument: str) -> None:
    try:
        client, user = read_xclient(argument, PROXY)
    except CommandError as error:
        status = (error.code, error.enhanced)
    else:
        status = (501, "5.5.4")
        assert user.isprintable()
        assert client.name.isprintable()
        if client.address:
            ipaddress.ip_address(client.address)
    assert status == (501, "5.5.4")


@pytest.mark.parametrize(
    ("header", "client"),
    [
        (
            b"PROXY TCP4 192.0.2.1 10.0.0.1 4711 25\r\n",
            Client(address="192.0.2.1", port=4711, proxied=True),
        ),
        (
            b"PROXY TCP6 2001:db8::1 ::1 1 25\r\n",
            Client(address="2001:db8::1", port=1, proxied=True),
        ),
        (
            b"PROXY TCP6 ::ffff:192.0.2.1 ::1 1 25\r\n",
            Client(address="192.0.2.1", port=1, proxied=True),
        ),
        (b"PROXY UNKNOWN\r\n", None),
        (b"PROXY UNKNOWN ffff:f...f:ffff ffff 65535 65535\r\n", None),
        (
            version_2(1, 0x11, addresses("192.0.2.1")),
            Client(address="192.0.2.1", port=4711, proxied=True),
        ),
        (
            version_2(1, 0x21, addresses("2001:db8::1") + b"tlv"),
            Client(address="2001:db8::1", port=4711, proxied=True),
        ),
        (version_2(0, 0x11, addresses("192.0.2.1")), None),
        (version_2(1, 0x00, b""), None),
        (version_2(1, 0x31, bytes(216)), None),
    ],
)
def test_proxy_headers_are_read_octet_for_octet(header: bytes, client: Client | None) -> None:
    assert read_proxy(header + b"EHLO a\r\n") == (client, len(header))
    for size in range(len(header)):
        assert read_proxy(header[:size]) == (None, 0)


@pytest.mark.parametrize(
    "header",
    [
        b"EHLO a\r\n",
        b"PROXY TCP4 192.0.2.1\r\n",
        b"PROXY TCP4 x 10.0.0.1 1 25\r\n",
        b"PROXY TCP5 192.0.2.1 10.0.0.1 1 25\r\n",
        b"PROXY TCP4 192.0.2.1 10.0.0.1 -1 25\r\n",
        b"PROXY " + b"x" * 200,
        b"\x16\x03\x01",
        SIGNATURE + b"\x11\x11\x00\x0c" + bytes(12),
        version_2(2, 0x11, addresses("192.0.2.1")),
        version_2(1, 0x11, b"short"),
        version_2(1, 0x11, bytes(PROXY_LONGEST)),
    ],
)
def test_what_is_no_header_is_refused(header: bytes) -> None:
    with pytest.raises(ValueError):
        read_proxy(header)


@given(
    st.binary(max_size=PROXY_LONGEST),
    st.sampled_from([b"", b"PROXY ", SIGNATURE, SIGNATURE + b"\x21\x11\x00\x0c"]),
)
@example(b"TCP4 1.1.1.1 1.1.1.1 " + b"9" * 60 + b" 1\r\n", b"PROXY ")
def test_any_octets_are_judged(octets: bytes, start: bytes) -> None:
    data = (start + octets)[:PROXY_LONGEST]
    try:
        client, size = read_proxy(data)
    except ValueError:
        return
    assert 0 <= size <= len(data)
    if client is not None:
        ipaddress.ip_address(client.address)
