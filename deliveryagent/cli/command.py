"""Commands as this program has them: global options on both sides, examples first, loaded when
needed.

Every command and group is a :class:`Command` or :class:`Group`::

    @command("drain", examples=["dagent drain --wait"])
    @click.option("--wait", is_flag=True, help="Return when everything in flight has ended.")
    @click.pass_obj
    def drain(invocation: Invocation, wait: bool) -> int | None:
        \"\"\"Stop claiming here and finish what runs.\"\"\"

The global options (``--config``, ``--set``, ``--json``, ``--color``, ``--debug``) are taken before
and after the name of the command and end up in the one :class:`Invocation` that ``click.pass_obj``
hands over. What a command returns is its exit status; ``None`` means 0. Never imports more than
click: the rooms a command needs are imported by its own module, which is loaded when the command is
used.
"""

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from deliveryagent import __version__
from deliveryagent.cli.faults import CommandError, ExitStatus
from deliveryagent.cli.grammar import COMMON, Word

if TYPE_CHECKING:
    from deliveryagent.cli.screen import Screen
    from deliveryagent.config import Config
    from deliveryagent.config.location import Location
    from deliveryagent.policy.retry import RetrySettings

_GLOBAL = "global_option"


@dataclass(kw_only=True)
class Invocation:
    """What the global options say, and what follows from them."""

    config_path: str | None = None
    overrides: list[str] = field(default_factory=list)
    json: bool = False
    color: bool | None = None
    debug: bool = False

    def common(self) -> dict[str, Any]:
        """The options every command takes, by the names of ``grammar.COMMON``."""
        return {"config": self.config_path, "set": tuple(self.overrides), "json": self.json}

    def config(self) -> "Config":
        """The whole configuration, checked; raises ``ConfigError`` with every problem found."""
        from deliveryagent.config import load

        return load(self.config_path, self.overrides)

    def location(self) -> "Location":
        """Only where the socket and the queue are: for commands that must start fast."""
        from deliveryagent.config.location import locate

        return locate(self.config_path, self.overrides)

    def schedule(self) -> "RetrySettings":
        """Only when attempts are made and for how long, likewise."""
        from deliveryagent.config.schedule import retry_settings

        return retry_settings(self.config_path, self.overrides)

    def hostname(self) -> str:
        """Only the name of this host, likewise."""
        from deliveryagent.config.location import own_name

        return own_name(self.config_path, self.overrides)

    def screen(self) -> "Screen":
        """Where the command prints: standard output for data, standard error for messages."""
        from deliveryagent.cli.screen import Screen

        return Screen(json=self.json, color=colored(self.color, os.environ, sys.stdout.isatty()))


def colored(wish: bool | None, environ: Mapping[str, str], terminal: bool) -> bool:
    """Whether to use colour: the option, else NO_COLOR and TERM, else whether this is a
    terminal."""
    if wish is not None:
        return wish
    return terminal and not environ.get("NO_COLOR") and environ.get("TERM", "") != "dumb"


