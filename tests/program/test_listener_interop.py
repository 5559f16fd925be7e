"""Programs that others wrote hand over mail: logins, TLS, envelopes and contents as a receiver gets them."""

import asyncio
import contextlib
import os
import re
import shutil
import smtplib
import socket
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import EmailMessage
from email.policy import SMTP as SMTP_POLICY
from pathlib import Path

import aiosmtplib
import pytest

from tests.doubles.mail_sink import MailSink, Received
from tests.program.doors import PASSWORD, Doors, add_user, trusting
from tests.program.whole_agent import Background, WholeAgent, eventually

PATIENCE = 30
SENDER = "kim@example.org"
QUEUED = re.compile(r"Ok: queued as ([0-9A-Z]+)")
BODY = "Good morning\r\n.\r\n..two dots\r\n.one\r\n\r\nBye\r\n"
LETTER = f"From: {SENDER}\r\nTo: you@example.net\r\nSubject: hello\r\n\r\n{BODY}"


@dataclass
class Place:
    """A running agent and the host its mail goes to."""

    doors: Doors
    agent: WholeAgent
    sink: MailSink

    def port(self, name: str) -> int:
        return self.doors.ports[name]

    def arrived(self, address: str, count: int = 1) -> Received:
        """Wait for messages to an address; the last one."""
        eventually(lambda: len(self.sink.to(address)) >= count, limit=PATIENCE)
        assert len(self.sink.to(address)) == count
        return self.sink.to(address)[-1]

    def how(self, address: str) -> str:
        """The protocol by which a message came in, by its Received field."""
        found = re.search(r" with (\S+)", self.arrived(address).header("Received"))
        assert found is not None
        return found[1]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with Background(MailSink) as sink:
        doors = Doors(tmp_path_factory.mktemp("interop"), sink.port)
        users, tls = f'users = "{doors.users}"', doors.certify()
        every = 'auth_mechanisms = ["PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-256"]'
        checks = "check_sender_domain = false\nauth_error_sleep = 0.01"
        doors.add("submission", "submission", users, tls, every, checks, "require_tls = true")
        doors.add("submissions", "submission", users, tls, every, checks, "tls_only = true")
        doors.add("clear", "submission", users, every, checks, "auth_without_tls = true")
        doors.add("stranger", "smtp", users, tls, checks, "refuse_bare_helo = false")
        doors.add_trusted("relay", tls)
        proxies = 'proxy_networks = ["127.0.0.0/8"]', 'trusted_networks = ["192.0.2.0/24"]'
        doors.add("proxied", "smtp", *proxies, checks)
        doors.add("proxied-tls", "smtp", *proxies, checks, tls, "tls_only = true")
        doors.add_trusted("few", "recipient_limit = 5")
        doors.add_trusted("xclient", 'xclient_networks = ["127.0.0.0/8"]')
        with doors.agent() as agent:
            add_user(agent, "kim", "--cram-md5", "--sender", SENDER)
            with agent.serving():
                yield Place(doors, agent, sink)


