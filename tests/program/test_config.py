"""The configuration as a whole: what is read, what is refused and how it is said."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from deliveryagent.config import Config, ConfigError, load
from deliveryagent.config.advice import advise
from deliveryagent.config.explain import (
    catalogue,
    lookup,
    postfix_name,
    route_catalogue,
    similar,
    value_of,
)
from deliveryagent.config.ownname import mail_name
from deliveryagent.config.read import Loaded, load_with_origins
from deliveryagent.config.sections import SECTIONS


class Setting:
    """Loads texts as a configuration file, with nothing around it."""

    def __init__(self, directory: Path) -> None:
        self.file = directory / "agent.toml"
        self.environ: dict[str, str] = {}

    def loaded(self, text: str, *overrides: str) -> Loaded:
        self.file.write_text(text, "utf-8")
        return load_with_origins(
            self.file, overrides, environ=self.environ, hostname=lambda: "host.example.org"
        )

    def load(self, text: str, *overrides: str) -> Config:
        return self.loaded(text, *overrides).config

    def problems(self, text: str, *overrides: str) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            self.load(text, *overrides)
        prefix = f"{self.file}:"
        return [str(problem).removeprefix(prefix) for problem in caught.value.problems]


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting(tmp_path)


def test_an_empty_file_is_a_configuration(setting: Setting) -> None:
    config = setting.load("")
    assert config.hostname == "host.example.org"
    assert config.postmaster == "postmaster@host.example.org"
    assert config.run_dir == "/run/deliveryagent"
    assert config.queue.url == "sqlite:////var/lib/deliveryagent/queue.sqlite3"
    assert config.smtp.connect_timeout == 30.0
    assert config.lmtp.connect_timeout == 0.0
    assert config.route == ()


def test_without_any_file_the_defaults_apply(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deliveryagent.config.location.DEFAULT_FILE", "/nonexistent/file")
    assert load(environ={}, hostname=lambda: "a.example").smtp.port == 25


def test_values_have_units(setting: Setting) -> None:
    config = setting.load(
        "[queue]\nminimal_backoff_time = '90s'\nmessage_size_limit = '1 MiB'\n"
        "[smtp]\nmail_timeout = 0.25\n"
    )
    assert config.queue.minimal_backoff_time == 90.0
    assert config.queue.message_size_limit == 1048576
    assert config.smtp.mail_timeout == 0.25


def test_later_sources_win_and_are_named(setting: Setting) -> None:
    setting.environ = {"DELIVERYAGENT_SMTP__PORT": "2", "DELIVERYAGENT_HOSTNAME": "env.example"}
    found = setting.loaded(
        "hostname = 'file.example'\n[smtp]\nport = 1\nhelo_name = 'x'\n",
        "smtp.port=3",
        "relay.host=[r]",
    )
    assert found.config.smtp.port == 3
    assert found.config.hostname == "env.example"
    assert found.config.relay.host == "[r]"
    assert found.origins == {
        "smtp.port": "--set",
        "hostname": "environment DELIVERYAGENT_HOSTNAME",
        "smtp.helo_name": f"{setting.file}:4",
        "relay.host": "--set",
    }


def test_every_problem_is_told_at_once_with_its_line(setting: Setting) -> None:
    setting.environ = {"DELIVERYAGENT_DNS__ATTEMPT": "3"}
    assert setting.problems(
        """\
hostname = "mail"
hostnane = "mail.example.org"

[smtp]
conect_timeout = "5s"
mail_timeout = "soon"
port = 0
minimal_backoff_time = "5m"

[mta_sts]
enabled = true

[[route]]
nexthop = "smpt:[host]"

