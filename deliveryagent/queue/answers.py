"""A recipient's last answer, as columns of a query: the latest attempt's, or a decision made without one."""

from sqlalchemy import FromClause, and_, case, func

from queue_schema.tables import attempt, message, recipient

_noted = recipient.c.note != ""

LAST_ANSWER = (
    case((_noted, "route"), else_=func.coalesce(attempt.c.stage, "")).label("stage"),
    case((_noted, 0), else_=func.coalesce(attempt.c.code, 0)).label("code"),
    case((_noted, recipient.c.enhanced), else_=func.coalesce(attempt.c.enhanced, "")).label(
        "enhanced"
    ),
    case((_noted, recipient.c.note), else_=func.coalesce(attempt.c.text, "")).label("text"),
    case((_noted, ""), else_=func.coalesce(attempt.c.host, "")).label("host"),
)
"""Stage, code, enhanced code, text and host; the stage is empty when there was no answer yet. What was
decided without an attempt (hold, an operator's bounce) hides the last answer."""

_latest = and_(
    attempt.c.message_id == recipient.c.message_id,
    attempt.c.number == recipient.c.number,
    attempt.c.attempt == recipient.c.attempts,
)


def with_last_answer(rows: FromClause) -> FromClause:
    """Recipients (and whatever they were joined with before) with their message and latest attempt."""
    return rows.join(message, message.c.id == recipient.c.message_id).outerjoin(attempt, _latest)
