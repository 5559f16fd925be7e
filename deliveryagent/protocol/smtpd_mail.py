"""MAIL, RCPT, DATA and BDAT: from the sender to the reply that decides who has the message.

Guarantees: after every end of a content, whatever its outcome, nothing of the message remains; nobody relays
who is neither trusted, nor logged in, nor let in by a hook; over LMTP every recipient that was accepted gets
one reply, and no other does (RFC 2033 4.2).
"""

from deliveryagent.mail.verdict import Accept, Decision, Discard, Refusal, Reject, Tempfail
from deliveryagent.protocol import esmtp
from deliveryagent.protocol.datastream import DataStream
from deliveryagent.protocol.esmtp import CommandError
from deliveryagent.protocol.smtpd_conversation import Conversation
from deliveryagent.protocol.smtpd_hello import check_name
from deliveryagent.protocol.smtpd_replies import DATA_GO, MAIL_OK, RCPT_OK, kept_reply, reply
from deliveryagent.protocol.smtpd_steps import (
    FORGET,
    Chunk,
    Keep,
    Kept,
    Outcome,
    QuitSession,
    Read,
    Sender,
    Steps,
)

_OVERSHOOT = 1000
"""Recipients beyond the limit that are no error: who has more sends the rest in another message, RFC 5321
4.5.3.1.10 (Postfix ``smtpd_recipient_overshoot_limit``)."""

_TOO_MANY = reply(452, "4.5.3", "Too many recipients")
_NO_CONTENT = Outcome(Kept("Ok"))


def mail(talk: Conversation, argument: str) -> Steps:
    """MAIL (RFC 5321 4.1.1.2)."""
    session, terms = talk.session, talk.terms
    if not session.verb:
        raise CommandError(503, "5.5.1", f"Send {'LHLO' if terms.kind == 'lmtp' else 'EHLO'} first")
    if session.transaction is not None:
        raise CommandError(503, "5.5.1", "There is a message at hand already")
    stranger = not (session.user or session.trusted)
    if stranger and terms.kind == "submission":
        if not talk.admits:
            raise CommandError(530, "5.7.0", "Authentication required")
        check_name(talk, session.helo)
    transaction = esmtp.read_mail(argument, talk.offers, talk.clock())
    known = session.user and not session.vouched
    if known and not talk.guard.may_send_as(session.user, transaction.sender):
        raise CommandError(553, "5.7.1", "This sender address is not yours")
    granted = min(transaction.priority, 0 if stranger else terms.priority_limit)
    lowered, transaction.priority = granted < transaction.priority, granted
    talk.begin(transaction)
    decision: Decision | None = None
    if "mail" in talk.asked:
        decision = yield from talk.consult("mail", transaction)
    if decision is None and _must_exist(talk, transaction.sender):
        decision = yield Sender(transaction.sender)
    if isinstance(decision, Reject | Tempfail):
        session.transaction = None
        talk.refuse(decision)
        return
    talk.apply(decision)
    if lowered:  # RFC 6710 5: the reply says what it is now
        talk.out += reply(250, "2.3.6", f"Ok, priority lowered to {granted}")
    else:
        talk.out += MAIL_OK


def _must_exist(talk: Conversation, sender: str) -> bool:
    """Whether the domain of this sender is to be looked up."""
    return bool(sender) and talk.terms.check_sender_domain and not talk.session.trusted


def rcpt(talk: Conversation, argument: str) -> Steps:
    """RCPT (RFC 5321 4.1.1.3)."""
    session, transaction = talk.session, talk.session.transaction
    if transaction is None or talk.chunks is not None:
        raise CommandError(503, "5.5.1", "Need MAIL before RCPT")
    if 0 < talk.terms.recipient_limit <= len(talk.accepted):
        talk.surplus += 1
        if talk.surplus > _OVERSHOOT:
            raise CommandError(452, "4.5.3", "Too many recipients")
        talk.out += _TOO_MANY
        return
    recipient = esmtp.read_rcpt(argument, talk.offers, utf8=transaction.smtputf8)
    decision: Decision | None = None
    if "rcpt" in talk.asked:
        decision = yield from talk.consult("rcpt", recipient)
    if isinstance(decision, Reject | Tempfail):
        talk.refuse(decision)
        return
    if not (isinstance(decision, Accept) or session.user or session.trusted):
        raise CommandError(550, "5.7.1", "Relay access denied")
    talk.accepted.append(recipient)
    if isinstance(decision, Accept):
        recipient.address = decision.address or recipient.address
    elif not isinstance(decision, Discard):
        talk.apply(decision)
    if not isinstance(decision, Discard):
        transaction.recipients.append(recipient)
    talk.out += RCPT_OK


