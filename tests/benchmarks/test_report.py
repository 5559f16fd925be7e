"""The report: from JSON to tables."""

from pathlib import Path

import msgspec
import pytest

from benchmarks import report
from benchmarks.figures import CaseResult, Result, SideResult, spread


def sitting(rate: float, *, name: str = "2 KiB, 1 domain", steal: float = 0.0) -> Result:
    side = SideResult(figures={"rate": spread([rate])}, steal=[steal], failures=[])
    peer = SideResult(figures={"rate": spread([100.0])}, steal=[0.0], failures=["TimeoutError: x"])
    ratios = {"agent / Postfix": {"rate": spread([rate / 100])}}
    case = CaseResult("drain", name, {"messages": 5}, {"agent": side, "Postfix": peer}, ratios)
    return Result({"cpu": "2 x fast"}, ["No PostgreSQL: none."], [case])


def kept(result: Result, file: Path) -> str:
    file.write_bytes(msgspec.json.encode(result))
    return str(file)


def test_the_tables_show_figures_ratios_conditions_and_goals(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report.main([kept(sitting(700.0), tmp_path / "a.json")]) == 0
    text = capsys.readouterr().out
    assert (
        "| drain, SQLite, 2 KiB, 1 domain | 700 messages/s | 100 | 7.00 | ≥ 6 | 10 | reached |"
        in text
    )
    assert "| rate, messages/s | 700 | 100 | 7.00 |" in text
    assert "| cpu | 2 x fast |" in text
    assert "No PostgreSQL" in text
    assert "Postfix: TimeoutError: x" in text
    assert "not measured" in text


def test_a_later_file_takes_the_place_of_an_earlier_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [kept(sitting(rate), tmp_path / f"{rate}.json") for rate in (700.0, 200.0)]
    report.main(["--short", *files])
    text = capsys.readouterr().out
    assert "2.00 | ≥ 6 | 10 | **not reached**" in text
    assert "700" not in text
    assert "Conditions" not in text


def test_a_noisy_run_is_marked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report.main([kept(sitting(700.0, steal=0.2), tmp_path / "a.json")])
    text = capsys.readouterr().out
    assert "| most steal in a run | 20.0% | 0.0% |" in text
    assert "is noisy" in text


def test_the_tables_take_their_place_in_a_document(tmp_path: Path) -> None:
    document = tmp_path / "page.md"
    document.write_text("before\n<!-- figures: begin -->\nold\n<!-- figures: end -->\nafter\n")
    words = ["--into", str(document), kept(sitting(700.0), tmp_path / "a.json")]
    for _ in range(2):
        report.main(words)
    text = document.read_text()
    assert text.startswith("before\n<!-- figures: begin -->\n\n| what")
    assert text.endswith("\n<!-- figures: end -->\nafter\n")
    assert "old" not in text
    assert text.count("### Conditions") == 1


def test_a_document_without_marks_is_left_alone(tmp_path: Path) -> None:
    document = tmp_path / "page.md"
    document.write_text("nothing\n")
    with pytest.raises(SystemExit):
        report.main(["--into", str(document), kept(sitting(700.0), tmp_path / "a.json")])
    assert document.read_text() == "nothing\n"