def needs(*programs: str) -> pytest.MarkDecorator:
    missing = [name for name in programs if shutil.which(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


def run(*words: str, text: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words,
        input=text,
        capture_output=True,
        text=True,
        timeout=PATIENCE * 2,
        check=False,
        env={**os.environ, **environment},
    )


# -- Python's smtplib ---


@contextlib.contextmanager
def smtp(place: Place, name: str) -> Iterator[smtplib.SMTP]:
    """A session with TLS where there is any."""
    port = place.port(name)
    if name == "submissions":
        opened: smtplib.SMTP = smtplib.SMTP_SSL(
            "127.0.0.1", port, timeout=PATIENCE, context=_named()
        )
    else:
        opened = smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE)
    with opened as client:
        if name == "submission":
            client._host = "mx.lab.test"  # type: ignore[attr-defined] # the name the certificate is for
            client.starttls(context=trusting())
        yield client


def _named() -> ssl.SSLContext:
    context = trusting()
    context.check_hostname = False  # the address is none of the certificate's names
    return context


@pytest.mark.parametrize("mechanism", ["plain", "login", "cram_md5"])
@pytest.mark.parametrize("name", ["submission", "submissions", "clear"])
def test_smtplib_logs_in_by_each_mechanism(place: Place, name: str, mechanism: str) -> None:
    to = f"{mechanism}-{name}@example.net"
    with smtp(place, name) as client:
        client.ehlo()
        client.user, client.password = "kim", PASSWORD
        code, _ = client.auth(
            mechanism.upper().replace("_", "-"), getattr(client, f"auth_{mechanism}")
        )
        assert code == 235
        assert client.sendmail(SENDER, [to], LETTER) == {}
    message = place.arrived(to)
    assert message.mail.startswith(f"MAIL FROM:<{SENDER}>")
    assert message.body.decode() == BODY
    assert place.how(to) == ("ESMTPA" if name == "clear" else "ESMTPSA")
    assert message.header("Date")
    assert message.header("Message-ID")


def test_a_wrong_password_is_535_and_no_relay_before_login(place: Place) -> None:
    with smtp(place, "submission") as client:
        client.ehlo()
        client.user, client.password = "kim", "wrong"
        with pytest.raises(smtplib.SMTPAuthenticationError) as caught:
            client.auth("PLAIN", client.auth_plain)
        assert caught.value.smtp_code == 535
        with pytest.raises(smtplib.SMTPSenderRefused) as refused:
            client.sendmail(SENDER, ["you@example.net"], LETTER)
        assert refused.value.smtp_code == 530
        client.login("kim", PASSWORD)
        with pytest.raises(smtplib.SMTPSenderRefused) as forged:
            client.sendmail("boss@example.org", ["you@example.net"], LETTER)
        assert (forged.value.smtp_code, forged.value.smtp_error[:5]) == (553, b"5.7.1")


def test_strangers_relay_nothing(place: Place) -> None:
    with smtp(place, "stranger") as client, pytest.raises(smtplib.SMTPRecipientsRefused) as caught:
        client.sendmail(SENDER, ["you@example.net"], LETTER)
    code, text = caught.value.recipients["you@example.net"]
    assert (code, text[:5]) == (550, b"5.7.1")


def test_nothing_goes_on_without_tls_where_it_is_required(place: Place) -> None:
    with smtplib.SMTP("127.0.0.1", place.port("submission"), timeout=PATIENCE) as client:
        assert client.ehlo("[127.0.0.1]")[0] == 250
        assert not client.has_extn("auth")
        code, text = client.mail(SENDER)
        assert (code, text[:5]) == (530, b"5.7.0")


def test_dsn_wishes_reach_the_next_host(place: Place) -> None:
    wishes = ["NOTIFY=SUCCESS,DELAY", "ORCPT=rfc822;first+2Bdsn@example.net"]
    with smtp(place, "relay") as client:
        client.ehlo()
        assert client.has_extn("dsn")
        refused = client.sendmail(
            SENDER, ["dsn@example.net"], LETTER, ["RET=HDRS", "ENVID=e+2B1"], wishes
        )
    assert refused == {}
    message = place.arrived("dsn@example.net")
    assert "RET=HDRS" in message.mail.split()
    assert "ENVID=e+2B1" in message.mail.split()
    words = message.rcpt[0].split()
    assert "NOTIFY=SUCCESS,DELAY" in words
    assert "ORCPT=rfc822;first+2Bdsn@example.net" in words


def test_international_addresses_and_headers_pass(place: Place) -> None:
    letter = EmailMessage(policy=SMTP_POLICY.clone(utf8=True))
    letter["From"], letter["To"] = "jörg@example.org", "грета@example.net"
    letter["Subject"] = "Grüße"
    letter.set_content("schöne Grüße\n", cte="8bit")
    with smtp(place, "relay") as client:
        assert client.send_message(letter) == {}
    message = place.arrived("грета@example.net")
    assert {"SMTPUTF8", "BODY=8BITMIME"} <= set(message.mail.split())
    assert "schöne Grüße" in message.body.decode()
    assert place.how("грета@example.net") == "UTF8SMTP"


def test_a_faulty_letter_is_refused_with_its_own_code(place: Place) -> None:
    with smtp(place, "relay") as client:
        client.ehlo()
        assert client.mail("no at sign", ())[0] == 501
        assert client.mail(SENDER, ["SIZE=999999999999"])[0] == 552
        assert client.docmd("MAIL", f"FROM:<{SENDER}> FOO=bar")[0] == 555
        assert client.mail(SENDER)[0] == 250
        assert client.rcpt("a@[300.1.1.1]")[0] in {501, 553}
        assert client.docmd("TURN")[0] == 500
        assert client.vrfy("kim@example.org")[0] == 252
        assert client.docmd("BDAT", "7 x")[0] == 501


def test_more_recipients_than_are_taken_at_a_time_are_no_error(place: Place) -> None:
    to = [f"few{number}@example.net" for number in range(40)]
    with smtp(place, "few") as client:
        refused = client.sendmail(SENDER, to, LETTER)
        assert {code for code, _ in refused.values()} == {452}
        assert list(refused) == to[5:]
        assert len(client.sendmail(SENDER, to[5:], LETTER)) == 30
    assert len(place.arrived("few4@example.net").rcpt) == 5


# -- aiosmtplib ---


def test_aiosmtplib_logs_in_under_starttls_and_tls(place: Place) -> None:
    async def send(port: int, to: str, *, tls: bool) -> None:
        client = aiosmtplib.SMTP(
            hostname="127.0.0.1",
            port=port,
            use_tls=tls,
            start_tls=not tls,
            tls_context=_named(),
            username="kim",
            password=PASSWORD,
        )
        async with client:
            assert client.supports_extension("chunking")
            errors, text = await client.sendmail(SENDER, [to], LETTER)
            assert errors == {}
            assert QUEUED.search(text)

    for name in ("submission", "submissions"):
        to = f"aio-{name}@example.net"
        asyncio.run(send(place.port(name), to, tls=name == "submissions"))
        assert place.how(to) == "ESMTPSA"
        assert place.arrived(to).body.decode() == BODY


# -- programs ---


@needs("swaks")
@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "CRAM-MD5"])
def test_swaks_sends_by_starttls_and_login(place: Place, mechanism: str) -> None:
    to = f"swaks-{mechanism.lower()}@example.net"
    server = ["--server", "127.0.0.1", "--port", str(place.port("submission"))]
    words = [*server, "--tls", "--auth", mechanism, "--auth-user", "kim"]
    done = run("swaks", *words, "--auth-password", PASSWORD, "--from", SENDER, "--to", to)
    if "not available" in done.stderr + done.stdout and "250" not in done.stdout:
        pytest.skip("swaks lacks a Perl module here")
    assert done.returncode == 0, done.stdout
    found = QUEUED.search(done.stdout)
    assert found is not None
    assert found[1] in place.arrived(to).header("Received")
    assert place.how(to) == "ESMTPSA"


