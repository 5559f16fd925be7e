"""A recipient's last answer, as SQL: the latest attempt's, or a decision made without one.

Plain text, for those who ask without SQLAlchemy and for those who build on it.
"""


def _unless_noted(noted: str, otherwise: str) -> str:
    return f"CASE WHEN recipient.note <> '' THEN {noted} ELSE {otherwise} END"


LAST_ANSWER = {
    "stage": _unless_noted("'route'", "coalesce(attempt.stage, '')"),
    "code": _unless_noted("0", "coalesce(attempt.code, 0)"),
    "enhanced": _unless_noted("recipient.enhanced", "coalesce(attempt.enhanced, '')"),
    "text": _unless_noted("recipient.note", "coalesce(attempt.text, '')"),
    "host": _unless_noted("''", "coalesce(attempt.host, '')"),
}
"""Stage, code, enhanced code, text and host; the stage is empty when there was no answer yet. What was
decided without an attempt (hold, an operator's bounce) hides the last answer."""

WITH_LAST_ANSWER = (
    "JOIN message ON message.id = recipient.message_id "
    "LEFT JOIN attempt ON attempt.message_id = recipient.message_id "
    "AND attempt.number = recipient.number AND attempt.attempt = recipient.attempts"
)
"""What follows ``FROM recipient``: each recipient with its message and latest attempt."""
