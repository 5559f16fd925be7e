"""From names to hooks: what is found, and what is refused in words that help."""

import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from deliveryagent.intake import hook_loading
from deliveryagent.intake.hook_loading import LoadError, load_hook, load_hooks
from deliveryagent.intake.listener_settings import HookSettings
from deliveryagent.mail.verdict import Accept
from tests.doors.milters import session

MODULE = """
from deliveryagent.mail.verdict import Accept

class Greeter:
    def connect(self, session):
        return Accept(text="hello")

    def close(self):
        pass

class Outer:
    class Inner:
        def data(self, session):
            return None

greeter = Greeter()

def at_the_end(session, message):
    return None

class Misspelt:
    def on_connect(self, session):
        return None

class Foreign:
    def ehlo(self, session, name):
        return None

class Typo:
    def message(self, session, message):
        return None

    async def hedaers(self, session, message):
        return None

class Empty:
    pass

class Broken:
    def __init__(self):
        raise RuntimeError("no database")

number = 7
"""


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "some_hooks.py").write_text(MODULE)
    (tmp_path / "bad_hooks.py").write_text("import nothing_like_this\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in ("some_hooks", "bad_hooks"):
        sys.modules.pop(name, None)


def trouble(name: str, stage: str, error: BaseException) -> None:
    raise AssertionError((name, stage)) from error


def test_classes_objects_and_functions_are_hooks() -> None:
    names = ("some_hooks:Greeter", "some_hooks:Outer.Inner", "some_hooks:at_the_end")
    hooks = load_hooks(HookSettings(hooks=names), trouble=trouble)
    assert hooks.asked == {"connect", "data", "message"}
    assert hooks.ask("connect", session()) == Accept(text="hello")
    assert load_hook("some_hooks:greeter") is sys.modules["some_hooks"].greeter


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nothing:at_all", "cannot be imported: ModuleNotFoundError"),
        ("bad_hooks:x", "nothing_like_this"),
        ("some_hooks:absent", "cannot be imported: AttributeError"),
        ("some_hooks:", "cannot be imported"),
        (":x", "cannot be imported"),
        ("some_hooks", "is no entry point"),
        ("some_hooks:Broken", "cannot be made: RuntimeError: no database"),
        ("some_hooks:Empty", "at no stage; the stages are auth, command, connect,"),
        ("some_hooks:number", "at no stage"),
        ("some_hooks:Misspelt", 'has "on_connect", which is no stage: is "connect" meant?'),
        ("some_hooks:Foreign", 'has "ehlo", which is no stage: is "helo" meant?'),
        ("some_hooks:Typo", 'has "hedaers", which is no stage: is "headers" meant?'),
    ],
)
def test_what_is_no_hook_is_refused_with_the_reason(name: str, reason: str) -> None:
    with pytest.raises(LoadError, match=r"^hooks: ") as caught:
        load_hooks(HookSettings(hooks=(name,)), trouble=trouble)
    assert reason in str(caught.value)
    assert f'"{name}"' in str(caught.value)


def test_entry_points_are_named_without_a_module(monkeypatch: pytest.MonkeyPatch) -> None:
    def entry_points(*, group: str, name: str) -> list[EntryPoint]:
        found = EntryPoint("greeter", "some_hooks:Greeter", hook_loading.GROUP)
        return [found] if (group, name) == (found.group, found.name) else []

    monkeypatch.setattr(hook_loading, "entry_points", entry_points)
    assert load_hooks(HookSettings(hooks=("greeter",)), trouble=trouble).asked == {"connect"}
    with pytest.raises(LoadError, match="is no entry point"):
        load_hook("other")


def test_milters_come_after_all_hooks() -> None:
    settings = HookSettings(hooks=("some_hooks:Greeter",), milters=("inet:127.0.0.1:1",))
    hooks = load_hooks(settings, trouble=trouble)
    assert hooks.ask("connect", session()) == Accept(text="hello")
    assert {"mail", "rcpt", "data", "message", "disconnect"} <= hooks.asked
    assert not {"auth", "starttls", "headers", "debug"} & hooks.asked


@pytest.mark.parametrize(
    "address",
    ["", "inet:", "inet:host", "inet:host:0", "inet:host:65536", "inet:host:x", "unix:", "tcp:a:1"],
)
def test_an_address_of_no_milter_is_refused(address: str) -> None:
    with pytest.raises(LoadError, match=r"^milters: "):
        load_hooks(HookSettings(milters=(address,)), trouble=trouble)
