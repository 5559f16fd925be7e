"""The whole program in trouble: corrupt rows, a full disk, a second agent, a clock that jumps."""

import shutil
import sqlite3
import subprocess
from pathlib import Path

import pytest

from deliveryagent import Client
from tests.doubles.scripted_peer import ScriptedPeer
from tests.program.whole_agent import Background, WholeAgent, eventually, letter

CONFIGURATION = """
hostname = "agent.test"
run_dir = "{directory}/run"
[queue]
url = "sqlite:///{directory}/queue.sqlite3"
[delivery]
workers = 1
[[route]]
match = ["held.test"]
nexthop = "hold:for a look"
[[route]]
match = ["gone.test"]
nexthop = "error:5.1.1 no such place"
[[route]]
match = ["sender.test", "agent.test"]
nexthop = "discard:"
[[route]]
match = ["*"]
nexthop = "[127.0.0.1]:{port}"
"""


def agent_in(directory: Path, port: int = 9) -> WholeAgent:
    (directory / "run").mkdir()
    return WholeAgent(directory, CONFIGURATION.format(directory=directory, port=port))


def test_corrupt_content_is_put_aside_with_a_notice_and_the_rest_goes_on(tmp_path: Path) -> None:
    with Background(ScriptedPeer) as peer, agent_in(tmp_path, peer.port) as agent:
        with Client(config=agent.config) as client:
            missing, short, fine = client.enqueue_many(
                ("s@sender.test", [f"{name}@away.test"], letter(f"{name}@x"))
                for name in ("missing", "short", "fine")
            )
        with sqlite3.connect(tmp_path / "queue.sqlite3") as queue:
            ids = [row[0] for row in queue.execute("SELECT id FROM message ORDER BY id")]
            queue.execute("DELETE FROM content WHERE message_id = ?", (ids[0],))
            queue.execute(
                "UPDATE content SET data = substr(data, 1, 20) WHERE message_id = ?", (ids[1],)
            )
        queue.close()
        assert agent.start("--until-idle").wait(30) == 0, agent.log.read_text()
        messages = agent.messages()
        assert messages[fine]["status"] == "delivered"
        for held in (missing, short):
            assert messages[held]["status"] == "held"
            (recipient,) = messages[held]["recipients"]
            assert recipient["last_reply"]["text"].startswith("corrupt:")
        notices = [m for m in messages.values() if m["sender"] == ""]
        assert [m["recipients"][0]["address"] for m in notices] == ["postmaster@agent.test"] * 2


@pytest.mark.skipif(not shutil.which("prlimit"), reason="needs prlimit of util-linux")
def test_a_full_disk_stops_intake_and_delivery_and_both_come_back_by_themselves(
    tmp_path: Path,
) -> None:
    # Beyond the kernel's limit on the size of a file a write fails as on a full disk.
    with agent_in(tmp_path) as agent:
        with agent.log.open("ab") as log:
            process = subprocess.Popen(
                ["prlimit", "--fsize=3000000:unlimited", *agent._command("serve")],
                stderr=log,
                start_new_session=True,
            )
        agent._started.append(process)
        agent.ready(process)
        body = b"x" * 70 + b"\r\n"
        statuses = [
            agent.run("send", "--hold", "-f", "s@sender.test", "k@away.test",
                      "--patience", "1s", text=letter(f"{n}@x", body=body * 10_000))
            for n in range(14)
        ]  # fmt: skip
        codes = [done.returncode for done in statuses]
        assert codes[0] == 0
        assert codes[-1] == 75, statuses[-1].stderr
        assert set(codes) == {0, 75}
        taken = codes.count(0)
        subprocess.run(
            ["prlimit", f"--pid={process.pid}", "--fsize=unlimited:unlimited"], check=True
        )
        eventually(
            lambda: agent.run("send", "-f", "s@sender.test", "k@away.test",
                              text=letter("after@x")).returncode == 0
        )  # fmt: skip
        eventually(lambda: len(agent.messages()) == taken + 1)
        process.terminate()
        assert process.wait(20) == 0
        assert agent.run("db", "check").returncode == 0


def test_routes_that_end_here(tmp_path: Path) -> None:
    with agent_in(tmp_path) as agent:
        with Client(config=agent.config) as client:
            client.enqueue("s@sender.test", ["a@held.test", "b@gone.test"], letter("m@x"))
        assert agent.start("--until-idle").wait(30) == 0, agent.log.read_text()
        recipients = agent.recipients()
        assert recipients["a@held.test"]["status"] == "held"
        assert recipients["b@gone.test"]["status"] == "bounced"
        assert recipients["b@gone.test"]["last_reply"]["enhanced"] == "5.1.1"
        assert recipients["s@sender.test"]["status"] == "delivered", "the report"
