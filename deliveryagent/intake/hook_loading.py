"""From the names in the settings to hooks: what is imported, made, and refused.

Guarantees: whatever is wrong is one ``LoadError`` that names the setting and its value; what has a method
that looks like a stage but is none is refused, since it would never be asked. Imports code of the user's:
only what is named.
"""

import difflib
import importlib
import inspect
from collections.abc import Iterable, Iterator
from importlib.metadata import entry_points

from deliveryagent.intake.hook import STAGES
from deliveryagent.intake.hooks import Hooks, Trouble, stages_of
from deliveryagent.intake.listener_settings import HookSettings
from deliveryagent.intake.milter import Milter

GROUP = "deliveryagent.hooks"
"""The group of entry points whose names may be used in place of ``package.module:object``."""

_ELSEWHERE = {
    "ehlo": "helo",
    "lhlo": "helo",
    "envfrom": "mail",
    "envrcpt": "rcpt",
    "eom": "message",
    "end_of_data": "message",
    "end_of_message": "message",
    "unknown": "command",
}  # what other programs call our stages
_PREFIXES = ("on_", "handle_", "hook_", "do_", "smtp_")


class LoadError(ValueError):
    """A hook or milter that cannot be used; the message names the setting."""


def load_hooks(
    settings: HookSettings, *, trouble: Trouble, first: Iterable[tuple[str, object]] = ()
) -> Hooks:
    """All hooks and milters of a listener, after those that are there; raises ``LoadError``."""
    hooks = [*first, *((name, load_hook(name)) for name in settings.hooks)]
    milters = []
    for address in settings.milters:
        try:
            milter = Milter(
                address,
                timeout=settings.milter_timeout,
                default_action=settings.milter_default_action,
                trouble=trouble,
            )
        except ValueError as error:
            raise LoadError(f'milters: "{address}": {error}') from None
        milters.append((milter.name, milter))
    return Hooks(hooks, limit=settings.hook_timeout, trouble=trouble, last=milters)


def load_hook(name: str) -> object:
    """One hook: "package.module:object" or the name of an entry point. Raises ``LoadError``."""
    hook = _find(name)
    if inspect.isclass(hook):
        try:
            hook = hook()
        except Exception as error:
            raise LoadError(f'hooks: "{name}" cannot be made: {_shown(error)}') from error
    for method, stage in _misspelt(hook):
        raise LoadError(f'hooks: "{name}" has "{method}", which is no stage: is "{stage}" meant?')
    if not stages_of(hook):
        stages = ", ".join(sorted(STAGES))
        raise LoadError(f'hooks: "{name}" can be asked at no stage; the stages are {stages}')
    return hook


def _find(name: str) -> object:
    module, colon, path = name.partition(":")
    try:
        if not colon:
            return _entry_point(name)
        found: object = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except LoadError:
        raise
    except Exception as error:
        raise LoadError(f'hooks: "{name}" cannot be imported: {_shown(error)}') from error
    return found


def _entry_point(name: str) -> object:
    for found in entry_points(group=GROUP, name=name):
        return found.load()
    raise LoadError(
        f'hooks: "{name}" is no entry point of the group {GROUP}; write "package.module:object"'
    )


def _misspelt(hook: object) -> Iterator[tuple[str, str]]:
    """Public methods whose names are almost stages, and the stages."""
    for name, member in inspect.getmembers(type(hook), callable):
        if name.startswith("_") or name in STAGES or inspect.isclass(member):
            continue
        plain = name.lower()
        for prefix in _PREFIXES:
            plain = plain.removeprefix(prefix)
        plain = _ELSEWHERE.get(plain, plain)
        close = difflib.get_close_matches(plain, STAGES, n=1, cutoff=0.85)
        if close:
            yield name, close[0]


def _shown(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
