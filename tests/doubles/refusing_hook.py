"""A hook that refuses recipients, at RCPT or only when the whole message has come, by their names."""

from deliveryagent.intake.hook import Answer, Hook
from deliveryagent.intake.message import Message
from deliveryagent.mail.verdict import Decision, Discard, Reject, Tempfail
from deliveryagent.protocol.session import Recipient, Session

UNKNOWN = Reject(code=550, enhanced="5.1.1", text="Nobody of that name")
BUSY = Tempfail(code=450, enhanced="4.2.1", text="Not now")
FULL = Tempfail(code=452, enhanced="4.2.2", text="Mailbox full")
NEVER = Reject(code=550, enhanced="5.7.1", text="Not this one")


class Refusing(Hook):
    """``nobody`` and ``busy`` are refused at RCPT, ``full`` (the first time) and ``never`` at the end."""

    def __init__(self) -> None:
        self._warned: set[str] = set()

    def rcpt(self, session: Session, recipient: Recipient) -> Answer:
        """Refuse some."""
        name = recipient.address.partition("@")[0]
        answers: dict[str, Decision] = {"nobody": UNKNOWN, "busy": BUSY, "void": Discard()}
        return answers.get(name)

    def message(self, session: Session, message: Message) -> Answer:
        """Refuse others."""
        for address in message.recipients:
            if address.startswith("never@"):
                message.refused[address] = NEVER
            elif address.startswith("full@") and address not in self._warned:
                self._warned.add(address)
                message.refused[address] = FULL
        return None
