"""The exit statuses callers of ``sendmail`` act upon (sysexits.h), and how they follow from what went wrong.

Guarantees: every error of this program and of the service has one; a message that was not taken never ends
in 0. Imports nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


class Sysexit:
    """The numbers of sysexits.h that are used here."""

    OK = 0
    USAGE = 64  # the command line makes no sense
    DATA = 65  # an address or the content is not acceptable
    UNAVAILABLE = 69
    SOFTWARE = 70  # a fault of this program or of the service
    OS = 71
    INPUT_OUTPUT = 74
    TRY_LATER = 75
    NO_PERMISSION = 77
    CONFIGURATION = 78


_OF_CODE: Mapping[
    int, int
] = {  # the exit statuses of ``dagent``, which the service's answers carry
    1: Sysexit.SOFTWARE,
    2: Sysexit.USAGE,
    3: Sysexit.UNAVAILABLE,
    4: Sysexit.NO_PERMISSION,
    5: Sysexit.DATA,
}


def sysexit_of(code: int) -> int:
    """The status for a code of ``protocol.local.ExitCode``.

    >>> sysexit_of(4), sysexit_of(75)
    (77, 75)
    """
    return _OF_CODE.get(code, code if code >= Sysexit.USAGE else Sysexit.SOFTWARE)


class SendmailError(Exception):
    """The command cannot do what was asked: the exit status, and one sentence why."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