def _remember(name: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def callback(context: click.Context, _parameter: click.Parameter, value: Any) -> None:
        invocation = context.ensure_object(Invocation)
        if name == "overrides":
            invocation.overrides.extend(value)
        elif value not in (None, False) or (name == "color" and value is False):
            setattr(invocation, name, value)

    return callback


def _print_version(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value and not context.resilient_parsing:
        click.echo(f"deliveryagent {__version__}")
        context.exit()


def options(words: Iterable[Word]) -> list[click.Parameter]:
    """The options of a table, as click has them."""
    return [_option(word, word.name) for word in words]


def _option(word: Word, name: str, **more: Any) -> click.Option:
    kinds: dict[str, dict[str, Any]] = {
        "flag": {"is_flag": True},
        "many": {"multiple": True},
        "optional": {"is_flag": False, "flag_value": ""},
    }
    kind = kinds.get(word.kind, {})
    if word.choices:
        kind = {"type": click.Choice(word.choices)}
    spelled = [*word.spellings, name]
    return click.Option(spelled, metavar=word.metavar, help=word.help, **kind, **more)


_REMEMBERED = {"config": "config_path", "set": "overrides", "json": "json"}


def _global_options() -> list[click.Parameter]:
    common = [
        _option(word, f"{_GLOBAL}_{word.name}", callback=_remember(_REMEMBERED[word.name]))
        for word in COMMON
    ]
    rare = [
        click.Option(
            ["--color/--no-color", _GLOBAL + "_color"],
            default=None,
            help="Colour always or never; else on a terminal, unless NO_COLOR is set.",
            callback=_remember("color"),
        ),
        click.Option(
            ["--debug", _GLOBAL + "_debug"],
            is_flag=True,
            help="Show the traceback of an error.",
            callback=_remember("debug"),
        ),
        click.Option(
            ["--version", _GLOBAL + "_version"],
            is_flag=True,
            is_eager=True,
            help="Print the version.",
            callback=_print_version,
        ),
    ]
    for option in (*common, *rare):
        option.expose_value = False
    return [*common, *rare]


def is_global(parameter: click.Parameter) -> bool:
    """Whether a parameter is one of the options that every command has."""
    return (parameter.name or "").startswith(_GLOBAL)


class _Shown(click.Command):
    """What commands and groups have in common: global options, examples, order of the help."""

    def __init__(self, *args: Any, examples: Sequence[str] = (), **kwargs: Any) -> None:
        settings = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
        kwargs["context_settings"] = settings | (kwargs.get("context_settings") or {})
        kwargs["params"] = [*(kwargs.get("params") or []), *_global_options()]
        super().__init__(*args, **kwargs)
        self.examples = tuple(examples)

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The description, then the examples: those are what most readers look for."""
        super().format_help_text(ctx, formatter)
        if self.examples:
            with formatter.section("Examples"):
                for example in self.examples:
                    formatter.write(f"{'':{formatter.current_indent}}{example}\n")

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The command's own options, apart from those it shares with every other."""
        shown = [(is_global(p), p.get_help_record(ctx)) for p in self.get_params(ctx)]
        own = [record for common, record in shown if record and not common]
        common = [record for common, record in shown if record and common]
        with formatter.section("Options"):
            formatter.write_dl(own)
        if isinstance(self, click.Group):
            self.format_commands(ctx, formatter)
        with formatter.section("Global options"):
            formatter.write_dl(common)


class Command(_Shown):
    """One command."""


class Group(_Shown, click.Group):
    """A command with subcommands; ``group.command("name", examples=[...])`` adds a
    :class:`Command`."""

    command_class = Command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Alone, a group prints its help."""
        if not args and not ctx.resilient_parsing:
            click.echo(ctx.get_help())
            ctx.exit()
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the subcommand; a name nobody has gets a suggestion."""
        name = args[0]
        if not name.startswith("-") and name not in self.list_commands(ctx):
            from difflib import get_close_matches

            near = get_close_matches(name, self.list_commands(ctx), n=1)
            advice = f' Did you mean "{near[0]}"?' if near else ""
            raise click.UsageError(f'No such command: "{name}".{advice}', ctx)
        return super().resolve_command(ctx, args)


class Lazy(NamedTuple):
    """Where a command of the root group lives, and its one-line help."""

    module: str
    name: str
    summary: str


class LazyGroup(Group):
    """A group that knows its commands by name only and imports a command's module when it is
    used."""

    def __init__(self, *args: Any, commands: Mapping[str, Lazy], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lazy = dict(commands)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names in the order of the table: by use, not by alphabet."""
        del ctx
        return list(self._lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command."""
        del ctx
        lazy = self._lazy.get(cmd_name)
        if lazy is None:
            return None
        try:
            loaded = getattr(import_module(lazy.module), lazy.name)
        except ModuleNotFoundError as error:
            if error.name != lazy.module:
                raise
            raise CommandError(
                f'the command "{cmd_name}" is not part of this installation', code=ExitStatus.FAILED
            ) from None
        if not isinstance(loaded, click.Command):
            raise TypeError(f"{lazy.module}.{lazy.name} is not a command")
        return loaded

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, without importing any of them."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, lazy.summary) for name, lazy in self._lazy.items()])


def command(
    name: str, *, examples: Iterable[str], **attributes: Any
) -> Callable[[Callable[..., Any]], Command]:
    """Decorator: a function becomes a :class:`Command`, its docstring the help."""
    return click.command(name, cls=Command, examples=tuple(examples), **attributes)


def group(
    name: str, *, examples: Iterable[str], **attributes: Any
) -> Callable[[Callable[..., Any]], Group]:
    """Decorator: a function becomes a :class:`Group`, its docstring the help."""
    return click.group(name, cls=Group, examples=tuple(examples), **attributes)
