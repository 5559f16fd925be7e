"""The command line: one module a command group.

``program`` has the tree of commands and runs them; ``quick`` runs what must start fast without
loading it. Importing this package costs nothing; what it offers is loaded when it is asked for.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from deliveryagent.cli.program import COMMANDS, root, run

__all__ = ["COMMANDS", "root", "run"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from deliveryagent.cli import program

        return getattr(program, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
