"""SMTP smuggling: whatever somebody may take for the end of the data gives one message, or is refused.

Each of twelve sequences stands in a content before the commands of a second message, and comes through every
door there is. The next host is as lenient as any that was ever found, or a real Postfix of the time before
they were known: it must never see the second message, nor a CR or LF that is not part of CRLF.
"""

import os
import re
import smtplib
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from deliveryagent import Client
from deliveryagent.protocol.local import ServiceError
from tests.doubles.mail_sink import MailSink
from tests.doubles.maildir_postfix import maildir_postfix
from tests.doubles.stores import PostgresServer
from tests.program.doors import Doors
from tests.program.whole_agent import ROOT, Background, WholeAgent, eventually

PATIENCE = 30
SENDER = "kim@home.test"
SEQUENCES = {
    "LF.LF": b"\n.\n",
    "CR.CR": b"\r.\r",
    "CR.LF": b"\r.\n",
    "LF.CR": b"\n.\r",
    "LF.CRLF": b"\n.\r\n",
    "CRLF.LF": b"\r\n.\n",
    "CR.CRLF": b"\r.\r\n",
    "CRLF.CR": b"\r\n.\r",
    "CRLF NUL.CRLF": b"\r\n\0.\r\n",
    "CRLF.NUL CRLF": b"\r\n.\0\r\n",
    "CRLF.CRCRLF": b"\r\n.\r\r\n",
    "CRCRLF.CRCRLF": b"\r\r\n.\r\r\n",
}
NUMBERS = {name: number for number, name in enumerate(SEQUENCES)}


def content(name: str, evil: str) -> bytes:
    """A message with a sequence, and behind it what would be another message; without a final dot."""
    second = f"MAIL FROM:<{SENDER}>\r\nRCPT TO:<{evil}>\r\nDATA\r\nSubject: second\r\n\r\nevil\r\n"
    first = f"From: {SENDER}\r\nSubject: first\r\n\r\nhello"
    return first.encode() + SEQUENCES[name] + second.encode()


@dataclass
class Place:
    """The running agent, its next host, and a configuration for commands."""

    doors: Doors
    agent: WholeAgent
    sink: MailSink


@pytest.fixture(scope="module")
def place(
    tmp_path_factory: pytest.TempPathFactory, postgres_server: PostgresServer
) -> Iterator[Place]:
    with Background(lambda: MailSink(lenient=True)) as sink:
        doors = Doors(tmp_path_factory.mktemp("smuggling"), sink.port, postgres_server.fresh())
        open_doors(doors)
        with doors.serving() as agent:
            yield Place(doors, agent, sink)


def open_doors(doors: Doors) -> None:
    for kind in ("smtp", "lmtp"):
        for policy in ("refuse", "normalise"):
            doors.add_trusted(f"{kind}-{policy}", f'bare_newline = "{policy}"', kind=kind)


# -- doors: each hands over one content, and returns whether it was taken ---

Door = Callable[[Doors, WholeAgent, bytes, str], bool]


def _talk(port: int, verb: str, to: str, *rest: bytes) -> list[bytes]:
    """The codes of the replies to a conversation; everything after DATA or BDAT is sent at once."""
    with (
        socket.create_connection(("127.0.0.1", port), PATIENCE) as line,
        line.makefile("rb") as replies,
    ):

        def reply() -> bytes:
            while (text := replies.readline())[3:4] == b"-":
                pass
            return text[:3]

        codes = [reply()]
        opening = [f"{verb} pc.home.test", f"MAIL FROM:<{SENDER}>", f"RCPT TO:<{to}>"]
        for command in opening:
            line.sendall(command.encode() + b"\r\n")
            codes.append(reply())
        assert codes == [b"220", b"250", b"250", b"250"]
        for octets in rest:
            line.sendall(octets)
            codes.append(reply())
        line.sendall(b"QUIT\r\n")
        last = reply()
        assert last == b"221", (codes, last)  # nothing was taken for a command
        return codes


def by_data(kind: str, policy: str) -> Door:
    def door(doors: Doors, agent: WholeAgent, octets: bytes, to: str) -> bool:
        del agent
        verb = "LHLO" if kind == "lmtp" else "EHLO"
        port = doors.ports[f"{kind}-{policy}"]
        return _talk(port, verb, to, b"DATA\r\n", octets + b".\r\n")[-1] == b"250"

    return door


def by_bdat(kind: str, policy: str) -> Door:
    def door(doors: Doors, agent: WholeAgent, octets: bytes, to: str) -> bool:
        del agent
        verb = "LHLO" if kind == "lmtp" else "EHLO"
        cut = len(octets) // 3  # which is within the sequence or before it
        chunks = [b"BDAT %d\r\n" % cut + octets[:cut]]
        chunks.append(b"BDAT %d LAST\r\n" % (len(octets) - cut) + octets[cut:])
        return _talk(doors.ports[f"{kind}-{policy}"], verb, to, *chunks)[-1] == b"250"

    return door


def _run(agent: WholeAgent, octets: bytes, *words: str) -> bool:
    environment = {**os.environ, "DELIVERYAGENT_CONFIG": str(agent.config)}
    command = [sys.executable, *words]
    done = subprocess.run(
        command, input=octets, env=environment, capture_output=True, check=False, cwd=ROOT
    )
    assert done.returncode in {0, 65}, done.stderr  # taken, or EX_DATAERR
    return done.returncode == 0


