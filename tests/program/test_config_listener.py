"""``[[listener]]`` in the configuration: what is read, what is refused, and where."""

import json
import os
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from deliveryagent.cli import run
from deliveryagent.config import Config, ConfigError, load
from deliveryagent.config.advice import advise
from deliveryagent.config.explain import listener_catalogue, lookup, similar
from deliveryagent.config.listener_files import file_problems, require_files
from deliveryagent.config.parts import listener_terms
from deliveryagent.config.read import Loaded, load_with_origins
from deliveryagent.config.secrets import read_secret
from deliveryagent.intake.listener_settings import ListenerSettings
from deliveryagent.intake.listener_terms import ListenerTerms
from deliveryagent.intake.places import (
    InheritedPlace,
    Place,
    TcpPlace,
    UnixPlace,
    conflict,
    parse_place,
)
from deliveryagent.setting import parse_duration

Captured = pytest.CaptureFixture[str]
OPEN = 'trusted_networks = ["127.0.0.0/8"]\n'
UNPRIVILEGED = pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "agent.toml"


@pytest.fixture
def read(file: Path) -> Callable[[str], Loaded]:
    def loaded(text: str) -> Loaded:
        file.write_text(text, "utf-8")
        return load_with_origins(file, environ={}, hostname=lambda: "host.example.org")

    return loaded


@pytest.fixture
def problems(read: Callable[[str], Loaded], file: Path) -> Callable[[str], list[str]]:
    def told(text: str) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            read(text)
        return [str(problem).removeprefix(f"{file}:") for problem in caught.value.problems]

    return told


# -- what is read ---


def test_every_listener_has_its_settings_and_all_other_defaults(
    read: Callable[[str], Loaded],
) -> None:
    config = read(
        f"""
[[listener]]
kind = "smtp"
address = "*:2525"
timeout = "2m"
{OPEN}
[[listener]]
address = "unix:/run/mail/submit.sock"
"""
    ).config
    first, second = config.listener
    assert first == ListenerSettings(
        kind="smtp",
        address="*:2525",
        timeout=parse_duration("2m"),
        trusted_networks=("127.0.0.0/8",),
    )
    assert second == ListenerSettings(address="unix:/run/mail/submit.sock")


def test_without_listeners_there_are_none(read: Callable[[str], Loaded]) -> None:
    assert read("").config.listener == ()


@pytest.mark.parametrize(
    ("written", "means"),
    [('""', ()), ('"/a.pem"', ("/a.pem",)), ('["/a.pem", "/b.pem"]', ("/a.pem", "/b.pem"))],
)
def test_one_certificate_needs_no_brackets(
    read: Callable[[str], Loaded], written: str, means: tuple[str, ...]
) -> None:
    text = f'[[listener]]\naddress = "*:587"\n{OPEN}tls_certificate = {written}\n'
    assert read(text).config.listener[0].tls_certificate == means


def test_each_value_knows_its_place(read: Callable[[str], Loaded], file: Path) -> None:
    loaded = read(f'[[listener]]\naddress = "*:25"\n{OPEN}')
    assert loaded.origins["listener.0.address"] == f"{file}:2"
    assert loaded.origins["listener.0."] == f"{file}:1"


def test_a_process_is_told_what_it_needs_and_nothing_of_the_store(
    read: Callable[[str], Loaded],
) -> None:
    config = read(
        f'[queue]\nurl = "postgresql://kim:secret@db/mail"\nrecipient_limit = 7\n[[listener]]\n'
        f'address = "*:25"\n{OPEN}'
    ).config
    octets = listener_terms(config, config.listener[0], "open sesame").encode()
    assert b"secret" not in octets
    terms = ListenerTerms.decode(octets)
    assert terms.hostname == "host.example.org"
    assert terms.limits.recipient_limit == 7
    assert terms.listener == config.listener[0]
    assert terms.passphrase == "open sesame"


# -- what is refused ---


