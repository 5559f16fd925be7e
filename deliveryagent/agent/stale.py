"""Whether a transaction failed for the session's sake only, so that another session is worth a try.

An idle session may be closed in the very moment it is used again, and a transaction that began
before the last one was answered may be spoilt by that answer. Neither says anything about the
message or the site. Guarantees: nothing is called so once its own final dot went out. What other
outcomes mean is ``policy.classify``. RFC 2920 3.1.
"""

from deliveryagent.mail.delivery import Failure, Stage, Trouble
from deliveryagent.mail.status import SmtpReply
from deliveryagent.protocol.dialogue import Exchange

_CLOSED = (Trouble.LOST, Trouble.PROTOCOL)


def is_stale(exchange: Exchange) -> bool:
    """Whether an old session turned out to be of no use before the peer took notice of this message.

    It was closed, or it is closed now (421), or refuses to begin anew (RSET); a silent peer is
    another matter.
    """
    for answer in exchange.answers:
        stage, outcome = answer.stage, answer.outcome
        if isinstance(outcome, SmtpReply):
            if stage is not Stage.RSET and not (stage is Stage.MAIL and outcome.code == 421):
                return False
        elif stage is not Stage.RSET and (
            stage is not Stage.MAIL or outcome.trouble not in _CLOSED
        ):
            return False
    return True


def is_cut_short(exchange: Exchange) -> bool:
    """Whether a transaction that began before the last one was answered came to nothing by that.

    So it is when the session ended before its own dot, and whenever MAIL or DATA was not answered as
    it should be: the peer may have been in another state than we thought, or have given one reply too
    many. Only what it says about the recipient counts.
    """
    if exchange.dot_sent:
        return False
    stage, outcome = exchange.answers[0].stage, exchange.answers[0].outcome
    if isinstance(outcome, SmtpReply):
        refused = stage is Stage.RCPT and outcome.code >= 400
        return outcome.code == 421 or not (refused or (stage is Stage.DATA and outcome.code >= 400))
    return outcome.trouble in (*_CLOSED, Trouble.TIMEOUT)


def is_farewell(exchange: Exchange) -> bool:
    """Whether a session ended in good manners."""
    outcome = exchange.answers[0].outcome
    return isinstance(outcome, SmtpReply) and outcome.code == 421


def is_lost(exchange: Exchange) -> bool:
    """Whether it ended without an answer."""
    return isinstance(exchange.answers[0].outcome, Failure)