def _at_hand(talk: Conversation) -> None:
    """Whether a content may come now; raises ``CommandError``."""
    if talk.session.transaction is None:
        raise CommandError(503, "5.5.1", "Need MAIL first")
    if not talk.accepted:
        raise CommandError(554, "5.5.1", "No valid recipients")


def data(talk: Conversation, argument: str) -> Steps:
    """DATA (RFC 5321 4.1.1.4)."""
    if argument:
        raise CommandError(501, "5.5.4", "DATA has no argument")
    if talk.chunks is not None:
        raise CommandError(503, "5.5.1", "DATA cannot follow BDAT")
    _at_hand(talk)
    decision = yield from talk.consult("data")
    if isinstance(decision, Reject | Tempfail):
        talk.refuse(decision)
        return
    talk.apply(decision)
    talk.out += DATA_GO
    stream = DataStream(talk.rules)
    yield Read(stream)
    yield from _conclude(talk, stream)


def bdat(talk: Conversation, argument: str, forbidden: CommandError | None = None) -> Steps:
    """BDAT (RFC 3030 2), which may be ``forbidden``.

    Octets that cannot be used are read too, so that nobody takes them for commands; and a chunk that is
    refused ends the message, so that no later one passes for the whole of it.
    """
    words = argument.upper().split()
    last = words[1:] == ["LAST"]
    if not words or not words[0].isdigit() or len(words[0]) > 15 or (words[1:] and not last):
        talk.say(501, "5.5.4", "Syntax: BDAT octets [LAST]")
        raise QuitSession  # what follows may be content
    size, stream = int(words[0]), talk.chunks or DataStream(talk.rules)
    try:
        if forbidden is not None:
            raise forbidden
        if not size and not last:
            talk.idle()
        _at_hand(talk)
        decision = None if talk.chunks is not None else (yield from talk.consult("data"))
    except CommandError as fault:
        stream.refuse(Reject(code=fault.code, enhanced=fault.enhanced, text=fault.text))
        yield Chunk(size, stream)
        yield from _drop(talk)
        raise
    if isinstance(decision, Reject | Tempfail):
        stream.refuse(decision)
        yield Chunk(size, stream)
        yield from _drop(talk)
        talk.refuse(decision)
        return
    talk.apply(decision)
    stream.expect(size)
    yield Chunk(size, stream, last)
    if last:
        talk.chunks = None
        yield from _conclude(talk, stream)
    elif stream.fault is not None:
        yield from _drop(talk)
        talk.refuse(stream.fault)
    else:
        talk.chunks = stream
        talk.out += reply(250, "2.0.0", f"{size} octets received")


def _drop(talk: Conversation) -> Steps:
    """Forget a message of which a chunk was refused."""
    yield FORGET
    talk.session.transaction = talk.chunks = None


def _conclude(talk: Conversation, stream: DataStream) -> Steps:
    """The content has come: the reply, or over LMTP the replies, that decide who has the message now."""
    transaction = talk.session.transaction
    assert transaction is not None
    if stream.fault is not None:
        yield FORGET
        outcome = Outcome(stream.fault)
    elif transaction.discard or not transaction.recipients:
        yield FORGET
        outcome = _NO_CONTENT
    else:
        outcome = yield Keep()
    talk.session.transaction = None
    talk.idle_commands = 0
    if talk.terms.kind != "lmtp":
        _answer(talk, [outcome.whole])
    else:
        refused = outcome.refused
        _answer(talk, [refused.get(one.address, outcome.whole) for one in talk.accepted])


def _answer(talk: Conversation, results: list[Kept | Refusal]) -> None:
    """Say them all before the session ends, if it does; one message is one error at most."""
    errors, closing = talk.errors, False
    for result in results:
        if isinstance(result, Kept):
            talk.out += kept_reply(result.text)
        else:
            closing = talk.decline(result) or closing
    talk.errors = min(talk.errors, errors + 1)
    if closing:
        raise QuitSession