def test_every_problem_of_every_listener_is_told_with_its_line(
    problems: Callable[[str], list[str]],
) -> None:
    assert problems(
        """\
[[listener]]
kind = "submision"
adress = "*:587"

[[listener]]
address = "localhost:25"
trusted_networks = ["10.1.2.3/8", "everybody"]
tls_key_passphrase = "open sesame"
hooks = ["no object"]
socket_mode = "rw"
priority_limit = 10
timeout = 0
"""
    ) == [
        '2: listener.kind: expected one of "submission", "smtp", "lmtp", not "submision"',
        '3: listener.adress: unknown setting (did you mean "address"?)',
        (
            "1: listener.address: is missing: where does this listener stand? "
            '(such as "*:587", "127.0.0.1:25" or "unix:/run/deliveryagent/lmtp.sock")'
        ),
        '6: listener.address: "localhost" is not an IP address, nor "*" for all of them',
        '7: listener.trusted_networks: "10.1.2.3/8" is an address inside a network: write "10.0.0.0/8"',
        (
            '8: listener.tls_key_passphrase: expected "credential:NAME" or "file:/PATH", never the secret '
            "itself"
        ),
        '9: listener.hooks: "no object" is not a Python object; write it like "package.module:object"',
        '10: listener.socket_mode: "rw" is not a mode; write it like "0660"',
        "11: listener.priority_limit: a priority is a number from 0 to 9",
        "12: listener.timeout: must be more than 0",
    ]


@pytest.mark.parametrize(
    ("lines", "key", "words"),
    [
        ('address = "*:25"\nkind = "lmtp"\n' + OPEN, "address", "LMTP is not spoken on port 25"),
        ('address = "*:587"', "address", "nobody could send anything here"),
        (f'address = "*:465"\n{OPEN}tls_only = true', "tls_only", "needs a tls_certificate"),
        (f'address = "*:587"\n{OPEN}require_tls = true', "require_tls", "needs a tls_certificate"),
        (
            f'address = "*:587"\n{OPEN}tls_certificate = "/c"\ntls_key = ["/a", "/b"]',
            "tls_key",
            "2 keys for 1 certificates",
        ),
        (f'address = "*:587"\n{OPEN}tls_key = "/a"', "tls_key", "needs a tls_certificate"),
        (
            'address = "*:587"\nusers = "/u"\nauth_mechanisms = ["PLAIN", "SCRAM-SHA-256"]',
            "auth_mechanisms",
            "PLAIN would never be offered",
        ),
        (
            f'address = "*:587"\n{OPEN}auth_mechanisms = ["SCRAM-SHA-256"]',
            "auth_mechanisms",
            "nobody can log in",
        ),
        (
            'address = "*:587"\nusers = "/u"\nauth_mechanisms = ["XOAUTH2"]',
            "auth_mechanisms",
            "XOAUTH2 needs a hook",
        ),
        (f'address = "*:25"\n{OPEN}require_auth = true', "require_auth", "nobody can log in"),
        (
            f'address = "*:25"\n{OPEN}socket_mode = "0600"',
            "socket_mode",
            'is for an address "unix:/path" only',
        ),
        (
            'address = "unix:/run/deliveryagent/deliveryagent.sock"',
            "address",
            "this is the service's own socket",
        ),
    ],
)
def test_what_does_not_fit_is_refused(
    problems: Callable[[str], list[str]], lines: str, key: str, words: str
) -> None:
    (problem,) = problems(f"[[listener]]\n{lines}\n")
    line, where, text = problem.split(": ", 2)
    assert where == f"listener.{key}"
    assert words in text
    assert int(line) > 1


