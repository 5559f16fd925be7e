"""The socket file."""

import socket
import stat
from pathlib import Path

import pytest

from deliveryagent.intake.listening import listen, remove


def answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as caller:
        return caller.connect_ex(str(path)) == 0


def test_a_socket_everybody_may_connect_to(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    with listen(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o666
        assert answers(path)
        assert [entry.name for entry in tmp_path.iterdir()] == ["sock"]


def test_there_is_no_moment_without_a_socket(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    with listen(path) as first:
        second = listen(path)
        first.close()
        assert answers(path)
        second.close()


def test_remains_of_a_start_that_was_cut_short_do_no_harm(tmp_path: Path) -> None:
    (tmp_path / "sock.new").touch()
    with listen(tmp_path / "sock"):
        assert answers(tmp_path / "sock")


def test_what_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    path.write_text("precious")
    with pytest.raises(OSError, match="not a socket"):
        listen(path)
    assert path.read_text() == "precious"


def test_a_path_that_is_too_long_is_told(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="too long"):
        listen(tmp_path / ("x" * 100))


def test_a_directory_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        listen(tmp_path / "gone" / "sock")


def test_only_the_own_socket_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    with listen(path):
        made = path.stat()
        with listen(path):
            remove(path, made)
            assert path.exists()
            remove(path, path.stat())
            assert not path.exists()
            remove(path, made)