@needs("swaks")
def test_swaks_pipelines_and_tells_refused_recipients(place: Place) -> None:
    server = ["--server", "127.0.0.1", "--port", str(place.port("relay")), "--pipeline"]
    to = "swaks-a@example.net,bad@[1.2.3,swaks-b@example.net"
    done = run("swaks", *server, "--from", SENDER, "--to", to)
    assert done.returncode == 0, done.stdout
    assert re.search(r"<\*\* 501 5\.1\.3", done.stdout)
    assert len(place.arrived("swaks-a@example.net").rcpt) == 2
    stranger = ["--server", "127.0.0.1", "--port", str(place.port("stranger"))]
    done = run("swaks", *stranger, "--from", SENDER, "--to", "x@example.net")
    assert done.returncode == 24
    assert "550 5.7.1" in done.stdout


@needs("swaks")
@pytest.mark.parametrize("option", ["--xclient-addr", "--proxy"])
def test_what_only_proxies_may_say_is_not_believed_from_anyone(place: Place, option: str) -> None:
    words = ["--server", "127.0.0.1", "--port", str(place.port("relay")), "--from", SENDER]
    if option == "--proxy":
        proxy = ["--proxy-version", "1", "--proxy", "TCP4 192.0.2.7 192.0.2.8 1234 25"]
    else:
        proxy = ["--xclient-addr", "192.0.2.7"]
    done = run("swaks", *words, *proxy, "--to", "proxied@example.net")
    assert done.returncode != 0
    assert not place.sink.to("proxied@example.net")


