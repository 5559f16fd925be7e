"""The fuzzer of the listener: a short run of it, and that it finds what is there to be found."""

import pytest

from deliveryagent.protocol.datastream import DataStream
from tests.fuzz import listener


def test_a_short_run_breaks_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    status = listener.main(["2"])
    assert status == 0, capsys.readouterr().out


def test_a_lenient_end_of_data_would_be_found(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    strict = DataStream.take

    def lenient(self: DataStream, buffer: bytearray) -> tuple[bytes, bool]:
        if (end := buffer.find(b"\n.\n")) >= 0:
            piece = bytes(buffer[: end + 1])
            del buffer[: end + 3]
            return piece, True
        return strict(self, buffer)

    monkeypatch.setattr(DataStream, "take", lenient)
    assert listener.main(["60", "1"]) == 1
    assert "\\n.\\n" in capsys.readouterr().out
