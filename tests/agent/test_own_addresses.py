"""This host's addresses, as the kernel lists them."""

from pathlib import Path

from deliveryagent.agent.own_addresses import own_addresses

ROUTES = """Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     +-- 127.0.0.0/8 2 0 2
           |-- 127.0.0.1
              /32 host LOCAL
     +-- 192.0.2.0/24 2 0 2
           |-- 192.0.2.0
              /24 link UNICAST
           |-- 192.0.2.2
              /32 host LOCAL
        |-- 192.0.2.255
           /32 link BROADCAST
"""
SIXES = """00000000000000000000000000000001 01 80 10 80       lo
20010db8000000000000000000000002 04 40 00 82     eth0
"""


def test_addresses_of_interfaces_are_found_but_not_loopback(tmp_path: Path) -> None:
    (tmp_path / "routes").write_text(ROUTES)
    (tmp_path / "sixes").write_text(SIXES)
    found = own_addresses(tmp_path / "routes", tmp_path / "sixes")
    assert found == {"192.0.2.2", "2001:db8::2"}


def test_a_kernel_that_does_not_tell_is_no_error(tmp_path: Path) -> None:
    assert own_addresses(tmp_path / "none", tmp_path / "none") == frozenset()


def test_this_kernel_can_be_read() -> None:
    assert all(not address.startswith("127.") for address in own_addresses())
