"""What ``sendmail -q`` and ``sendmail -bv`` do: try again now, and try the way to an address.

Guarantees: ``-q`` is carried out by the service, which counts what it does; with no service running nothing is
changed. Trying an address sends nothing.
"""

import os
import sys
from collections.abc import Iterator

from deliveryagent.cli.door import ORDER_TIME, Door
from deliveryagent.cli.sendmail.arguments import Arguments
from deliveryagent.cli.sendmail.submission import addresses
from deliveryagent.cli.sendmail.sysexits import SendmailError, Sysexit
from deliveryagent.config.location import locate
from deliveryagent.mail.envelope import format_queue_id, parse_queue_id


def flush(arguments: Arguments) -> Iterator[str]:
    """Have everything, one message or one site tried now; yields remarks. Raises ``SendmailError``."""
    wanted: dict[str, object] = {"all": True}
    if arguments.site:
        wanted = {"domain": arguments.site.removeprefix("@")}
    elif arguments.queue_id:
        try:
            wanted = {"ids": [format_queue_id(parse_queue_id(arguments.queue_id))]}
        except ValueError as error:
            raise SendmailError(Sysexit.USAGE, str(error)) from None
    door = Door(locate().socket)
    try:
        # First of all, that hosts did not answer before is no reason to wait any more.
        door.ask("dest_reset_all", patience=ORDER_TIME)
        answer = door.ask("retry", patience=ORDER_TIME, filter=wanted, note="", dry_run=False)
    finally:
        door.close()
    if answer is None:
        raise SendmailError(
            Sysexit.UNAVAILABLE, f"cannot flush the queue: no service is running ({door.trouble})"
        )
    if not answer.get("recipients") and not answer.get("skipped_active"):
        named = arguments.queue_id or arguments.site
        yield f"nothing of {named} waits" if named else "nothing waits"


def probe(arguments: Arguments) -> int:
    """Try the way to each recipient, as ``dagent probe --rcpt`` does; what is found is printed.

    Returns 0 when a message to each of them would be handed over now.
    """
    from deliveryagent.cli.program import run

    recipients = addresses(arguments.recipients)
    if not recipients:
        raise SendmailError(Sysexit.USAGE, "name the addresses to try on the command line")
    sender = ["--from", arguments.sender or "<>"] if arguments.sender is not None else []
    statuses = [run(["probe", "--rcpt", *sender, "--", one]) for one in recipients]
    sys.stdout.flush()
    return Sysexit.UNAVAILABLE if any(statuses) else os.EX_OK
