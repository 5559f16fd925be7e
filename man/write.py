"""Writes the manual pages from the commands, the settings and the tables, so that they cannot be wrong.

``python man/write.py [DIRECTORY]`` writes dagent(1), deliveryagent-sendmail(1), deliveryagent.toml(5),
deliveryagent-queue(7) and deliveryagent(8); a test compares them with what is kept here. What no declaration
can say stands in ``passages.py``.
"""

import inspect
import re
import sys
from collections import Counter
from pathlib import Path

import click
import passages
from roff import Page, bold, literal, plain, prose
from sqlalchemy import CheckConstraint, Table

from deliveryagent import __version__
from deliveryagent.cli import root
from deliveryagent.cli.command import Command, Group, is_global
from deliveryagent.cli.faults import EXIT_MEANINGS
from deliveryagent.config.explain import (
    Entry,
    catalogue,
    listener_catalogue,
    postfix_name,
    route_catalogue,
)
from deliveryagent.config.sections import SECTIONS
from queue_schema import tables


def commands_page() -> str:
    """dagent(1)."""
    page = Page("dagent", 1, version=__version__, book="User Commands")
    page.named("dagent", "hand over mail, watch the queue, run the delivery agent")
    page.section("Synopsis")
    page.paragraph(f"{bold('dagent')} [\\fIoptions\\fP] \\fIcommand\\fP [\\fIarguments\\fP]")
    page.section("Description")
    page.paragraphs(passages.COMMANDS)
    page.section("Global options")
    page.paragraph("Taken before and after the name of the command.")
    for option in root.params:
        _option(page, option)
    page.item(", ".join(map(bold, ("-h", "--help"))), "Show help, at every level.")
    page.section("Commands")
    _commands(page, root, "dagent")
    _exit_status(page)
    page.section("Environment")
    for name, meaning in passages.ENVIRONMENT.items():
        page.item(bold(name), prose(meaning))
    _files(page)
    page.section("Examples")
    page.example(root.examples)
    _see_also(page, "deliveryagent.toml(5)", "deliveryagent\\-queue(7)", "deliveryagent(8)")
    return page.text


def _commands(page: Page, group: click.Group, path: str) -> None:
    context = click.Context(group, info_name=path)
    children = [(name, group.get_command(context, name)) for name in group.list_commands(context)]
    shared = _shared([child for _, child in children if isinstance(child, Command)])
    if shared:
        page.part(f"Options of several {path} commands")
        for option in shared.values():
            _option(page, option)
    for name, child in children:
        if isinstance(child, Group):
            _commands(page, child, f"{path} {name}")
        elif isinstance(child, Command):
            _command(page, child, f"{path} {name}", shared)


def _shared(commands: list[Command]) -> dict[tuple[str, ...], click.Option]:
    """The options that three or more commands of a group have in common, by their names and help."""
    counted = Counter(_identity(option) for command in commands for option in _own_options(command))
    return {
        _identity(option): option
        for command in commands
        for option in _own_options(command)
        if counted[_identity(option)] >= 3
    }


def _own_options(command: Command) -> list[click.Option]:
    return [p for p in command.params if isinstance(p, click.Option) and not is_global(p)]


def _identity(option: click.Option) -> tuple[str, ...]:
    return (*option.opts, option.help or "")


def _command(
    page: Page, command: Command, path: str, shared: dict[tuple[str, ...], click.Option]
) -> None:
    arguments = [_argument(p) for p in command.params if isinstance(p, click.Argument)]
    options = _own_options(command)
    page.part(path)
    words = [bold(path), *(["[\\fIoptions\\fP]"] if options else []), *arguments]
    page.paragraph(" ".join(words))
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        page.paragraph(plain(" ".join(paragraph.split())))
    for option in options:
        if _identity(option) not in shared:
            _option(page, option)
    common = [bold(option.opts[-1]) for option in options if _identity(option) in shared]
    if common:
        page.paragraph(f"Also, as above: {', '.join(common)}.")
    page.example(command.examples)


