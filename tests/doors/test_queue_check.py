"""The consistency check finds what is planted, and nothing else."""

import pytest

from tests.doubles.stores import NOW, Store, letter, outcome

PLANTED = {
    "recipients_missing": "UPDATE message SET recipient_count = 3 WHERE id = :waiting",
    "content_missing": "DELETE FROM content WHERE message_id = :waiting",
    "content_size": "UPDATE message SET size = 7 WHERE id = :waiting",
    "content_unneeded": "INSERT INTO content VALUES (:done, 0, CAST('x' AS {blob}))",
    "content_orphaned": "INSERT INTO content VALUES (5, 0, CAST('x' AS {blob}))",
    "arrival_abandoned": "INSERT INTO arriving VALUES (5, 1.0)",
    "attempt_orphaned": "UPDATE attempt SET number = 9 WHERE message_id = :done",
    "attempts_differ": "UPDATE recipient SET attempts = 7 WHERE message_id = :waiting",
    "report_missing": "UPDATE recipient SET owed = '' WHERE message_id = :failed",
    "report_forbidden": "UPDATE message SET sender = '' WHERE id = :failed",
    "report_doubled": "UPDATE recipient SET reported = 5 WHERE message_id = :failed",
    "destination_unknown": "DELETE FROM destination WHERE name = 'w.example'",
    "destination_asleep": "UPDATE destination SET ready = NULL WHERE name = 'w.example'",
}
FOLLOWS = {"attempt_orphaned": {"attempts_differ"}, "report_missing": {"content_unneeded"}}
"""What one damage shows besides itself."""


@pytest.fixture
def lived_in(store: Store) -> tuple[Store, dict[str, int]]:
    """A queue with a bit of everything in it, and nothing wrong."""
    letters = {
        "waiting": letter("x@w.example"),
        "done": letter("x@d.example"),
        "failed": letter("x@f.example"),
        "deferred": letter("x@l.example"),
        "held": letter("x@h.example", hold=True),
    }
    store.add(*letters.values())
    store.settle(
        outcome(letters["done"], destination="d.example"),
        outcome(letters["failed"], "bounced", destination="f.example", owed="failure"),
        outcome(letters["deferred"], "deferred", destination="l.example"),
    )
    assert store.problems() == []
    return store, {name: one.queue_id for name, one in letters.items()}


@pytest.mark.parametrize("code", PLANTED)
def test_each_planted_damage_is_found(lived_in: tuple[Store, dict[str, int]], code: str) -> None:
    store, ids = lived_in
    sql = PLANTED[code].format(blob="BLOB" if store.is_sqlite else "BYTEA")
    store.force(sql, **{name: value for name, value in ids.items() if f":{name}" in sql})
    found = store.problems()
    assert {problem.code for problem in found} == {code} | FOLLOWS.get(code, set())
    assert all(problem.rows == 1 and problem.sample and problem.text for problem in found)


def test_a_destination_put_off_too_far_is_asleep(store: Store) -> None:
    store.add(letter("x@a.example"))
    store.force("UPDATE destination SET ready = :r", r=NOW + 3600)
    assert store.problems() == [], "a closed site may put it off"
    store.force("UPDATE destination SET ready = :r", r=NOW + 10 * 86_400)
    assert [problem.code for problem in store.problems()] == ["destination_asleep"]
    store.force("UPDATE destination SET paused_until = :r", r=NOW + 10 * 86_400)
    assert store.problems() == []


def test_an_owned_destination_is_its_owners_business(store: Store) -> None:
    store.add(letter("x@a.example"))
    store.take()
    assert store.problems() == []


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ("UPDATE recipient SET due = NULL", "due_missing"),
        ("UPDATE recipient SET finished = 1.0", "finish_missing"),
        ("DELETE FROM message", "recipient_orphaned"),
        ("UPDATE destination SET owner = 99", "owner_unknown"),
    ],
)
def test_what_the_schema_forbids_is_found_all_the_same(
    sqlite_store: Store, change: str, code: str
) -> None:
    sqlite_store.add(letter("x@a.example"))
    with sqlite_store.engine.connect() as connection:
        raw = connection.connection.driver_connection
        assert raw is not None
        raw.execute("ROLLBACK") if raw.in_transaction else None
        raw.execute("PRAGMA ignore_check_constraints = ON")
        raw.execute("PRAGMA foreign_keys = OFF")
        raw.execute(change)
    found = {problem.code for problem in sqlite_store.problems()}
    assert code in found


def test_a_damaged_file_is_said_to_be_damaged(sqlite_store: Store) -> None:
    sqlite_store.add(*(letter(f"u{n}@a.example", content=bytes(5000)) for n in range(50)))
    pages = sqlite_store.value("PRAGMA page_count")
    path = sqlite_store.url.removeprefix("sqlite:///")
    sqlite_store.engine.dispose()
    with open(path, "r+b") as stream:  # noqa: PTH123
        stream.seek(8192 * (pages - 20))
        stream.write(b"\xff" * 8192)
    assert "damaged" in {problem.code for problem in sqlite_store.problems()}
