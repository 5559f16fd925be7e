"""Outcomes in words: what was asked, what the peer answered, on one harmless line.

The log, the reports to senders and ``dagent why`` say the same thing of the same outcome because
they all ask here. Guarantees: results of :func:`plain` have no control character, no line end and
no character that could reorder or hide text, whatever a peer sent; :func:`ascii_only` results are
printable ASCII. Never shortens without showing it.
"""

from deliveryagent.mail.delivery import Stage

TEXT_LIMIT = 1000
"""Characters of remote text that are repeated to people; replies may be far longer."""

_ASKED = {
    Stage.CONNECT: "the connection",
    Stage.GREETING: "the connection",
    Stage.EHLO: "EHLO",
    Stage.STARTTLS: "STARTTLS",
    Stage.AUTH: "AUTH",
    Stage.MAIL: "MAIL FROM",
    Stage.RCPT: "RCPT TO",
    Stage.DATA: "DATA",
    Stage.CONTENT: "the message",
    Stage.DOT: "the message",
    Stage.RSET: "RSET",
    Stage.QUIT: "QUIT",
}

_COMMANDS = {
    Stage.EHLO: "EHLO command",
    Stage.STARTTLS: "STARTTLS command",
    Stage.AUTH: "AUTH command",
    Stage.MAIL: "MAIL FROM command",
    Stage.RCPT: "RCPT TO command",
    Stage.DATA: "DATA command",
    Stage.CONTENT: "end of DATA command",
    Stage.DOT: "end of DATA command",
    Stage.RSET: "RSET command",
    Stage.QUIT: "QUIT command",
}


def asked(stage: str) -> str:
    """What the peer was asked for at a stage, for a sentence; empty when nobody was asked.

    >>> asked("rcpt"), asked("dot"), asked("resolve")
    ('RCPT TO', 'the message', '')
    """
    return _ASKED.get(_stage(stage), "")


def command_name(stage: str) -> str:
    """The command a reply answered, in the words Postfix's log uses; empty when there was none.

    >>> command_name("dot"), command_name("greeting")
    ('end of DATA command', '')
    """
    return _COMMANDS.get(_stage(stage), "")


def _stage(stage: str) -> Stage:
    try:
        return Stage(stage)
    except ValueError:
        return Stage.ROUTE


def plain(text: str, *, limit: int = TEXT_LIMIT) -> str:
    """Remote text on one line: line ends become spaces, whatever does not print a visible escape.

    >>> plain("5.1.1 no\\r\\nsuch \\x1b[31muser"), plain("abcdef", limit=4)
    ('5.1.1 no such \\\\x1b[31muser', 'abc…')
    """
    if not text.isprintable():
        text = "".join(c if c.isprintable() else _escaped(c) for c in " ".join(text.split()))
    if len(text) > limit:
        return text[: limit - 1] + "…"
    return text


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def ascii_only(text: str) -> str:
    """The text with every other character as RFC 6533 writes it in seven bits: ``\\x{E9}``.

    Spaces are kept; control characters are written the same way, so nothing can end a line.

    >>> ascii_only("café\\n")
    'caf\\\\x{E9}\\\\x{A}'
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c.isascii() and c.isprintable() else f"\\x{{{ord(c):X}}}" for c in text)


def quoted(code: int, enhanced: str, text: str) -> str:
    """A reply as people quote it, ``450 4.7.1 try again``; without a code the text alone.

    >>> quoted(450, "4.7.1", "try\\nagain"), quoted(0, "4.4.1", "connection refused")
    ('450 4.7.1 try again', 'connection refused')
    """
    said = plain(text)
    if code == 0:
        return said
    return " ".join(part for part in (str(code), enhanced, said) if part)


def sentence(stage: str, code: int, enhanced: str, text: str, host: str) -> str:
    """One line that says who answered what to which command.

    >>> sentence("rcpt", 550, "5.1.1", "no such user", "mx.example")
    'mx.example answered RCPT TO with 550 5.1.1 no such user'
    >>> sentence("connect", 0, "4.4.1", "mx.example[192.0.2.1]:25: refused", "mx.example")
    'mx.example[192.0.2.1]:25: refused'
    """
    said = quoted(code, enhanced, text)
    if code == 0:
        return said or "no explanation is recorded"
    peer = plain(host) or "the peer"
    question = asked(stage)
    return f"{peer} answered {question} with {said}" if question else f"{peer} said {said}"
