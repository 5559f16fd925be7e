"""The macros of the milter protocol: what a filter is told of a session beside the commands.

Names and stages are those of Postfix (``milter_connect_macros`` and its like), with what sendmail adds that
filters ask for. Guarantees: a value that is not known is left out, never made up. Never touches a socket.
"""

from deliveryagent.protocol.milter import Command, Terms
from deliveryagent.protocol.session import Session

_DEFAULT: dict[Command, tuple[str, ...]] = {
    Command.CONNECT: (
        "j", "_", "v", "{daemon_name}", "{daemon_addr}", "{daemon_port}", "{if_name}", "{if_addr}",
        "{client_addr}", "{client_name}", "{client_port}", "{client_ptr}",
    ),
    Command.HELO: ("{tls_version}", "{cipher}", "{cipher_bits}", "{cert_subject}"),
    Command.MAIL: (
        "i", "{auth_type}", "{auth_authen}", "{mail_addr}", "{mail_host}", "{mail_mailer}",
    ),
    Command.RCPT: ("i", "{rcpt_addr}", "{rcpt_host}", "{rcpt_mailer}"),
    Command.DATA: ("i",),
    Command.EOH: ("i",),
    Command.BODYEOB: ("i",),
}  # fmt: skip


def names_for(command: Command, terms: Terms) -> tuple[str, ...]:
    """The macros that go with a command: those the filter asked for, or else the usual ones."""
    chosen = terms.macros.get(command)
    if chosen is None:
        return _DEFAULT.get(command, ())
    return tuple(name if len(name) == 1 else "{" + name.strip("{}") + "}" for name in chosen)


def values(session: Session, software: str, recipient: str = "") -> dict[str, str]:
    """Everything that is known now; ``software`` is our name and version."""
    name, address, port = peer(session)
    local, _, local_port = session.local.rpartition(":")
    known = {
        "j": session.hostname,
        "v": software,
        "_": f"{name} [{address}]" if address and name[0] != "[" else name,
        "{daemon_name}": "ORIGINATING" if session.kind == "submission" else session.hostname,
        "{client_addr}": address,
        "{client_name}": name,
        "{client_ptr}": name,
        "{client_port}": str(port),
        "{auth_type}": session.mechanism if session.user else "",
        "{auth_authen}": session.user,
    }
    if local and local_port.isdecimal():
        known["{daemon_addr}"] = known["{if_addr}"] = local.strip("[]")
        known["{daemon_port}"] = local_port
        known["{if_name}"] = session.hostname
    if session.tls is not None:
        known["{tls_version}"] = session.tls.version
        known["{cipher}"] = session.tls.cipher
        known["{cipher_bits}"] = str(session.tls.bits or "")
        known["{cert_subject}"] = session.tls.client_subject
    if session.transaction is not None:
        known["i"] = session.transaction.queue_id
        known["{mail_addr}"] = session.transaction.sender
        known["{mail_host}"] = session.transaction.sender.rpartition("@")[2]
        known["{mail_mailer}"] = known["{rcpt_mailer}"] = "smtp"
    if recipient:
        known["{rcpt_addr}"] = recipient
        known["{rcpt_host}"] = recipient.rpartition("@")[2]
    return known


def peer(session: Session) -> tuple[str, str, int]:
    """Name, IP address and port of the client.

    Without a name it is the address in brackets, as libmilter has it. Who came over a Unix socket is this
    host, as it is in Postfix.
    """
    client = session.client
    if not client.address:
        return ("localhost", "127.0.0.1", 0) if client.uid >= 0 else ("unknown", "", 0)
    return client.name or f"[{client.address}]", client.address, client.port
