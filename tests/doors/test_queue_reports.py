"""Paying the debts to senders."""

from collections.abc import Callable

import pytest

from deliveryagent.mail.submission import Submission
from deliveryagent.queue import overdue, reports
from deliveryagent.queue.overdue import Warning_
from deliveryagent.queue.reports import OwedRecipient, Report, ReportFacts, Written
from tests.doubles.stores import NOW, Store, expiry, letter, outcome

Compose = Callable[[ReportFacts], Submission | None]


def composer(seen: list[ReportFacts]) -> Compose:
    def compose(facts: ReportFacts) -> Submission | None:
        seen.append(facts)
        return (
            letter(facts.sender, sender="", content=b"a report", notify=1) if facts.sender else None
        )

    return compose


def test_a_failure_is_reported_with_its_last_answer(store: Store) -> None:
    one = letter("x@a.example", "y@b.example", notify=4, envid="e", ret="FULL")
    store.add(one)
    x, y = sorted(store.claim(), key=lambda c: c.number)
    store.settle(outcome(x, "bounced", owed="failure"), outcome(y, "deferred"))
    assert store.do(reports.pending, None) == [one.queue_id]
    seen: list[ReportFacts] = []
    (written,) = store.run(reports.write, Report(one.queue_id, composer(seen)))
    (report_id,) = written.reports
    assert not written.more
    assert seen == [
        ReportFacts(
            kind="failure",
            queue_id=one.queue_id,
            sender="joe@example.org",
            size=one.facts.size,
            eightbit=False,
            utf8=False,
            ret="FULL",
            envid="e",
            origin="uid=0",
            recipients=(
                OwedRecipient(
                    number=1,
                    address="x@a.example",
                    destination="a.example",
                    orcpt="",
                    notify=4,
                    status="bounced",
                    attempts=1,
                    due=None,
                    updated=NOW,
                    stage="dot",
                    code=550,
                    enhanced="5.1.1",
                    text="bounced, it said",
                    host="mx.example",
                ),
            ),
            content=one.parts[0],
            complete=True,
        )
    ]
    assert store.rows(
        "SELECT number, owed, reported FROM recipient WHERE message_id = :id ORDER BY 1",
        id=one.queue_id,
    ) == [
        (1, "", report_id),
        (2, "", None),
    ]
    assert store.value("SELECT sender FROM message WHERE id = :id", id=report_id) == ""
    assert store.do(reports.pending, None) == []
    assert store.problems() == []


def test_a_debt_is_paid_once(store: Store) -> None:
    one = letter("x@a.example")
    store.add(one)
    store.settle(outcome(one, "bounced", owed="failure"))
    seen: list[ReportFacts] = []
    order = Report(one.queue_id, composer(seen))
    first, second = store.run(reports.write, order, order)
    assert len(first.reports) == 1
    assert second == Written((), more=False)
    assert store.do(reports.write, order) == Written((), more=False)
    assert len(seen) == 1


def test_the_content_is_dropped_when_the_report_is_written(store: Store) -> None:
    one = letter("x@a.example")
    store.add(one)
    store.settle(outcome(one, "bounced", owed="failure"))
    assert store.value("SELECT count(*) FROM content") == 1
    store.do(reports.write, Report(one.queue_id, lambda facts: None))
    assert store.value("SELECT count(*) FROM content") == 0


def test_a_report_that_nobody_may_get_settles_the_debt(store: Store) -> None:
    one = letter("x@a.example", sender="")
    store.add(one)
    store.settle(outcome(one, "bounced", owed="failure"))
    assert [problem.code for problem in store.problems()] == ["report_forbidden"]
    assert store.do(reports.write, Report(one.queue_id, composer([]))) == Written((), more=False)
    assert store.rows("SELECT owed, reported FROM recipient") == [("", None)]
    assert store.problems() == []


def test_each_kind_is_a_report_of_its_own(store: Store) -> None:
    one = letter("x@a.example", "y@a.example", "z@a.example", notify=14)
    store.add(one)
    x, y, z = store.claim()
    store.settle(
        outcome(x, "bounced", owed="failure"), outcome(z, owed="success"), outcome(y, "deferred")
    )
    store.do(overdue.warn, Warning_(one.queue_id, 2))
    seen: list[ReportFacts] = []
    written = store.do(reports.write, Report(one.queue_id, composer(seen)))
    assert [(facts.kind, [r.number for r in facts.recipients]) for facts in seen] == [
        ("failure", [1]),
        ("delay", [2]),
        ("success", [3]),
    ]
    failure, delay, success = written.reports
    assert store.rows(
        "SELECT reported, warned FROM recipient WHERE message_id = :id ORDER BY number",
        id=one.queue_id,
    ) == [
        (failure, None),
        (None, delay),
        (success, None),
    ]
    assert store.do(overdue.warn, Warning_(one.queue_id, 2)) is False, "one warning is enough"
    assert store.problems() == []


def test_what_expired_untried_says_why(store: Store) -> None:
    one = letter("x@a.example")
    store.add(one)
    store.do(
        overdue.expire,
        expiry(one, owed="failure", text="site closed"),
    )
    seen: list[ReportFacts] = []
    store.do(reports.write, Report(one.queue_id, composer(seen)))
    (told,) = seen[0].recipients
    assert (told.stage, told.code, told.enhanced, told.text) == ("route", 0, "4.4.7", "site closed")


def test_unreadable_content_does_not_stop_a_report(store: Store) -> None:
    one = letter("x@a.example")
    store.add(one)
    store.settle(outcome(one, "bounced", owed="failure"))
    store.force("DELETE FROM content")
    seen: list[ReportFacts] = []
    assert store.do(reports.write, Report(one.queue_id, composer(seen))).reports
    assert (seen[0].content, seen[0].complete) == (b"", False)


def test_a_big_debt_is_paid_in_instalments(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    count = reports.RECIPIENTS + 5
    one = letter(*(f"u{n}@a.example" for n in range(count)))
    store.add(one)
    store.register()
    store.take()
    claimed = store.fetch("a.example", limit=2 * count).recipients
    store.settle(*(outcome(c, "bounced", owed="failure") for c in claimed))
    seen: list[ReportFacts] = []
    order = Report(one.queue_id, composer(seen))
    first = store.do(reports.write, order)
    second = store.do(reports.write, order)
    assert (first.more, second.more) == (True, False)
    assert [len(facts.recipients) for facts in seen] == [reports.RECIPIENTS, 5]
    assert store.problems() == []