@pytest.mark.parametrize("name", ["proxied", "proxied-tls"])
@pytest.mark.parametrize(("client", "code"), [("192.0.2.7", 250), ("198.51.100.7", 550)])
def test_what_a_proxy_says_counts(place: Place, name: str, client: str, code: int) -> None:
    to = f"{name}-{code}@example.net"
    with socket.create_connection(("127.0.0.1", place.port(name)), PATIENCE) as plain:
        plain.sendall(f"PROXY TCP4 {client} 192.0.2.8 1234 25\r\n".encode())
        line = _named().wrap_socket(plain) if name == "proxied-tls" else plain
        with line, line.makefile("rb") as replies:
            line.sendall(b"HELO mx.far-away.net\r\n")
            line.sendall(f"MAIL FROM:<{SENDER}>\r\nRCPT TO:<{to}>\r\n".encode())
            if code == 250:
                line.sendall(b"DATA\r\nSubject: hello\r\n\r\nhello\r\n.\r\n")
            line.sendall(b"QUIT\r\n")
            codes = [int(reply[:3]) for reply in replies.read().splitlines()]
    assert codes[:4] == [220, 250, 250, code]
    if code == 250:
        assert f"[{client}]" in place.arrived(to).header("Received")


@needs("swaks")
def test_swaks_speaks_for_others_where_it_may(place: Place) -> None:
    words = ["--server", "127.0.0.1", "--port", str(place.port("xclient")), "--from", SENDER]
    words += ["--to", "x@example.net", "--helo", "mx.far-away.net", "--xclient-addr", "192.0.2.7"]
    done = run("swaks", *words)
    assert done.returncode == 24  # whom it speaks for may not relay
    assert "550 5.7.1" in done.stdout


@needs("msmtp")
@pytest.mark.parametrize(
    ("name", "auth", "how"),
    [
        ("submission", "scram-sha-256", "ESMTPSA"),
        ("submission", "cram-md5", "ESMTPSA"),
        ("submissions", "plain", "ESMTPSA"),
        ("clear", "login", "ESMTPA"),
        ("relay", "", "ESMTPS"),
    ],
)
def test_msmtp_sends(place: Place, name: str, auth: str, how: str) -> None:
    to = f"msmtp-{name}-{auth}@example.net"
    words = ["--host=127.0.0.1", f"--port={place.port(name)}", f"--from={SENDER}"]
    words += ["--dsn-notify=success,failure", "--dsn-return=headers"]
    if name != "clear":
        words += ["--tls=on", "--tls-certcheck=off"]
        words.append(f"--tls-starttls={'off' if name == 'submissions' else 'on'}")
    if auth:
        words += [f"--auth={auth}", "--user=kim", f"--passwordeval=echo {PASSWORD}"]
    done = run("msmtp", "--file=/dev/null", *words, "--", to, text=LETTER.replace("\r\n", "\n"))
    if "not supported" in done.stderr and "support" in done.stderr and auth.startswith("scram"):
        pytest.skip("this msmtp was built without the mechanism")
    assert done.returncode == 0, done.stderr
    message = place.arrived(to)
    assert message.body.decode() == BODY
    assert "NOTIFY=SUCCESS,FAILURE" in message.rcpt[0].split()
    assert "RET=HDRS" in message.mail.split()
    assert place.how(to) == how


