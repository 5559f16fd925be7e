"""Sources and sinks: what is sent is what is counted, with and without the programs of Postfix."""

import shutil
import smtplib
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.letters import SENDER, letters
from benchmarks.network import Network
from benchmarks.programs import Failure, end, running, wait_for, within
from benchmarks.scenarios.isolation import deaf
from benchmarks.scenarios.latency import latencies
from benchmarks.scenarios.tls import self_signed
from benchmarks.sink import Sink
from benchmarks.source import load, send


@pytest.mark.parametrize("own", [True, False])
def test_a_sink_counts_every_message_and_knows_when_it_came(tmp_path: Path, own: bool) -> None:
    with Sink(tmp_path, own=own) as sink:
        begun = time.monotonic()
        send(sink.port, letters(50, 1000, domains=3), sessions=4)
        assert sink.wait(50, 10)
        sink.reset()
        send(sink.port, letters(30, 1000))
        assert sink.wait(30, 10)
        assert begun < sink.first <= sink.when(15) <= sink.last
        with pytest.raises(Failure, match="only 30 of 31"):
            sink.when(31)


def test_a_sink_that_records_names_the_recipients_in_order(tmp_path: Path) -> None:
    with Sink(tmp_path, record=True) as sink:
        send(sink.port, letters(5, 300, first=100), sessions=1)
        assert sink.wait(5, 10)
        sink.reset()
        send(sink.port, [(SENDER, ["a@x.test", "b@x.test"], b"Subject: x\r\n\r\n..\r\n")])
        assert sink.wait(1, 10)
        assert [who for _, who in sink.records()] == ["a@x.test", "b@x.test"]


def test_a_sink_waits_no_longer_than_mail_keeps_coming(tmp_path: Path) -> None:
    with Sink(tmp_path, own=True) as sink:
        assert not sink.wait(1, 0.05)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl command")
def test_mail_is_taken_inside_tls(tmp_path: Path) -> None:
    certificate = self_signed(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(certificate)
    with Sink(tmp_path, certificate=certificate) as sink:
        with smtplib.SMTP("127.0.0.1", sink.port, timeout=20) as session:
            session.starttls(context=context)
            session.sendmail(SENDER, ["a@x.test"], b"Subject: x\r\n\r\nhello\r\n")
            session.sendmail(SENDER, ["a@x.test"], b"Subject: x\r\n\r\nhello\r\n")
        assert sink.wait(2, 10)


@pytest.mark.skipif(shutil.which("smtp-source") is None, reason="no smtp-source")
def test_the_ceiling_is_measured_with_smtp_source(tmp_path: Path) -> None:
    with Sink(tmp_path) as sink:
        assert load(sink.port, messages=40, size=500)
        assert sink.wait(40, 10)


def test_a_server_that_refuses_is_a_failure() -> None:
    with socket.create_server(("127.0.0.1", 0)) as door:
        port = door.getsockname()[1]
        with running([sys.executable, "-c", _REFUSED, str(port)]) as client:
            guest, _ = door.accept()
            with guest:
                guest.sendall(b"554 go away\r\n")
                assert client.wait(30) == 7


_REFUSED = """
import sys
from benchmarks.programs import Failure
from benchmarks.source import send
try:
    send(int(sys.argv[1]), [], sessions=1)
except Failure as error:
    sys.exit(7 if "554 go away" in str(error) else 1)
"""


def test_nobody_answers_at_a_deaf_port() -> None:
    with deaf() as port, socket.socket() as probe:
        probe.settimeout(0.3)
        with pytest.raises(TimeoutError):
            probe.connect(("127.0.0.1", port))


def test_what_was_started_is_ended_with_its_children() -> None:
    script = "import subprocess,sys\np = subprocess.Popen(['sleep', '60'])\nprint(p.pid, flush=True)\np.wait()"
    with running([sys.executable, "-c", script], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
    process.stdout.close()
    assert process.returncode is not None
    wait_for(lambda: _gone(child), "the child's end")
    end(process)


def _gone(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_time_is_limited_and_the_limit_goes_with_the_block() -> None:
    with pytest.raises(Failure, match="not finished"), within(0.05):
        time.sleep(10)
    with within(0.05):
        pass
    time.sleep(0.1)


def test_hosts_have_addresses_of_their_own_where_that_is_possible() -> None:
    assert len({Network(own=True).host(number) for number in range(1000)}) == 1000
    assert {Network(own=False).host(number) for number in range(10)} == {"127.0.0.1"}


class _Recorded:
    """A sink's record, made up."""

    def __init__(self, *records: tuple[float, str]) -> None:
        self._records = list(records)

    def records(self) -> list[tuple[float, str]]:
        return self._records


def test_latency_counts_from_the_end_of_the_call() -> None:
    calls = {"a": (0.0, 1.0), "b": (2.0, 2.5), "c": (3.0, 3.5)}
    sink = _Recorded((1.5, "a"), (2.4, "b"), (3.6, "c"), (9.0, "stranger"))
    found = latencies(sink, calls, skip=1)
    assert found["p99"] == pytest.approx(100)
    assert found["p50"] == 0.0  # it was there before the call returned
    assert found["call_p50"] == pytest.approx(500)


@pytest.mark.parametrize("arrived", [["a"], ["a", "b", "b"]])
def test_what_is_lost_or_doubled_is_no_latency(arrived: list[str]) -> None:
    sink = _Recorded(*((1.0, who) for who in arrived))
    with pytest.raises(Failure, match="arrivals"):
        latencies(sink, {"a": (0.0, 0.5), "b": (0.0, 0.5)})