def by_send(doors: Doors, agent: WholeAgent, octets: bytes, to: str) -> bool:
    del doors
    return _run(agent, octets, "-m", "deliveryagent", "send", "-f", SENDER, to)


def by_sendmail(doors: Doors, agent: WholeAgent, octets: bytes, to: str) -> bool:
    del doors
    program = "from deliveryagent.cli.sendmail.program import sendmail; sendmail()"
    return _run(agent, octets, "-c", program, "-i", "-f", SENDER, to)


def by_sendmail_smtp(doors: Doors, agent: WholeAgent, octets: bytes, to: str) -> bool:
    """``sendmail -bs``: what it stored says whether it was taken."""
    del doors
    program = "from deliveryagent.cli.sendmail.program import sendmail; sendmail()"
    envelope = f"EHLO pc\r\nMAIL FROM:<{SENDER}>\r\nRCPT TO:<{to}>\r\nDATA\r\n".encode()
    _run(agent, envelope + octets + b".\r\nQUIT\r\n", "-c", program, "-bs")
    return to in agent.recipients()


def by_client(doors: Doors, agent: WholeAgent, octets: bytes, to: str) -> bool:
    del doors
    with Client(config=agent.config) as client:
        try:
            client.enqueue(SENDER, [to], octets)
        except ServiceError:
            return False
    return True


def by_sql(doors: Doors, agent: WholeAgent, octets: bytes, to: str) -> bool:
    del agent
    with psycopg.connect(re.sub(r"^postgresql\+\w+", "postgresql", doors.url)) as connection:
        try:
            connection.execute(
                "SELECT deliveryagent.enqueue(%s, %s::text[], %s::bytea)", (SENDER, [to], octets)
            )
        except psycopg.DatabaseError:
            connection.rollback()
            return False
    return True


DOORS: dict[str, Door] = {
    **{f"{k} DATA, {p}": by_data(k, p) for k in ("smtp", "lmtp") for p in ("refuse", "normalise")},
    **{f"{k} BDAT, {p}": by_bdat(k, p) for k in ("smtp", "lmtp") for p in ("refuse", "normalise")},
    "dagent send": by_send,
    "sendmail": by_sendmail,
    "sendmail -bs": by_sendmail_smtp,
    "Client": by_client,
    "SQL": by_sql,
}


@pytest.mark.parametrize("name", DOORS)
def test_one_message_or_none_arrives(place: Place, name: str) -> None:
    sink, taken = place.sink, {}
    door = f"door{list(DOORS).index(name)}"
    for sequence, number in NUMBERS.items():
        evil = f"evil-{door}-{number}@far.test"
        to = f"{door}-{number}@far.test"
        taken[to] = DOORS[name](place.doors, place.agent, content(sequence, evil), to)
    strict = "refuse" in name or name == "sendmail -bs"
    # Where line ends are made CRLF, a NUL is still nothing that could be made right.
    assert sum(taken.values()) == (0 if strict else len(SEQUENCES) - 2), taken
    for to in (to for to, yes in taken.items() if yes):
        eventually(lambda to=to: bool(sink.to(to)), limit=PATIENCE)  # type: ignore[misc]
    assert {to: len(sink.to(to)) for to in taken} == {to: int(yes) for to, yes in taken.items()}
    assert not [one for one in sink.messages if any("evil" in line for line in one.rcpt)]
    for octets in sink.octets:
        lines = octets.count(b"\r\n")
        assert octets.count(b"\r") == octets.count(b"\n") == lines
        assert b"\0" not in octets


def test_a_client_that_is_refused_goes_on_with_a_clean_session(place: Place) -> None:
    with smtplib.SMTP("127.0.0.1", place.doors.ports["smtp-refuse"], timeout=PATIENCE) as client:
        for sequence in SEQUENCES:
            client.ehlo_or_helo_if_needed()
            assert client.mail(SENDER)[0] == client.rcpt("dirty@far.test")[0] == 250
            assert client.docmd("DATA")[0] == 354
            client.send(content(sequence, "evil@far.test") + b".\r\n")
            assert client.getreply()[0] == 550
        assert client.sendmail(SENDER, ["clean@far.test"], "Subject: clean\r\n\r\nhello\r\n") == {}
    eventually(lambda: bool(place.sink.to("clean@far.test")), limit=PATIENCE)
    assert not place.sink.to("dirty@far.test")


def test_a_real_postfix_sees_one_message_each(tmp_path: Path) -> None:
    with maildir_postfix() as postfix:
        doors = Doors(tmp_path, postfix.port)
        open_doors(doors)
        taken = []
        with doors.serving() as agent:
            for sequence, number in NUMBERS.items():
                octets = content(sequence, "ok+evil@real.test")
                for how, door in enumerate((by_data, by_bdat)):
                    to = f"ok+{how}-{number}@real.test"
                    taken += [to] if door("smtp", "normalise")(doors, agent, octets, to) else []
            inbox = postfix.directory / "mail/inbox/new"
            eventually(lambda: inbox.exists() and len(list(inbox.iterdir())) >= len(taken))
            eventually(lambda: postfix.queued() == 0)
        kept = [path.read_bytes() for path in inbox.iterdir()]
        assert len(kept) == len(taken) == 2 * (len(SEQUENCES) - 2)
        assert all(b"\nSubject: first\n" in one.partition(b"\n\n")[0] for one in kept)
