"""Where settings come from, and where the socket and the queue are found."""

import threading
from pathlib import Path

import pytest

from deliveryagent.config.location import absolute_url, locate, queue_file
from deliveryagent.config.ownname import qualify
from deliveryagent.config.problems import ConfigError
from deliveryagent.config.sources import gather


def written(directory: Path, text: str) -> str:
    file = directory / "agent.toml"
    file.write_text(text, "utf-8")
    return str(file)


def test_the_later_source_wins(tmp_path: Path) -> None:
    file = written(tmp_path, "[smtp]\nport = 1\nhelo_name = 'file'\nbind_address = 'file'\n")
    environ = {"DELIVERYAGENT_SMTP__PORT": "2", "DELIVERYAGENT_SMTP__HELO_NAME": "environment"}
    given = gather(file, ["smtp.port = 3"], environ).given
    assert given["smtp.port"].value == "3"
    assert given["smtp.port"].where == "--set"
    assert given["smtp.helo_name"].value == "environment"
    assert given["smtp.helo_name"].where == "environment DELIVERYAGENT_SMTP__HELO_NAME"
    assert given["smtp.bind_address"].value == "file"
    assert given["smtp.bind_address"].where == f"{file}:4"


def test_the_file_named_wins_over_the_environment(tmp_path: Path) -> None:
    file = written(tmp_path, "hostname = 'a.example'\n")
    other = tmp_path / "other.toml"
    other.write_text("hostname = 'b.example'\n", "utf-8")
    environ = {"DELIVERYAGENT_CONFIG": str(other)}
    assert gather(file, [], environ).given["hostname"].value == "a.example"
    assert gather(None, [], environ).given["hostname"].value == "b.example"


def test_variables_an_orchestrator_sets_are_left_alone() -> None:
    environ = {
        "DELIVERYAGENT_PORT": "tcp://192.0.2.1:25",
        "DELIVERYAGENT_SERVICE_HOST": "192.0.2.1",
    }
    gathered = gather(None, [], environ | {"DELIVERYAGENT_CONFIG": "/dev/null"})
    assert not gathered.given
    assert not gathered.problems


def test_routes_are_kept_apart_with_their_lines(tmp_path: Path) -> None:
    file = written(tmp_path, "[[route]]\nmatch = ['a']\n\n[[route]]\nnexthop = 'b'\n")
    first, second = gather(file, [], {}).routes
    assert first["match"].where == f"{file}:2"
    assert second["nexthop"].where == f"{file}:5"
    assert second[""].where == f"{file}:4"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[smtp\n", ":1:6: not TOML: "),
        ("a = 1\nb =", ":2:4: not TOML: "),
        ("a = '''", ":1: not TOML: "),
    ],
)
def test_a_syntax_error_has_line_and_column(tmp_path: Path, text: str, expected: str) -> None:
    file = written(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        gather(file, [], {})
    (problem,) = caught.value.problems
    assert str(problem).startswith(file)
    assert expected.partition(" ")[2] in str(problem)
    assert problem.where.startswith(f"{file}:{expected[1]}")


def test_a_file_in_another_encoding_is_refused_at_its_line(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_bytes(b"a = 1\nb = '\xff'\n")
    with pytest.raises(ConfigError, match=r"agent\.toml:2: not UTF-8"):
        gather(file, [], {})


def test_a_file_that_is_named_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read the configuration file: No such file"):
        gather(tmp_path / "missing.toml", [], {})


def test_an_override_without_a_value_is_a_problem() -> None:
    gathered = gather("/dev/null", ["smtp.port", "=1"], {})
    assert [problem.where for problem in gathered.problems] == ["--set smtp.port", "--set =1"]


def test_the_system_queue_has_its_socket_under_run() -> None:
    place = locate("/dev/null", (), {})
    assert place.run_dir == "/run/deliveryagent"
    assert place.queue_url == "sqlite:////var/lib/deliveryagent/queue.sqlite3"
    assert place.socket == "/run/deliveryagent/deliveryagent.sock"


def test_systemd_says_where_state_and_socket_are() -> None:
    environ = {"STATE_DIRECTORY": "/srv/kim/state:/other", "RUNTIME_DIRECTORY": "/run/user/7/d:/x"}
    place = locate("/dev/null", (), environ)
    assert place.queue_url == "sqlite:////srv/kim/state/queue.sqlite3"
    assert place.run_dir == "/run/user/7/d"


def test_another_queue_has_its_socket_beside_it(tmp_path: Path) -> None:
    place = locate("/dev/null", [f"queue.url=sqlite:///{tmp_path}/q/mail.db"], {})
    assert place.run_dir == f"{tmp_path}/q"


def test_relative_paths_count_from_the_configuration_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written(tmp_path, "run_dir = 'run'\n[queue]\nurl = 'sqlite:///q.db?timeout=5'\n")
    monkeypatch.chdir("/")
    place = locate(file, (), {})
    assert place.queue_url == f"sqlite:///{tmp_path}/q.db?timeout=5"
    assert place.run_dir == f"{tmp_path}/run"
    assert locate(file, ["run_dir=here"], {}).run_dir == "/here"


def test_only_texts_can_say_where_things_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r":1: run_dir: expected a text"):
        locate(written(tmp_path, "run_dir = 3\n"), (), {})
    with pytest.raises(ConfigError, match=r"expected SECTION\.KEY=VALUE"):
        locate("/dev/null", ["nonsense"], {})


def test_a_server_has_no_queue_file() -> None:
    url = "postgresql+psycopg://agent@db/mail"
    assert queue_file(url) is None
    assert absolute_url(url, "/base") == url
    assert queue_file("sqlite:///") is None
    assert locate("/dev/null", [f"queue.url={url}"], {}).run_dir == "/run/deliveryagent"


@pytest.mark.parametrize(
    ("kernel", "answer", "expected"),
    [
        ("Mail.Example.org.", "unasked.example", "mail.example.org"),
        ("mail", "mail.example.org.", "mail.example.org"),
        ("mail", "mail", "mail.localdomain"),
        ("mail", "localhost.localdomain", "mail.localdomain"),
        ("", "", "localhost.localdomain"),
    ],
)
def test_the_own_name_is_completed(kernel: str, answer: str, expected: str) -> None:
    assert qualify(kernel, lambda: answer) == expected


def test_a_silent_name_service_is_not_waited_for() -> None:
    never = threading.Event()

    def ask() -> str:
        never.wait(5)
        return "late.example"

    assert qualify("mail", ask, limit=0.05) == "mail.localdomain"
    never.set()
