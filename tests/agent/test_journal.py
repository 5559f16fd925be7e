"""The journal reads back what was noted, whatever happened to the process or the file."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deliveryagent.agent.journal import Journal, State, read, slot_size_for, writer
from deliveryagent.mail.delivery import (
    DeliveryRequest,
    DeliveryResult,
    HostTry,
    RecipientResult,
    RequestRecipient,
    Verdict,
)

OWNER = b"0123456789abcdef"
OTHER = b"fedcba9876543210"


def a_request(queue_id: int = 7, recipients: int = 1, attempt: int = 1) -> DeliveryRequest:
    return DeliveryRequest(
        serial=queue_id,
        queue_id=queue_id,
        sender="a@a.test",
        recipients=tuple(RequestRecipient(n, f"r{n}@b.test", attempt) for n in range(recipients)),
        domain="b.test",
        next_hop="b.test",
        route=-1,
        size=10,
        dotted=False,
        eightbit=False,
        utf8=False,
        long_lines=False,
        ret="",
        envid="",
        arrival=0.0,
        due=0.0,
        content=b"x\r\n",
    )


def a_result(
    queue_id: int = 7,
    numbers: tuple[int, ...] = (0,),
    *,
    text: str = "2.0.0 ok",
    sequence: int = 1,
    hosts: int = 1,
) -> DeliveryResult:
    tries = tuple(
        HostTry("mx", "127.0.0.2", 25, "", 1, 0.1, 0.1, 0.1, "dot", 250, "2.0.0", text)
        for _ in range(hosts)
    )
    recipients = tuple(
        RecipientResult(n, Verdict.DELIVERED, "dot", 250, "2.0.0", text, 0) for n in numbers
    )
    return DeliveryResult(1, queue_id, recipients, tries, 1, "", 5.0, sequence)


def a_journal(path: Path, **sizes: int) -> Journal:
    return Journal.create(path / "w.journal", OWNER, **sizes)


def test_a_request_taken_up_is_found_as_started(tmp_path: Path) -> None:
    notes = a_journal(tmp_path)
    notes.start(a_request(recipients=3, attempt=2))
    (entry,) = read(tmp_path / "w.journal", OWNER)
    assert entry.state is State.STARTED
    assert (entry.queue_id, entry.recipients) == (7, ((0, 2), (1, 2), (2, 2)))
    assert entry.result is None


def test_a_dot_is_found_with_its_host(tmp_path: Path) -> None:
    notes = a_journal(tmp_path)
    slot = notes.start(a_request())
    assert slot is not None
    notes.dot(slot, "mx.b.test[127.0.0.2]:25")
    (entry,) = read(tmp_path / "w.journal", OWNER)
    assert (entry.state, entry.host) == (State.DOT, "mx.b.test[127.0.0.2]:25")


def test_an_outcome_is_found_whole(tmp_path: Path) -> None:
    notes = a_journal(tmp_path)
    slot = notes.start(a_request())
    assert slot is not None
    notes.dot(slot, "mx")
    notes.replied(slot, a_result())
    (entry,) = read(tmp_path / "w.journal", OWNER)
    assert (entry.state, entry.result) == (State.REPLIED, a_result())


def test_a_settled_outcome_is_forgotten_and_its_slot_used_again(tmp_path: Path) -> None:
    notes = a_journal(tmp_path, slots=1)
    slot = notes.start(a_request())
    assert slot is not None
    assert notes.start(a_request()) is None
    notes.replied(slot, a_result(sequence=4))
    notes.settled(3)
    assert notes.start(a_request()) is None
    notes.settled(4)
    assert read(tmp_path / "w.journal", OWNER) == []
    assert notes.start(a_request(9)) == slot
    assert [e.queue_id for e in read(tmp_path / "w.journal", OWNER)] == [9]


def test_what_is_known_of_some_recipients_survives_a_second_dot(tmp_path: Path) -> None:
    notes = a_journal(tmp_path)
    slot = notes.start(a_request(recipients=2))
    assert slot is not None
    notes.dot(slot, "mx1")
    notes.learned(slot, a_result(numbers=(0,)))
    (entry,) = read(tmp_path / "w.journal", OWNER)
    assert entry.result is not None
    assert [r.verdict for r in entry.result.recipients] == [Verdict.DELIVERED, Verdict.RETURNED]
    notes.dot(slot, "mx2")
    (entry,) = read(tmp_path / "w.journal", OWNER)
    assert entry.state is State.REPLIED
    assert entry.result is not None
    assert [r.verdict for r in entry.result.recipients] == [Verdict.DELIVERED, Verdict.IN_DOUBT]
    notes.replied(slot, a_result(numbers=(0, 1)))
    (entry,) = read(tmp_path / "w.journal", OWNER)
    assert entry.result == a_result(numbers=(0, 1))


@pytest.mark.parametrize("recipients", [1, 2, 50, 1000])
def test_long_texts_are_shortened_until_the_outcome_fits(tmp_path: Path, recipients: int) -> None:
    notes = a_journal(tmp_path, slots=2, slot_size=slot_size_for(recipients))
    slot = notes.start(a_request(recipients=recipients))
    assert slot is not None
    numbers = tuple(range(recipients))
    notes.replied(slot, a_result(numbers=numbers, text="x" * 16000, hosts=40))
    (entry,) = read(tmp_path / "w.journal", OWNER)
    assert entry.result is not None
    assert [(r.number, r.code) for r in entry.result.recipients] == [(n, 250) for n in numbers]


def test_a_request_that_can_never_fit_is_refused(tmp_path: Path) -> None:
    notes = a_journal(tmp_path)
    with pytest.raises(ValueError, match="5000 recipients"):
        notes.start(a_request(recipients=5000))
    assert notes.start(a_request()) is not None


def test_a_journal_of_another_queue_tells_nothing(tmp_path: Path) -> None:
    a_journal(tmp_path).start(a_request())
    assert read(tmp_path / "w.journal", OTHER) == []
    assert read(tmp_path / "absent", OWNER) == []


def test_an_existing_journal_is_never_overwritten(tmp_path: Path) -> None:
    a_journal(tmp_path).start(a_request())
    with pytest.raises(FileExistsError):
        a_journal(tmp_path)
    assert len(read(tmp_path / "w.journal", OWNER)) == 1


def test_the_writer_is_known_while_it_lives(tmp_path: Path) -> None:
    notes = a_journal(tmp_path)
    assert writer(tmp_path / "w.journal") == os.getpid()
    notes.close()
    assert writer(tmp_path / "w.journal") is None
    assert writer(tmp_path / "absent") is None


def test_a_full_disk_makes_requests_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes = a_journal(tmp_path)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    assert notes.start(a_request()) is None
    monkeypatch.undo()
    assert notes.start(a_request()) is not None


def test_an_empty_journal_takes_little_disk(tmp_path: Path) -> None:
    a_journal(tmp_path)
    assert (tmp_path / "w.journal").stat().st_blocks * 512 <= 65536


CHILD = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from deliveryagent.agent.journal import Journal
from tests.agent.test_journal import OWNER, a_request, a_result
notes = Journal.create(Path(sys.argv[1]), OWNER)
slot = notes.start(a_request())
if sys.argv[2] != "started":
    notes.dot(slot, "mx")
if sys.argv[2] == "replied":
    notes.replied(slot, a_result())
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("state", ["started", "dot", "replied"])
def test_notes_outlive_a_killed_process(tmp_path: Path, state: str) -> None:
    path = tmp_path / "w.journal"
    root = str(Path(__file__).parents[2])
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, path, state, root],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        assert writer(path) == child.pid
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert writer(path) is None
    (entry,) = read(path, OWNER)
    assert entry.state is State[state.upper()]


notes_made = st.lists(
    st.tuples(
        st.integers(1, 2**63 - 1),
        st.integers(1, 5),
        st.sampled_from(["started", "dot", "replied", "settled"]),
        st.text(max_size=40),
    ),
    max_size=8,
)


def fill(path: Path, made: list[tuple[int, int, str, str]]) -> None:
    notes = Journal.create(path, OWNER, slots=16)
    for sequence, (queue_id, recipients, state, text) in enumerate(made, 1):
        slot = notes.start(a_request(queue_id, recipients))
        assert slot is not None
        if state != "started":
            notes.dot(slot, "mx")
        if state in ("replied", "settled"):
            numbers = tuple(range(recipients))
            notes.replied(slot, a_result(queue_id, numbers, text=text, sequence=sequence))
        if state == "settled":
            notes._unsettled.remove((sequence, slot))
            notes.drop(slot)
    notes.close()


@settings(max_examples=40, deadline=None)
@given(made=notes_made)
def test_every_note_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, made: list[tuple[int, int, str, str]]
) -> None:
    path = tmp_path_factory.mktemp("journal") / "w.journal"
    fill(path, made)
    expected = sorted((q, n, state) for q, n, state, _ in made if state != "settled")
    found = read(path, OWNER)
    assert sorted((e.queue_id, len(e.recipients), e.state.name.lower()) for e in found) == expected


@settings(max_examples=60, deadline=None)
@given(
    made=notes_made,
    damage=st.lists(st.tuples(st.integers(0, 4096 * 5), st.binary(min_size=1, max_size=40))),
    length=st.integers(0, 4096 + 16 * 16384),
)
def test_a_damaged_file_never_invents_an_outcome(
    tmp_path_factory: pytest.TempPathFactory,
    made: list[tuple[int, int, str, str]],
    damage: list[tuple[int, bytes]],
    length: int,
) -> None:
    path = tmp_path_factory.mktemp("journal") / "w.journal"
    fill(path, made)
    everything = {queue_id for queue_id, *_ in made}
    replied = [
        (queue_id, a_result(queue_id, tuple(range(recipients)), text=text).recipients)
        for queue_id, recipients, state, text in made
        if state in ("replied", "settled")
    ]
    octets = bytearray(path.read_bytes())
    for at, noise in damage:
        octets[at : at + len(noise)] = noise
    path.write_bytes(octets[:length])
    for entry in read(path, OWNER):
        assert entry.queue_id in everything
        if entry.result is not None:
            assert (entry.queue_id, entry.result.recipients) in replied