@pytest.mark.parametrize(
    ("one", "other", "overlap"),
    [
        ("*:25", "127.0.0.1:25", True),
        ("*:25", "[::1]:25", True),
        ("0.0.0.0:25", "127.0.0.1:25", True),
        ("[::]:25", "127.0.0.1:25", False),
        ("*:25", "*:587", False),
        ("127.0.0.1:25", "127.0.0.2:25", False),
        ("unix:/a/b", "unix:/a/../a/b", True),
        ("systemd:a", "systemd:a", True),
        ("systemd:a", "systemd:b", False),
    ],
)
def test_two_listeners_cannot_stand_at_one_place(
    read: Callable[[str], Loaded],
    problems: Callable[[str], list[str]],
    one: str,
    other: str,
    overlap: bool,
) -> None:
    for first, second in ((one, other), (other, one)):
        assert conflict(parse_place(first), parse_place(second)) is overlap
    text = "".join(f'[[listener]]\naddress = "{place}"\n{OPEN}' for place in (one, other))
    if overlap:
        assert problems(text) == [
            f'5: listener.address: an earlier listener stands there already, at "{one}"'
        ]
    else:
        assert len(read(text).config.listener) == 2


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("127.0.0.1:25", TcpPlace("127.0.0.1", 25)),
        ("[2001:DB8::1]:587", TcpPlace("2001:db8::1", 587)),
        ("*:465", TcpPlace("*", 465)),
        ("unix:/run//x.sock", UnixPlace("/run/x.sock")),
        ("systemd:submission", InheritedPlace("submission")),
    ],
)
def test_addresses(text: str, place: Place) -> None:
    assert parse_place(text) == place


@pytest.mark.parametrize(
    "text",
    [
        "587",
        ":587",
        "*:0",
        "*:65536",
        "*:smtp",
        "::1:25",
        "[127.0.0.1]:25",
        "unix:x.sock",
        "unix:/" + "x" * 110,
        "systemd:",
        "systemd:a:b",
        "*:٢٥",
    ],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError):
        parse_place(text)


def test_listeners_stand_in_the_file_only(problems: Callable[[str], list[str]], file: Path) -> None:
    assert problems("[listener]\nkind = 'smtp'\n") == [
        (
            "2: listener.kind: listeners stand in the file, each under a heading [[listener]] of its own"
        )
    ]


# -- files ---


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def pair(authority: trustme.CA, tmp_path: Path) -> tuple[Path, Path]:
    """A certificate and its key."""
    issued = authority.issue_cert("mail.example.org")
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    issued.cert_chain_pems[0].write_to_path(certificate)
    issued.private_key_pem.write_to_path(key)
    return certificate, key


def checked(read: Callable[[str], Loaded], lines: str) -> tuple[list[str], list[str]]:
    wrong, unseen = file_problems(read(f'[[listener]]\naddress = "*:587"\n{OPEN}{lines}\n'))
    return [f"{p.key}: {p.text}" for p in wrong], [f"{p.key}: {p.text}" for p in unseen]


def test_a_certificate_and_its_key_are_tried_out(
    read: Callable[[str], Loaded], pair: tuple[Path, Path], authority: trustme.CA, tmp_path: Path
) -> None:
    certificate, key = pair
    good = f'tls_certificate = "{certificate}"\ntls_key = "{key}"'
    assert checked(read, good) == ([], [])
    other = tmp_path / "other.pem"
    authority.issue_cert("other.example").private_key_pem.write_to_path(other)
    assert checked(read, f'tls_certificate = "{certificate}"\ntls_key = "{other}"')[0] == [
        f"listener.tls_certificate: {certificate} and the key in {other} do not belong together"
    ]
    assert checked(read, f'tls_certificate = "{certificate}"')[0] == [
        f"listener.tls_key: {certificate} holds no private key in PEM"
    ]
    assert checked(read, f'tls_certificate = "{key}"\ntls_key = "{key}"')[0] == [
        f"listener.tls_certificate: {key} holds no certificate in PEM"
    ]
    assert checked(read, f'{good}\ntls_ciphers = "ROT13"')[0] == [
        'listener.tls_ciphers: OpenSSL knows no cipher in "ROT13"'
    ]


