"""``dagent send`` without the machinery of the command line, when what is asked is plain.

Guarantees: does exactly what the command does, or nothing at all and says so. Imports what takes a
message to the service and no more: with a service that answers, half of the time goes to starting
the interpreter.
"""

from __future__ import annotations

import os

from deliveryagent.cli.ending import completing, ended
from deliveryagent.cli.grammar import read

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def quick(words: Sequence[str]) -> int | None:
    """Run a command line; the exit status, or None when it takes the whole program."""
    given = None if completing(os.environ) else read(words)
    if given is None:
        return None
    from deliveryagent.cli.sending import MisuseError, understood

    try:
        order = understood(given)
    except MisuseError:  # click knows how to tell
        return None
    return ended(order.carry_out, debug=lambda: False)