[[route]]
match = []
conect_timeout = 1
""",
        "log.format=xml",
        "novalue",
    ) == [
        "--set novalue: expected SECTION.KEY=VALUE",
        '1: hostname: "mail" is not fully qualified: write it like "mail.example.org"',
        '2: hostnane: unknown setting (did you mean "hostname"?)',
        '5: smtp.conect_timeout: unknown setting (did you mean "smtp.connect_timeout"?)',
        '6: smtp.mail_timeout: "soon" is not a time; write it like "30s", "5m", "1h30m", "5d"',
        "7: smtp.port: a port is a number from 1 to 65535",
        '8: smtp.minimal_backoff_time: unknown setting (did you mean "queue.minimal_backoff_time"?)',
        f"11: mta_sts.enabled: unknown section [mta_sts] (sections are {', '.join(SECTIONS)})",
        (
            "environment DELIVERYAGENT_DNS__ATTEMPT: dns.attempt: unknown setting"
            ' (did you mean "dns.attempts"?)'
        ),
        '--set: log.format: expected one of "text", "json", "postfix", not "xml"',
        (
            '14: route.nexthop: "smpt:" is no transport; there are smtp:, lmtp:, error:, hold: and discard:, '
            'and a port is a number: "[host]:port"'
        ),
        "13: route.match: is missing: for what is this route?",
        '18: route.conect_timeout: unknown setting (did you mean "connect_timeout"?)',
        "17: route.match: is missing: for what is this route?",
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("smtp = 3", "1: smtp: is a section: write [smtp]"),
        ("[smpt]\nport = 1", "2: smpt.port: unknown section [smpt] (did you mean [smtp]?)"),
        ("route = 3", "1: route: routes stand in the file, each under a heading [[route]]"),
        ("[route]\nmatch = ['*']", "2: route.match: routes stand in the file"),
        ("[smtp.port]\nx = 1", "1: smtp.port: expected a whole number, not a table"),
        ("[queue]\nurl = 'mysql://x'", '2: queue.url: a queue cannot be kept in "mysql"'),
        ("[queue]\nurl = 'sqlite://'", "2: queue.url: an SQLite queue needs a file"),
        ("postmaster = 'a b'", "1: postmaster: "),
        ("[delivery]\ninet_interfaces = ['eth0']", '"eth0" is not an IP address'),
        ("[delivery]\nnotify_classes = ['all']", 'element 1: expected one of "bounce"'),
        ("[delivery]\ndefault_destination_recipient_limit = 0", "must be more than 0"),
        ("[dns]\nnameservers = ['ns.example']", '"ns.example" is no name server'),
        ("[smtp]\nbind_address = '::1'", "is not an IPv4 address"),
        ("[lmtp]\nbind_address6 = '127.0.0.1'", "is not an IPv6 address"),
        ("[smtp]\nfallback_relay = ['[a']", "2: smtp.fallback_relay: "),
        ("[smtp]\nhelo_name = 'a b'", "2: smtp.helo_name: "),
        ("[smtp]\ndebug_peer_list = ['300.1.1.1/33']", "2: smtp.debug_peer_list: "),
        ("[relay]\nhost = '[a'", "2: relay.host: "),
        ("[[route]]\nmatch = ['']", 'everything is matched by "*"'),
        ("[[route]]\nmatch = ['a b']", '2: route.match: "a b" matches nothing'),
        ("[[route]]\nmatch = ['*']\nworkers = 3", "3: route.workers: unknown setting"),
        ("[[route]]\nmatch = ['*']\nport = 99999", "3: route.port: a port is a number"),
        (
            "[queue]\nminimal_backoff_time = '2h'",
            "2: queue.minimal_backoff_time: 2h is longer than queue.maximal_backoff_time, 1h6m40s",
        ),
        (f"run_dir = '/{'x' * 100}'", "1: run_dir: the path of the socket"),
    ],
)
def test_what_makes_no_sense_is_refused(setting: Setting, text: str, problem: str) -> None:
    (found,) = setting.problems(text)
    assert problem in found


def test_an_empty_section_says_nothing(setting: Setting) -> None:
    assert setting.loaded("[smtp]\n[log]\n").origins == {}
    assert "unknown section [smpt]" in setting.problems("[smpt]\n")[0]


def test_a_route_narrows_what_it_inherits(setting: Setting) -> None:
    config = setting.load(
        """
[smtp]
connect_timeout = "10s"
[delivery]
default_destination_recipient_limit = 7
[[route]]
match = ["slow.example", ".slow.example", "kim@example.org", "[192.0.2.1]"]
nexthop = "lmtp:unix:/run/lmtp.sock"
destination_concurrency_limit = 2
mail_timeout = "1s"
[[route]]
match = ["*"]
"""
    )
    first, second = config.route
    assert first.nexthop == "lmtp:unix:/run/lmtp.sock"
    assert first.delivery.default_destination_concurrency_limit == 2
    assert first.delivery.default_destination_recipient_limit == 7
    assert (first.smtp.mail_timeout, first.lmtp.mail_timeout) == (1.0, 1.0)
    assert first.smtp.connect_timeout == 10.0
    assert first.lmtp.port == 24
    assert second.nexthop == ""
    assert (second.smtp, second.lmtp, second.delivery) == (
        config.smtp,
        config.lmtp,
        config.delivery,
    )


def test_every_setting_has_a_meaning_and_a_default_that_reads_back(setting: Setting) -> None:
    text = ""
    section = ""
    for entry in catalogue().values():
        assert entry.key.meaning.endswith("."), entry.name
        assert entry.type_name, entry.name
        if entry.section != section:
            section = entry.section
            text += f"[{section}]\n"
        text += f"{entry.name.rpartition('.')[2]} = {entry.default_text}\n"
    config = setting.load(text)
    for entry in catalogue().values():
        if entry.section:
            assert value_of(config, entry) == entry.default, entry.name


def test_every_section_has_settings_and_every_setting_a_section() -> None:
    named = {entry.section for entry in catalogue().values()}
    assert named == {"", *SECTIONS}


def test_settings_are_found_by_the_names_people_know() -> None:
    assert [entry.name for entry in lookup("smtp.port")] == ["smtp.port"]
    assert [entry.name for entry in lookup("connect_timeout")] == [
        "smtp.connect_timeout",
        "lmtp.connect_timeout",
    ]
    assert [entry.name for entry in lookup("relayhost")] == ["relay.host"]
    assert [entry.name for entry in lookup("smtp_mail_timeout")] == ["smtp.mail_timeout"]
    assert [entry.name for entry in lookup("lmtp_mail_timeout")] == ["lmtp.mail_timeout"]
    assert [entry.name for entry in lookup("route.match")] == ["match"]
    assert lookup("route.nothing") == []
    assert lookup("") == []
    assert similar("smtp.conect_timeout")[0] == "smtp.connect_timeout"
    assert similar("minimal_backof_time")[0] == "queue.minimal_backoff_time"
    assert [entry.name for entry in lookup("destination_recipient_limit")] == [
        "delivery.default_destination_recipient_limit"
    ]
    assert postfix_name(lookup("hostname")[0]) == "myhostname"


def test_a_route_may_narrow_only_what_belongs_to_a_destination() -> None:
    names = set(route_catalogue())
    assert {"match", "nexthop", "port", "destination_concurrency_limit"} <= names
    assert not {"workers", "default_destination_concurrency_limit", "url"} & names


def warnings(loaded: Loaded) -> str:
    return "\n".join(map(str, advise(loaded)))


def test_odd_but_usable_configurations_get_a_warning(setting: Setting, tmp_path: Path) -> None:
    loaded = setting.loaded(
        f"""
