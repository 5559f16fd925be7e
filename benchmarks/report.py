"""``python -m benchmarks report FILE…``: the tables for people, in Markdown, from the JSON.

Of several files, a case in a later one takes the place of the same case in an earlier one.
``--short`` gives the goals alone, as the README has them. With ``--into`` they are not printed but
take the place of what stands between two marks, ``<!-- figures: begin -->`` and ``<!-- figures: end
-->``, in a document.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import msgspec

from benchmarks.figures import UNITS, CaseResult, Result
from benchmarks.goals import GOALS, judge
from benchmarks.runner import NOISY, shown

_QUICK = "**From a quick run, made to try the measurements: these figures say nothing.**"
_BEGIN = "<!-- figures: begin -->"
_CLOSE = "<!-- figures: end -->"


def main(words: Sequence[str]) -> int:
    """Print the report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks report", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--short", action="store_true", help="only the goals")
    parser.add_argument("--into", type=Path, metavar="DOCUMENT", help="a document with marks")
    arguments = parser.parse_args(words)
    results = [msgspec.json.decode(file.read_bytes(), type=Result) for file in arguments.files]
    text = "\n".join(render(merged(results), short=arguments.short))
    if arguments.into is None:
        print(text)
        return 0
    document: Path = arguments.into
    before = document.read_text(encoding="utf-8")
    head, begin, rest = before.partition(_BEGIN)
    _, close, tail = rest.partition(_CLOSE)
    if not begin or not close:
        parser.error(f"{document} has no marks {_BEGIN} and {_CLOSE}")
    after = f"{head}{begin}\n\n{text}\n\n{close}{tail}"
    document.write_text(after, encoding="utf-8")
    return 0


def merged(results: Sequence[Result]) -> Result:
    """All cases, the latest of each."""
    cases = {(case.scenario, case.name): case for result in results for case in result.cases}
    conditions = dict(results[-1].conditions)
    if any(result.conditions.get("quick") == "yes" for result in results):
        conditions["quick"] = "yes"
    left_out = list(dict.fromkeys(line for result in results for line in result.left_out))
    return Result(conditions, left_out, list(cases.values()))


def render(result: Result, *, short: bool = False) -> list[str]:
    """The lines of the report."""
    lines = [_QUICK, ""] if result.conditions.get("quick") == "yes" else []
    lines += _goals(result)
    if short:
        return lines
    lines += ["", "### Conditions", "", *_rows(["what", "value"], _conditions(result))]
    lines += ["", *[f"* {line}" for line in result.left_out]] if result.left_out else []
    for case in result.cases:
        lines += ["", f"### {case.scenario}: {case.name}", "", *_case(case)]
    return lines


def _goals(result: Result) -> list[str]:
    verdicts = [judge(goal, result.cases) for goal in GOALS]
    headings = ["what", "measured", "peer", "ratio", "at least", "aim", ""]
    return _rows(
        headings,
        [[v.what, v.measured, v.peer, v.ratio, v.at_least, v.aim, v.reached] for v in verdicts],
    )


def _conditions(result: Result) -> list[list[str]]:
    return [[name.replace("_", " "), str(value)] for name, value in result.conditions.items()]


def _case(case: CaseResult) -> list[str]:
    conditions = "; ".join(f"{name}: {value}" for name, value in case.conditions.items())
    names = dict.fromkeys(name for side in case.sides.values() for name in side.figures)
    rows = []
    for name in names:
        unit = UNITS[name]
        cells = [shown(side.figures.get(name), unit.digits) for side in case.sides.values()]
        cells += [shown(found.get(name), 2) for found in case.ratios.values()]
        rows.append([f"{unit.title}, {unit.unit}", *cells])
    steal = [max(side.steal, default=0.0) for side in case.sides.values()]
    rows.append(["most steal in a run", *(f"{one:.1%}" for one in steal), *[""] * len(case.ratios)])
    lines = [f"{conditions}.", "", *_rows(["", *case.sides, *case.ratios], rows)]
    notes = [f"{name}: {text}" for name, side in case.sides.items() for text in side.failures]
    if max(steal, default=0.0) > NOISY:
        notes.append(f"a run with more than {NOISY:.0%} of the processors' time stolen is noisy")
    return [*lines, *(["", *[f"* {note}" for note in notes]] if notes else [])]


def _rows(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    lines = [" | ".join(row) for row in ([*headings], ["---"] * len(headings), *escaped)]
    return [f"| {line} |" for line in lines]
