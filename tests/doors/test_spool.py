"""A content while it comes: whole at the end, however large, and never much of it in memory."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deliveryagent.intake.spool import SMALL, Spool


def content(spool: Spool) -> bytes:
    whole = spool.whole()
    return whole if isinstance(whole, bytes) else whole.read()


@given(st.lists(st.integers(0, SMALL), max_size=6), st.integers(0, 200))
def test_what_went_in_comes_out(sizes: list[int], small: int) -> None:
    spool = Spool()
    pieces = [bytes([65 + number]) * size for number, size in enumerate(sizes)] + [b"x"] * small
    for piece in pieces:
        spool.write(piece)
    spool.flush()
    assert spool.size == sum(map(len, pieces))
    assert content(spool) == b"".join(pieces)
    assert content(spool) == b"".join(pieces), "a second time too"
    spool.close()


def test_small_contents_stay_in_memory_and_large_ones_do_not() -> None:
    spool = Spool()
    spool.write(b"x" * SMALL)
    assert isinstance(spool.whole(), bytes)
    spool.write(b"x")
    assert not isinstance(spool.whole(), bytes)
    assert not spool._pieces
    spool.close()


def test_the_file_has_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    spool = Spool()
    spool.write(b"x" * (SMALL + 1))
    assert list(tmp_path.iterdir()) == []
    spool.close()
    spool.close()


def test_a_full_disk_is_told_to_whoever_writes_or_flushes() -> None:
    spool = Spool()
    spool.write(b"x" * (SMALL + 1))
    with Path("/dev/full").open("wb") as full:
        spool._file, empty = full, spool._file
        spool.write(b"y")
        with pytest.raises(OSError, match="No space left"):
            spool.flush()
        spool._file = empty
        full.raw.close()  # what it could not write is nobody's
    spool.close()
