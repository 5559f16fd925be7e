"""How a session begins, and begins anew: greeting, EHLO, STARTTLS, XCLIENT.

Guarantees: a name that no honest host has is refused to who is neither trusted nor logged in, where people
log in at MAIL only, since their computers seldom have another; after TLS, and after a proxy has spoken,
nothing is believed that was said before (RFC 3207 4.2).
"""

from deliveryagent.mail.verdict import Accept, Reject, Tempfail
from deliveryagent.protocol import helo
from deliveryagent.protocol.esmtp import CommandError
from deliveryagent.protocol.session import TlsFacts
from deliveryagent.protocol.smtpd_conversation import Conversation, status_of
from deliveryagent.protocol.smtpd_replies import ehlo_reply, reply
from deliveryagent.protocol.smtpd_steps import PEEK, SECURE, QuitSession, Steps
from deliveryagent.protocol.xclient import read_xclient


def greet(talk: Conversation) -> Steps:
    """The greeting, or the reply that takes its place."""
    decision = yield from talk.consult("connect")
    text = f"{talk.terms.hostname} {talk.terms.banner}".rstrip()
    if isinstance(decision, Reject | Tempfail):
        code = 554 if isinstance(decision, Reject) else 421
        talk.say(code, status_of(decision)[1], decision.text or "Not accepted")
        raise QuitSession
    if isinstance(decision, Accept) and decision.text:
        text = f"{talk.terms.hostname} {decision.text}"
    talk.remember(decision)
    talk.out += reply(220, "", text)


def ehlo(talk: Conversation, name: str) -> Steps:
    """EHLO (RFC 5321 4.1.1.1)."""
    return _hello(talk, name, "EHLO")


def helo_(talk: Conversation, name: str) -> Steps:
    """HELO, from those who know nothing newer."""
    return _hello(talk, name, "HELO")


def lhlo(talk: Conversation, name: str) -> Steps:
    """LHLO (RFC 2033 4.1)."""
    return _hello(talk, name, "LHLO")


def _hello(talk: Conversation, name: str, verb: str) -> Steps:
    lmtp = talk.terms.kind == "lmtp"
    if (verb == "LHLO") != lmtp:
        raise CommandError(500, "5.5.1", f"Not spoken here: say {'LHLO' if lmtp else 'EHLO'}")
    talk.idle()
    if not name or " " in name:
        raise CommandError(501, "5.5.4", f"Syntax: {verb} hostname")
    if talk.terms.kind != "submission":  # whose clients may have no name until they have logged in
        check_name(talk, name)
    decision = yield from talk.consult("helo", name)
    if isinstance(decision, Reject | Tempfail):
        talk.refuse(decision)
        return
    talk.remember(decision)
    yield from talk.reset()
    talk.session.helo, talk.session.verb = name, verb
    if verb == "HELO":
        talk.out += reply(250, "", talk.terms.hostname)
    else:
        talk.out += ehlo_reply(talk.terms, talk.session, xclient=talk.xclient, now=talk.clock())


def check_name(talk: Conversation, name: str) -> None:
    """Refuse names that nobody has to strangers; raises ``CommandError``."""
    checks, session = talk.terms.helo_checks, talk.session
    if session.trusted or session.user or helo.is_literal(name):
        return
    if checks.own and helo.is_one_of(name, talk.terms.own_names):
        raise CommandError(550, "5.7.1", "That is my own name")
    if checks.reserved and (not helo.is_name(name) or helo.is_reserved(name)):
        raise CommandError(550, "5.7.1", "That is not the name of a host")
    if checks.bare and helo.is_bare(name):
        raise CommandError(550, "5.7.1", "A fully qualified host name is needed")


def starttls(talk: Conversation, argument: str) -> Steps:
    """STARTTLS (RFC 3207)."""
    if not talk.terms.tls:
        raise CommandError(502, "5.5.1", "STARTTLS is not available")
    if argument:
        raise CommandError(501, "5.5.4", "STARTTLS has no argument")
    if talk.session.tls is not None:
        raise CommandError(503, "5.5.1", "TLS is active already")
    if talk.session.transaction is not None:
        raise CommandError(503, "5.5.1", "Not while a message is at hand")
    decision = yield from talk.consult("starttls")
    if isinstance(decision, Reject | Tempfail):
        talk.refuse(decision)
        return
    if (yield PEEK):  # whoever put it there may not be who speaks TLS with us (RFC 3207 6)
        talk.say(554, "5.5.1", "Nothing may follow STARTTLS before the handshake")
        raise QuitSession
    talk.out += reply(220, "2.0.0", "Ready to start TLS")
    facts: TlsFacts = yield SECURE
    talk.session.tls = facts
    _unknown(talk)


def xclient(talk: Conversation, argument: str) -> Steps:
    """XCLIENT: a trusted proxy says whom it speaks for; the session begins anew (Postfix XCLIENT_README)."""
    if not talk.xclient:
        raise CommandError(550, "5.7.0", "You may not say whom you speak for")
    if talk.session.transaction is not None:
        raise CommandError(503, "5.5.1", "Not while a message is at hand")
    session = talk.session
    client, user = read_xclient(argument, session.client)
    _unknown(talk)
    session.client, session.user = client, user
    session.trusted = talk.guard.trusts(client)
    yield from greet(talk)


def _unknown(talk: Conversation) -> None:
    """Forget who the client said, and showed, that it is."""
    talk.session.user = talk.session.mechanism = ""
    talk.session.vouched = False
    talk.renew()
