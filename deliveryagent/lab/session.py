"""One connection to a receiving host of the lab: the server's half of SMTP and LMTP.

Settings say how the host treats everybody, ``lab.behaviour`` how it treats a recipient. Guarantees:
replies keep the order of the commands, a reply that is delayed delays what follows; nothing that
came in clear is taken for something said inside TLS. Bounded: command lines of 4 KiB, content of
``size_limit``.
"""

import asyncio
import random
import re
import ssl
from dataclasses import dataclass, field
from typing import cast

from deliveryagent.lab.arrivals import Arrival, Envelope, Ledger
from deliveryagent.lab.behaviour import Manner, Reaction, greylisted, reaction

KEYWORDS = ("PIPELINING", "SIZE {size}", "8BITMIME", "SMTPUTF8", "DSN", "ENHANCEDSTATUSCODES")
_LINE_LIMIT = 4096
_STRANGERS_LIMIT = 100_000
_END = b"\r\n.\r\n"
_PATH = re.compile(r"(?:FROM|TO):[ ]?<(?P<path>[^>]*)>(?: (?P<parameters>.*))?", re.IGNORECASE)
_SIZE = re.compile(r"(?:^| )SIZE=([0-9]+)(?: |$)", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class HostSettings:
    """How one host behaves towards everybody.

    ``greeting`` is its first line, empty for a host that accepts connections and stays silent; a
    4xx or 5xx greeting is followed by closing the connection. ``keywords`` are the EHLO lines,
    ``{size}`` is filled in. ``dot_delay`` is a range of seconds, drawn per message, before the
    final reply. ``recipient_limit`` refuses further RCPT with 452 4.5.3, 0 for none. ``tls`` offers
    STARTTLS.
    """

    name: str = "mx.lab.test"
    greeting: str = "220 {name} ESMTP lab"
    lmtp: bool = False
    keywords: tuple[str, ...] = KEYWORDS
    size_limit: int = 50_000_000
    recipient_limit: int = 0
    dot_delay: tuple[float, float] = (0.0, 0.0)
    tls: ssl.SSLContext | None = None


@dataclass(kw_only=True)
class House:
    """What the connections to one host share.

    ``messages``, ``sessions`` and ``peak`` count accepted contents, connections, and connections at
    one time, of which one is over when its QUIT or its end is read. asyncio reads what has arrived before it
    tells of a new connection, so a peer that says QUIT first and connects then never counts twice.
    ``strangers`` is the memory of greylisting.
    """

    settings: HostSettings
    ledger: Ledger | None
    rng: random.Random
    strangers: dict[str, float] = field(default_factory=dict)
    open: set["Session"] = field(default_factory=set)
    present: set["Session"] = field(default_factory=set)  # those that have not said QUIT
    messages: int = 0
    sessions: int = 0
    peak: int = 0


class Session(asyncio.Protocol):
    """One connection to a receiving host."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._settings = house.settings
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._replies: list[str] = []
        self._waiting: asyncio.TimerHandle | None = None
        self._deaf = False
        self._in_content = False
        self._searched = 0
        self._peer = ""
        self._helo = ""
        self._tls = False
        self._transactions = 0
        self._handshake: asyncio.Task[None] | None = None
        self._sender: str | None = None
        self._parameters = ""
        self._recipients: list[tuple[str, Reaction]] = []

    # -- the transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._house.sessions += 1
        self._house.open.add(self)
        self._house.present.add(self)
        self._house.peak = max(self._house.peak, len(self._house.present))
        peername = transport.get_extra_info("peername")
        self._peer = peername[0] if isinstance(peername, tuple) else "local"
        greeting = self._settings.greeting.format(name=self._settings.name)
        if not greeting:
            self._deaf = True
            return
        self._say(greeting)
        self._flush()
        if not greeting.startswith("2"):
            self._close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's name
        self._house.open.discard(self)
        self._house.present.discard(self)
        self._deaf = True
        if self._waiting is not None:
            self._waiting.cancel()

    def eof_received(self) -> None:
        self._house.present.discard(self)

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        self._buffer += data
        if self._waiting is None and self._handshake is None:
            self._proceed()

    def abort(self) -> None:
        """End the connection at once, as a host that goes away does."""
        if self._transport is not None:
            self._transport.abort()

    # -- from octets to commands and contents

    def _proceed(self) -> None:
        """Work through what has arrived, as far as no delay or silence forbids, then flush the
        replies.
        """
        while not self._deaf and self._waiting is None and self._handshake is None:
            if not (self._take_content() if self._in_content else self._take_line()):
                break
        self._flush()

    def _take_line(self) -> bool:
        end = self._buffer.find(b"\n")
        if end < 0:
            if len(self._buffer) > _LINE_LIMIT:
                self._say("500 5.5.2 Line too long")
                self._close()
            return False
        line = self._buffer[:end].rstrip(b"\r").decode("utf-8", "replace")
        del self._buffer[: end + 1]
        self._command(line)
        return True

    def _take_content(self) -> bool:
        buffer = self._buffer
        if buffer.startswith(b".\r\n"):
            content, length = b"", 3
        else:
            end = buffer.find(_END, max(0, self._searched - len(_END)))
            if end < 0:
                self._searched = len(buffer)
                if len(buffer) > self._settings.size_limit:
                    self._close()
                return False
            content, length = bytes(buffer[: end + 2]), end + len(_END)
        del buffer[:length]
        self._in_content = False
        self._finish(content)
        return True

    # -- commands

    def _command(self, line: str) -> None:
        verb, _, argument = line.partition(" ")
        match verb.upper():
            case "MAIL":
                self._mail(argument)
            case "RCPT":
                self._rcpt(argument)
            case "DATA":
                self._data()
            case "EHLO" | "LHLO" | "HELO" as hello:
                self._hello(hello, argument)
            case "RSET":
                self._forget()
                self._say("250 2.0.0 Ok")
            case "NOOP":
                self._say("250 2.0.0 Ok")
            case "QUIT":
                self._house.present.discard(self)
                self._say("221 2.0.0 Bye")
                self._close()
            case "STARTTLS" if self._settings.tls is not None and not self._tls:
                self._starttls(self._settings.tls)
            case _:
                self._say("500 5.5.1 Unknown command")

    def _hello(self, verb: str, argument: str) -> None:
        if (verb == "LHLO") != self._settings.lmtp:
            self._say("500 5.5.1 Not spoken here")
            return
        self._forget()
        self._helo = argument
        if verb == "HELO":
            self._say(f"250 {self._settings.name}")
            return
        size = self._settings.size_limit
        lines = [self._settings.name, *(word.format(size=size) for word in self._settings.keywords)]
        if self._settings.tls is not None and not self._tls:
            lines.append("STARTTLS")
        for line in lines[:-1]:
            self._say(f"250-{line}")
        self._say(f"250 {lines[-1]}")

    def _mail(self, argument: str) -> None:
        match = _PATH.fullmatch(argument)
        parameters = (match["parameters"] or "") if match else ""
        size = _SIZE.search(parameters)
        if match is None:
            self._say("501 5.5.4 Syntax: MAIL FROM:<address>")
        elif not self._helo or self._sender is not None:
            self._say("503 5.5.1 Bad sequence of commands")
        elif size and int(size[1]) > self._settings.size_limit:
            self._say("552 5.3.4 Message too large")
        else:
            self._sender, self._parameters = match["path"], parameters
            self._say("250 2.1.0 Ok")

    def _rcpt(self, argument: str) -> None:
        match = _PATH.fullmatch(argument)
        if match is None:
            self._say("501 5.5.4 Syntax: RCPT TO:<address>")
            return
        if self._sender is None:
            self._say("503 5.5.1 Need MAIL first")
            return
        limit = self._settings.recipient_limit
        if limit and len(self._recipients) >= limit:
            self._say("452 4.5.3 Too many recipients")
            return
        address = match["path"]
        asked = reaction(address)
        refusal = asked.rcpt
        if asked.greylist >= 0:
            key = f"{self._peer} {self._sender} {address}"
            now = asyncio.get_running_loop().time()
            if len(self._house.strangers) >= _STRANGERS_LIMIT:
                self._house.strangers.clear()
            refusal = greylisted(self._house.strangers, key, asked.greylist, now=now)
        if not refusal and asked.rcpt_manner is Manner.ANSWER:
            self._recipients.append((address, asked))
        self._answer(refusal or "250 2.1.5 Ok", asked.rcpt_manner, asked.delay)

    def _data(self) -> None:
        refusal = next((asked.data for _, asked in self._recipients if asked.data), "")
        if not self._recipients:
            self._say("554 5.5.1 No valid recipients")
        elif refusal:
            self._say(refusal)
        else:
            self._in_content = True
            self._searched = 0
            self._say("354 End data with <CR><LF>.<CR><LF>")

    def _finish(self, content: bytes) -> None:
        """Answer the final dot; LMTP gives one reply per recipient, SMTP the first refusal or one
        yes.
        """
        reactions = [asked for _, asked in self._recipients]
        manner = next((a.dot_manner for a in reactions if a.dot_manner is not Manner.ANSWER), None)
        refusals = [asked.dot for asked in reactions]
        if not self._settings.lmtp:
            refusals = [next((text for text in refusals if text), "")] * len(refusals)
        if manner in {Manner.SILENCE, Manner.CLOSE}:
            accepted: tuple[str, ...] = ()
        else:
            pairs = zip(self._recipients, refusals, strict=True)
            accepted = tuple(address for (address, _), refusal in pairs if not refusal)
        self._house.messages += bool(accepted)
        self._transactions += 1
        arrival = self._record(accepted, content)
        texts = [refusal or "250 2.0.0 Ok, kept" for refusal in refusals]
        delay = max((asked.delay for asked in reactions), default=0.0)
        if self._settings.dot_delay[1]:
            delay += self._house.rng.uniform(*self._settings.dot_delay)
        reply = "\r\n".join(texts if self._settings.lmtp else texts[:1])
        self._forget()
        self._answer(reply, manner or Manner.ANSWER, delay, arrival=arrival)

    def _record(self, accepted: tuple[str, ...], content: bytes) -> Arrival | None:
        if self._house.ledger is None:
            return None
        envelope = Envelope(
            host=self._settings.name,
            peer=self._peer,
            helo=self._helo,
            tls=self._tls,
            sender=self._sender or "",
            parameters=self._parameters,
            recipients=tuple(address for address, _ in self._recipients),
            transaction=self._transactions,
        )
        return self._house.ledger.enter(envelope, accepted, content)

    def _forget(self) -> None:
        self._sender = None
        self._parameters = ""
        self._recipients = []

    # -- replies

    def _answer(
        self, reply: str, manner: Manner, delay: float, *, arrival: Arrival | None = None
    ) -> None:
        """Give a reply in its manner, after its delay; what arrives in between waits."""

        def act() -> None:
            self._waiting = None
            self._give(reply, manner)
            if arrival is not None and manner in {Manner.ANSWER, Manner.FAREWELL}:
                arrival.replied = self._house.ledger.clock() if self._house.ledger else 0.0

        if not delay:
            act()
            return

        def resume() -> None:
            act()
            self._proceed()

        self._flush()
        self._waiting = asyncio.get_running_loop().call_later(delay, resume)

    def _give(self, reply: str, manner: Manner) -> None:
        match manner:
            case Manner.ANSWER:
                self._say(reply)
            case Manner.FAREWELL:
                self._say(reply)
                self._close()
            case Manner.CLOSE:
                self._close()
            case Manner.SILENCE:
                self._deaf = True

    def _say(self, line: str) -> None:
        self._replies.append(line)

    def _flush(self) -> None:
        if self._replies and self._transport is not None and not self._transport.is_closing():
            self._transport.write(("\r\n".join(self._replies) + "\r\n").encode())
        self._replies.clear()

    def _close(self) -> None:
        self._flush()
        self._deaf = True
        if self._transport is not None:
            self._transport.close()

    def _starttls(self, context: ssl.SSLContext) -> None:
        """Go on inside TLS; whatever was sent in clear behind the command is thrown away (RFC 3207
        4.2).
        """
        transport = self._transport
        if transport is None:
            return
        transport.pause_reading()
        self._say("220 2.0.0 Ready to start TLS")
        self._flush()
        self._buffer.clear()
        self._forget()
        self._helo = ""
        self._tls = True
        self._handshake = asyncio.create_task(self._shake_hands(transport, context))

    async def _shake_hands(self, transport: asyncio.Transport, context: ssl.SSLContext) -> None:
        loop = asyncio.get_running_loop()
        try:  # ssl.SSLError is an OSError
            inside = await loop.start_tls(transport, self, context, server_side=True)
        except OSError:
            transport.abort()
            return
        self._transport = inside
        self._handshake = None
        self._proceed()
