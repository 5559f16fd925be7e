"""What can be wrong with a configuration, told so that a person can mend it at once.

All problems of a configuration are found before any is reported. Never contains the value of a
secret.
"""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that is wrong.

    ``where`` is ``file:line``, ``environment NAME`` or ``--set``; ``key`` the dotted name of the
    setting, empty when the trouble is older than that; ``text`` says what was found and what would
    be right.
    """

    where: str
    key: str
    text: str
    hint: str = ""

    def __str__(self) -> str:
        parts = [part for part in (self.where, self.key) if part]
        hint = f" ({self.hint})" if self.hint else ""
        return ": ".join([*parts, self.text]) + hint


class ConfigError(Exception):
    """The configuration cannot be used; ``problems`` has every reason, in the order of the file."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))