def test_a_locked_key_is_opened_by_its_passphrase(
    read: Callable[[str], Loaded], pair: tuple[Path, Path], tmp_path: Path
) -> None:
    certificate, key = pair
    opened = load_pem_private_key(key.read_bytes(), None)
    locked, words = tmp_path / "locked.pem", tmp_path / "words"
    locked.write_bytes(
        opened.private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"open sesame")
        )
    )
    words.write_text("open sesame\n")
    words.chmod(0o600)
    lines = f'tls_certificate = "{certificate}"\ntls_key = "{locked}"\n'
    named = f'{lines}tls_key_passphrase = "file:{words}"'
    assert checked(read, named) == ([], [])
    assert checked(read, lines)[0] == [
        f"listener.tls_key: {locked} is locked: set tls_key_passphrase"
    ]
    words.write_text("open barley\n")
    (wrong,) = checked(read, named)[0]
    assert wrong == f"listener.tls_key_passphrase: it does not open {locked}"
    words.chmod(0o644)
    (wrong,) = checked(read, named)[0]
    assert "nobody else may read it" in wrong
    assert "barley" not in wrong


def test_what_is_missing_is_told_at_once(read: Callable[[str], Loaded], tmp_path: Path) -> None:
    wrong, _ = checked(
        read,
        f'tls_certificate = "{tmp_path}/c"\ntls_key = "{tmp_path}/k"\nusers = "{tmp_path}/u"',
    )
    assert wrong == [
        f"listener.users: cannot read {tmp_path}/u: No such file or directory",
        f"listener.tls_certificate: cannot read {tmp_path}/c: No such file or directory",
        f"listener.tls_key: cannot read {tmp_path}/k: No such file or directory",
    ]
    text = f'[[listener]]\naddress = "unix:{tmp_path}/no/x.sock"\nsocket_group = "nobody-at-all"\n'
    assert [problem.key for problem in file_problems(read(text))[0]] == [
        "listener.address",
        "listener.socket_group",
    ]


def test_a_credential_is_for_the_service_alone(
    read: Callable[[str], Loaded], pair: tuple[Path, Path]
) -> None:
    certificate, key = pair
    lines = (
        f'tls_certificate = "{certificate}"\ntls_key = "{key}"\ntls_key_passphrase = "credential:k"'
    )
    wrong, unseen = checked(read, lines)
    assert not wrong
    assert unseen == [
        'listener.tls_key_passphrase: "credential:k": only the service is given its credentials'
    ]
    with pytest.raises(ConfigError):
        require_files(read(f'[[listener]]\naddress = "*:587"\n{OPEN}{lines}\n'))


@UNPRIVILEGED
def test_what_this_user_may_not_read_is_no_error_of_the_file(
    read: Callable[[str], Loaded], pair: tuple[Path, Path]
) -> None:
    certificate, key = pair
    key.chmod(0)
    wrong, unseen = checked(read, f'tls_certificate = "{certificate}"\ntls_key = "{key}"')
    assert not wrong
    assert unseen == [f"listener.tls_key: this user cannot read {key}"]


# -- secrets ---


def test_a_secret_is_read_from_a_credential_or_a_private_file(tmp_path: Path) -> None:
    secret = tmp_path / "name"
    secret.write_bytes(b" words with spaces \r\n")
    secret.chmod(0o400)
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert read_secret("credential:name", environ) == " words with spaces "
    assert read_secret(f"file:{secret}", {}) == " words with spaces "


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o620, 0o602])
def test_a_secret_that_others_can_read_or_write_is_refused(tmp_path: Path, mode: int) -> None:
    secret = tmp_path / "name"
    secret.write_text("words")
    secret.chmod(mode)
    with pytest.raises(ValueError, match="nobody else may read it") as caught:
        read_secret(f"file:{secret}", {})
    assert "words" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["words", "credential:", "credential:../x", "credential:..", "file:relative", "file:"]
)
def test_what_names_no_secret_is_not_repeated(text: str) -> None:
    with pytest.raises(ValueError, match="never the secret itself"):
        read_secret(text, {"CREDENTIALS_DIRECTORY": "/nonexistent"})