@needs("msmtp")
def test_msmtp_tells_why_it_is_refused(place: Place) -> None:
    words = ["--host=127.0.0.1", f"--port={place.port('clear')}", f"--from={SENDER}"]
    words += ["--auth=plain", "--user=kim", "--passwordeval=echo wrong"]
    done = run("msmtp", "--file=/dev/null", *words, "--", "x@example.net", text=LETTER)
    assert done.returncode == 77  # EX_NOPERM
    assert "535 5.7.8" in done.stderr


@needs("s-nail")
def test_s_nail_sends_over_tls(place: Place) -> None:
    to = "nail@example.net"
    port, password = place.port("submissions"), PASSWORD.replace(" ", "%20")
    settings = [
        *("v15-compat", f"mta=smtps://kim:{password}@127.0.0.1:{port}", "smtp-auth=plain"),
        *(f"from={SENDER}", "tls-verify=ignore", "sendwait"),
    ]
    words = [word for one in settings for word in ("-S", one)]
    done = run(
        "s-nail", "-:/", *words, "-s", "grüße", to, text="Good morning\n.\n", LC_ALL="C.UTF-8"
    )
    assert done.returncode == 0, done.stderr
    assert place.arrived(to).body.startswith(b"Good morning\r\n")
    assert place.how(to) == "ESMTPSA"


@needs("smtp-source")
@pytest.mark.parametrize(
    "options", [["-s", "20"], ["-s", "1", "-d"], ["-s", "5", "-d", "-r", "3"]], ids=" ".join
)
def test_smtp_source_hands_over_hundreds(place: Place, options: list[str]) -> None:
    to = f"source{''.join(options)}@example.net"
    words = [*options, "-m", "200", "-l", "2000", "-f", SENDER, "-t", to]
    done = run("smtp-source", *words, f"127.0.0.1:{place.port('relay')}")
    assert done.returncode == 0, done.stderr
    eventually(lambda: len(place.sink.to(("3" if "-r" in options else "") + to)) >= 200)
    assert all(" with SMTP " in one.header("Received") for one in place.sink.to(to))


_NODEMAILER = """
const [port, secure, to] = process.argv.slice(2);
const transport = require("nodemailer").createTransport({
  host: "127.0.0.1", port: Number(port), secure: secure === "yes", requireTLS: secure !== "yes",
  pool: true, tls: {rejectUnauthorized: false},
  auth: {user: "kim", pass: process.env.PASSWORD},
});
const letter = {
  from: "kim@example.org", to, subject: "grüße", text: "Guten Morgen\\n.\\nGrüße\\n",
  attachments: [{filename: "a.bin", content: Buffer.alloc(100000, 7)}],
  dsn: {id: "n+1", return: "headers", notify: ["failure", "delay"], recipient: "kim@example.org"},
};
transport.sendMail(letter).then(
  (info) => { console.log(info.response); transport.close(); },
  (error) => { console.error(error); process.exit(1); });
"""


def _node_finds_nodemailer() -> bool:
    if shutil.which("node") is None:
        return False
    return run("node", "-e", 'require("nodemailer")', NODE_PATH=_NODE_PATH).returncode == 0


_NODE_PATH = os.environ.get("NODE_PATH", "/usr/share/nodejs")


@pytest.mark.parametrize("secure", ["yes", "no"])
def test_nodemailer_sends(place: Place, tmp_path: Path, secure: str) -> None:
    if not _node_finds_nodemailer():
        pytest.skip("nodemailer is not installed")
    script, to = tmp_path / "send.js", f"node-{secure}@example.net"
    script.write_text(_NODEMAILER, "utf-8")
    port = place.port("submissions" if secure == "yes" else "submission")
    words = [str(script), str(port), secure, to]
    done = run("node", *words, NODE_PATH=_NODE_PATH, PASSWORD=PASSWORD)
    assert done.returncode == 0, done.stderr
    assert QUEUED.search(done.stdout)
    message = place.arrived(to)
    assert place.how(to) == "ESMTPSA"
    assert "NOTIFY=FAILURE,DELAY" in message.rcpt[0].split()
    assert len(message.content) > 100_000