def _argument(argument: click.Argument) -> str:
    name = argument.metavar or (argument.name or "").upper()
    many = "\\&..." if argument.nargs == -1 and not name.endswith(("]", "...")) else ""
    shown = f"\\fI{literal(name)}\\fP{many}"
    return shown if argument.required or name.startswith("[") else f"[{shown}]"


def _option(page: Page, option: click.Parameter) -> None:
    if not isinstance(option, click.Option) or option.hidden:
        return
    names = ", ".join(bold(name) for name in [*option.opts, *option.secondary_opts])
    value = "" if option.is_flag or option.count else f" \\fI{literal(_metavar(option))}\\fP"
    default = ""
    if option.show_default and option.default is not None:
        default = f" Default: {literal(str(option.default))}."
    page.item(f"{names}{value}", plain(option.help or "") + default)


def _metavar(option: click.Option) -> str:
    if option.metavar:
        return option.metavar
    if isinstance(option.type, click.Choice):
        return "|".join(str(getattr(choice, "value", choice)) for choice in option.type.choices)
    return (option.name or "value").upper().replace("_", "-")


def settings_page() -> str:
    """deliveryagent.toml(5)."""
    page = Page("deliveryagent.toml", 5, version=__version__, book="File Formats")
    page.named("deliveryagent.toml", "configuration of the delivery agent")
    page.section("Description")
    page.paragraphs(passages.SETTINGS)
    page.section("Top level")
    for entry in catalogue().values():
        if not entry.section:
            _setting(page, entry)
    for name, section in SECTIONS.items():
        page.section(f"[{name}]")
        page.paragraphs(passages.SECTIONS.get(name, "") or inspect.getdoc(section) or "")
        for entry in catalogue().values():
            if entry.section == name:
                _setting(page, entry)
    page.section("[[route]]")
    page.paragraphs(passages.ROUTES)
    narrowed = []
    for name, entry in route_catalogue().items():
        if entry.section:
            narrowed.append(name)
        else:
            _setting(page, entry)
    page.paragraph("Besides these it may narrow: " + ", ".join(map(bold, sorted(narrowed))) + ".")
    page.section("[[listener]]")
    page.paragraphs(passages.LISTENERS)
    for entry in listener_catalogue().values():
        _setting(page, entry)
    page.section("Examples")
    for text, lines in passages.EXAMPLES:
        page.paragraphs(text)
        page.example(lines.strip().split("\n"))
    _files(page)
    _see_also(page, "dagent(1)", "deliveryagent(8)")
    return page.text


def _setting(page: Page, entry: Entry) -> None:
    name = entry.name.rpartition(".")[2]
    lines = [plain(entry.key.meaning)]
    if entry.choices:
        lines.append(
            "One of " + ", ".join(literal(f'"{choice}"') for choice in entry.choices) + "."
        )
    if entry.key.postfix:
        lines.append(f"Postfix: {literal(postfix_name(entry))}.")
    page.item(f"{bold(name)} ({entry.type_name}, default {literal(entry.default_text)})", *lines)


def schema_page() -> str:
    """deliveryagent-queue(7)."""
    page = Page("deliveryagent-queue", 7, version=__version__, book="Miscellaneous")
    page.named("deliveryagent-queue", "the tables of the queue")
    page.section("Description")
    page.paragraphs(passages.SCHEMA)
    for paragraph in inspect.cleandoc(tables.__doc__ or "").split("\n\n")[1:]:
        for part in re.split(r"\n(?=\* )", paragraph.replace("``", "")):
            text = plain(" ".join(part.removeprefix("* ").split()))
            if part.startswith("* "):
                page.item("\\(bu", text)
            else:
                page.paragraph(text)
    page.section("Tables")
    for table in tables.metadata.sorted_tables:
        _table(page, table)
    _see_also(page, "dagent(1)", "deliveryagent(8)")
    return page.text


