"""DNS for the measured domains: every domain has an MX host of its own, every host its address.

A server that shall not be what is measured: it answers from a table of finished octets, filled by
the lab's name server before it starts (questions of another form: at the first one). ``python -m
benchmarks.names PORT DOMAINS OWN``. UDP only, which is all that answers of this size need.
"""

import contextlib
import socket
import sys
from collections.abc import Iterator

import dns.message

from benchmarks.network import Network
from benchmarks.programs import running, wait_for
from deliveryagent.lab.nameserver import NameServer

_LARGEST = 4096


def zone(domains: int, network: Network) -> dict[str, list[str]]:
    """``d0.test``, ``d1.test``, …, each with one MX host.

    >>> zone(1, Network(own=True))
    {'d0.test': ['MX 10 mx.d0.test'], 'mx.d0.test': ['A 127.1.0.1']}
    """
    found = {}
    for number in range(domains):
        name = f"d{number}.test"
        found[name] = [f"MX 10 mx.{name}"]
        found[f"mx.{name}"] = [f"A {network.host(number)}"]
    return found


@contextlib.contextmanager
def serving(domains: int, network: Network) -> Iterator[None]:
    """Run the server for so many domains, on the network's name server port."""
    command = [sys.executable, "-m", "benchmarks.names"]
    command += [str(network.dns_port), str(domains), str(int(network.own))]
    with running(command):
        wait_for(lambda: _answers(network.dns_port), "the name server")
        yield


def _answers(port: int) -> bool:
    asked = question("d0.test", "MX")
    with socket.socket(type=socket.SOCK_DGRAM) as probe:
        probe.settimeout(0.2)
        try:
            probe.connect(("127.0.0.1", port))
            probe.send(asked)
            return len(probe.recv(_LARGEST)) > len(asked)
        except OSError:
            return False


def question(name: str, kind: str) -> bytes:
    """A question as resolvers ask it.

    >>> question("d0.test", "MX").hex(" ", 2)
    '0000 0100 0001 0000 0000 0000 0264 3004 7465 7374 0000 0f00 01'
    """
    return dns.message.make_query(name, kind, id=0).to_wire()


def answer(server: NameServer, known: dict[bytes, bytes], asked: bytes) -> bytes:
    """The answer to one question: all but its two octets of id is the same every time."""
    rest = asked[2:]
    found = known.get(rest)
    if found is None:
        answers: list[bytes] = []
        server.respond(asked, "udp", answers.append)
        if not answers:
            return b""
        found = known[rest] = answers[0][2:]
    return asked[:2] + found


def main() -> None:
    """Answer until killed."""
    port, domains, own = (int(word) for word in sys.argv[1:4])
    server = NameServer(zone(domains, Network(own=bool(own))))
    known: dict[bytes, bytes] = {}
    for number in range(domains):
        answer(server, known, question(f"d{number}.test", "MX"))
        answer(server, known, question(f"mx.d{number}.test", "A"))
        answer(server, known, question(f"mx.d{number}.test", "AAAA"))
    with socket.socket(type=socket.SOCK_DGRAM) as door:
        door.bind(("127.0.0.1", port))
        while True:
            asked, who = door.recvfrom(_LARGEST)
            found = answer(server, known, asked)
            if found:
                door.sendto(found, who)


if __name__ == "__main__":
    main()