[queue]
url = "sqlite:///{tmp_path}/missing/q.db"
delay_warning_time = "6d"
bounce_queue_lifetime = "7d"
[submit]
allow = ["*", "root", "nobody-by-that-name"]
admin_group = "no-such-group"
[[route]]
match = ["a.example", "B.example"]
[[route]]
match = ["b.example", "c.example"]
[[route]]
match = ["*"]
[[route]]
match = ["d.example"]
"""
    )
    setting.file.chmod(0o646)
    told = warnings(loaded)
    assert f"the directory {tmp_path}/missing does not exist" in told
    assert f"{setting.file}:4: queue.delay_warning_time: 6d is never reached" in told
    assert f"{setting.file}:5: queue.bounce_queue_lifetime: 7d is never reached" in told
    assert 'there is no user or group "nobody-by-that-name"' in told
    assert '"root"' not in told
    assert 'there is no group "no-such-group"' in told
    assert "[[route]] 2: route.match: an earlier route already takes b.example" in told
    assert "[[route]] 4: route.match: an earlier route already takes d.example" in told
    assert "everybody may write this file" in told


def test_a_name_of_no_domain_gets_a_warning_unless_it_was_chosen(setting: Setting) -> None:
    loaded = load_with_origins(setting_file(setting), environ={}, hostname=lambda: "vm.localdomain")
    assert 'this host calls itself "vm.localdomain"' in warnings(loaded)
    assert "calls itself" not in warnings(setting.loaded("hostname = 'vm.localdomain'"))


def setting_file(setting: Setting) -> Path:
    setting.file.write_text("", "utf-8")
    return setting.file


def test_without_a_file_the_check_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deliveryagent.config.location.DEFAULT_FILE", "/nonexistent/file")
    loaded = load_with_origins(environ={}, hostname=lambda: "a.example")
    assert "there is no configuration file" in warnings(loaded)


def test_a_queue_this_user_cannot_write_gets_a_warning(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: (path, mode) != ("/", os.W_OK))
    loaded = setting.loaded("[queue]\nurl = 'sqlite:////q.db'\n")
    assert "this user cannot write in /" in warnings(loaded)


def test_a_server_database_has_no_file_to_warn_about(setting: Setting) -> None:
    told = warnings(setting.loaded("[queue]\nurl = 'postgresql://agent@db/mail'\n"))
    assert "queue.url" not in told


@pytest.mark.parametrize(
    "code",
    [
        "from deliveryagent.config.location import locate; locate('/dev/null')",
        "from deliveryagent.config import load; load('/dev/null')",
    ],
)
def test_reading_the_configuration_costs_no_heavy_import(code: str) -> None:
    code = (
        f"import sys; {code}; "
        "heavy = {'sqlalchemy', 'dns', 'asyncio', 'aiosmtplib', 'ssl'} & set(sys.modules); "
        "sys.exit(str(heavy) if heavy else 0)"
    )
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environ, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_addresses_without_a_domain_get_the_origin(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deliveryagent.config.read.mail_name", lambda: "mail.example.com")
    named = 'hostname = "web.example.org"\n'
    assert setting.load(f'{named}origin = "example.org"').origin == "example.org"
    assert setting.load(named).origin == "web.example.org"
    assert setting.load("").origin == "mail.example.com"
    monkeypatch.setattr("deliveryagent.config.read.mail_name", lambda: "")
    assert setting.load("").origin == "host.example.org"


def test_the_name_of_the_hosts_mail_is_read(tmp_path: Path) -> None:
    file = tmp_path / "mailname"
    assert mail_name(str(file)) == ""
    for text, name in (
        ("example.org\n", "example.org"),
        ("", ""),
        ("no domain\n", ""),
        ("\xff", ""),
    ):
        file.write_text(text, encoding="latin-1")
        assert mail_name(str(file)) == name