def _table(page: Page, table: Table) -> None:
    page.part(table.name)
    rows = []
    for column in table.columns:
        facts = [str(column.type).lower().replace("_", " ")]
        if column.primary_key:
            facts.append("key")
        facts += [f"names {key.target_fullname}" for key in column.foreign_keys]
        if column.nullable:
            facts.append("may be null")
        rows.append(f"{column.name:<17} {', '.join(facts)}")
    page.example(rows)
    for check in sorted(_checks(table)):
        page.paragraph(f"Always: {literal(check)}")


def _checks(table: Table) -> list[str]:
    return [str(c.sqltext) for c in table.constraints if isinstance(c, CheckConstraint)]


def service_page() -> str:
    """deliveryagent(8)."""
    page = Page("deliveryagent", 8, version=__version__, book="System Administration")
    page.named("deliveryagent", "agent for outbound mail")
    page.section("Synopsis")
    page.paragraph(f"{bold('dagent serve')} [{bold('--until-idle')}]")
    page.example(["systemctl start deliveryagent"])
    for title, text in passages.SERVICE:
        page.section(title)
        page.paragraphs(text)
    page.section("Signals")
    for name, meaning in passages.SIGNALS.items():
        page.item(bold(name), prose(meaning))
    _files(page)
    _exit_status(page)
    _see_also(page, "dagent(1)", "deliveryagent.toml(5)", "deliveryagent\\-queue(7)", "systemd(1)")
    return page.text


def sendmail_page() -> str:
    """deliveryagent-sendmail(1)."""
    page = Page("deliveryagent-sendmail", 1, version=__version__, book="User Commands")
    names = ("deliveryagent-sendmail", "deliveryagent-mailq", "deliveryagent-newaliases")
    page.named(", ".join(names), "hand over mail and list the queue as sendmail does")
    page.section("Synopsis")
    page.paragraph(f"{bold(names[0])} [\\fIoptions\\fP] [\\fIrecipients\\fP]")
    for name in names[1:]:
        page.paragraph(bold(name))
    page.section("Description")
    page.paragraphs(passages.SENDMAIL)
    page.section("Options")
    page.paragraph("A value may be joined to its option, and options without one may be gathered.")
    for option, meaning in passages.SENDMAIL_OPTIONS.items():
        page.item(prose(option), prose(meaning))
    page.paragraphs(passages.SENDMAIL_IGNORED)
    page.section("Exit status")
    for status, meaning in passages.SENDMAIL_STATUS.items():
        page.item(bold(str(status)), plain(meaning))
    page.section("Environment")
    page.item(bold("NAME"), "The full name of the sender, unless \\fB\\-F\\fP gives one.")
    page.item(bold("DELIVERYAGENT_CONFIG"), "The configuration file.")
    _files(page)
    page.section("Examples")
    page.example(["deliveryagent-sendmail -t -i -f shop@example.org < message.eml"])
    _see_also(page, "dagent(1)", "deliveryagent(8)")
    return page.text


def _exit_status(page: Page) -> None:
    page.section("Exit status")
    for status, meaning in EXIT_MEANINGS.items():
        page.item(bold(str(int(status))), plain(meaning))


def _files(page: Page) -> None:
    page.section("Files")
    for name, meaning in passages.FILES.items():
        page.item(bold(name), prose(meaning))


def _see_also(page: Page, *pages: str) -> None:
    page.section("See also")
    named = [name.partition("(") for name in pages]
    page.paragraph(", ".join(f"\\fB{name}\\fP({rest}" for name, _, rest in named))


PAGES = {
    "dagent.1": commands_page,
    "deliveryagent-sendmail.1": sendmail_page,
    "deliveryagent.toml.5": settings_page,
    "deliveryagent-queue.7": schema_page,
    "deliveryagent.8": service_page,
}


def main(arguments: list[str]) -> None:
    """Write every page into a directory, by default the one of this file."""
    directory = Path(arguments[0]) if arguments else Path(__file__).parent
    for name, compose in PAGES.items():
        (directory / name).write_text(compose(), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
