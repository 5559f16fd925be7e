"""``dagent send``: hand over one message.

The command as click knows it; its options stand in ``grammar``, what it does in ``sending``.
"""

from typing import Any

import click

from deliveryagent.cli.command import Invocation, command, options
from deliveryagent.cli.grammar import SEND
from deliveryagent.cli.sending import MisuseError, understood


@command(
    "send",
    examples=[
        "dagent send -f shop@example.org kim@example.net < message.eml",
        "dagent send -t --key order-4711 --file message.eml",
        "dagent send --at 'in 2h' --dsn success,failure --wait 30s kim@example.net < message.eml",
    ],
    params=[
        *options(SEND),
        click.Argument(["recipients"], metavar="[RCPT]...", nargs=-1),
    ],
)
@click.pass_obj
def send(invocation: Invocation, /, **given: Any) -> int | None:
    """Enqueue one message (RFC 5322) from standard input.

    Lines may end in LF or CRLF. Date, Message-ID and From are added when missing, Bcc is removed.
    Prints the queue id once the message is safe. With --wait, exits 0 when it was delivered to
    everybody, 1 when to nobody, 6 when to some, 75 when some still wait.
    """
    try:
        order = understood(given | invocation.common())
    except MisuseError as error:
        if error.option:
            raise click.BadParameter(str(error), param_hint=error.option) from None
        raise click.UsageError(str(error)) from None
    return order.carry_out()