def test_a_secret_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="LoadCredential="):
        read_secret("credential:name", {})
    with pytest.raises(ValueError, match="No such file"):
        read_secret("credential:name", {"CREDENTIALS_DIRECTORY": str(tmp_path)})
    (tmp_path / "long").write_bytes(b"x" * 70_000)
    (tmp_path / "octets").write_bytes(b"\xff")
    for name, words in (("long", "too long"), ("octets", "not UTF-8")):
        (tmp_path / name).chmod(0o600)
        with pytest.raises(ValueError, match=words):
            read_secret(f"file:{tmp_path}/{name}", {})


# -- commands ---


def test_the_check_names_files_with_their_lines(file: Path, capsys: Captured) -> None:
    file.write_text(f'[[listener]]\naddress = "*:587"\n{OPEN}tls_certificate = "/no/cert.pem"\n')
    assert run(["-c", str(file), "config", "check"]) == 1
    err = capsys.readouterr().err
    assert f"error: {file}:4: listener.tls_certificate: cannot read /no/cert.pem" in err
    assert "1 error: this configuration cannot be used" in err
    assert run(["-c", str(file), "--json", "config", "check"]) == 1
    assert json.loads(capsys.readouterr().out)["ok"] is False


def test_what_is_shown_is_a_configuration_again(file: Path, capsys: Captured) -> None:
    file.write_text(
        f'[[listener]]\naddress = "*:25"\n{OPEN}tls_certificate = "/c"\n'
        'tls_key_passphrase = "credential:key"\n[[listener]]\nkind = "lmtp"\naddress = "unix:/x"\n'
    )
    assert run(["-c", str(file), "config", "show"]) == 0
    shown = capsys.readouterr().out
    assert len(tomllib.loads(shown)["listener"]) == 2
    again = file.with_name("again.toml")
    again.write_text(shown)
    assert load(again).listener == load(file).listener

    assert run(["-c", str(file), "config", "show", "--changed", "--origin"]) == 0
    shown = capsys.readouterr().out
    assert f'address = "*:25"  # {file}:2\n' in shown
    assert "banner" not in shown

    assert run(["-c", str(file), "--json", "config", "show"]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    (first, second) = [record for record in records if record["key"] == "listener"]
    assert first["trusted_networks"] == ["127.0.0.0/8"]
    assert second["kind"] == "lmtp"


def test_settings_of_listeners_are_explained(capsys: Captured) -> None:
    assert run(["config", "explain", "listener.tls_only"]) == 0
    assert "smtpd_tls_wrappermode" in capsys.readouterr().out
    assert [entry.name for entry in lookup("mynetworks")] == ["listener.trusted_networks"]
    assert {entry.name for entry in lookup("recipient_limit")} == {
        "queue.recipient_limit",
        "listener.recipient_limit",
    }
    assert "listener.tls_certificate" in similar("tls_certificat")
    assert not lookup("listener.nothing")


def test_every_setting_of_a_listener_says_what_it_is() -> None:
    for name, entry in listener_catalogue().items():
        assert entry.key.meaning.endswith("."), name
        assert entry.default_text


def warnings(loaded: Loaded) -> list[str]:
    return [problem.text for problem in advise(loaded) if problem.key.startswith("listener.")]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ('address = "*:25"\ntrusted_networks = ["::/0"]', "this is an open relay"),
        ('address = "*:587"\nusers = "/u"', "PLAIN and LOGIN are not offered"),
        ('address = "*:587"\nusers = "/u"\nauth_without_tls = true', "can be read on the way"),
        ('address = "systemd:x"', "unless this is a Unix socket"),
    ],
)
def test_what_is_allowed_but_worth_a_word(
    read: Callable[[str], Loaded], lines: str, words: str
) -> None:
    (warning,) = warnings(read(f"[[listener]]\n{lines}\n"))
    assert words in warning


def test_an_usual_listener_is_worth_none(read: Callable[[str], Loaded]) -> None:
    text = '[[listener]]\naddress = "127.0.0.1:25"\nusers = "/u"\nauth_without_tls = true\n'
    assert not warnings(read(text))
    assert isinstance(read(text).config, Config)
