"""What milters are told of a session."""

from deliveryagent.protocol.milter import Action, Command, Step, Terms
from deliveryagent.protocol.milter_macros import names_for, peer, values
from deliveryagent.protocol.session import Client, Session, TlsFacts, Transaction

USUAL = Terms(6, Action(0), Step(0), {})


def session(**facts: object) -> Session:
    known = {
        "kind": "smtp",
        "client": Client(address="192.0.2.7", port=25),
        "hostname": "mx.example",
    }
    return Session(**{**known, **facts})  # type: ignore[arg-type]


def test_a_filter_gets_the_macros_it_asks_for_however_it_writes_them() -> None:
    terms = Terms(6, Action(0), Step(0), {Command.MAIL: ("i", "{auth_type}", "mail_addr")})
    assert names_for(Command.MAIL, terms) == ("i", "{auth_type}", "{mail_addr}")
    assert "j" in names_for(Command.CONNECT, terms)
    assert names_for(Command.UNKNOWN, USUAL) == ()


def test_what_is_not_known_is_not_told() -> None:
    known = values(session(), "agent 1")
    told = {name for name, value in known.items() if value}
    assert told == {
        "j", "v", "_", "{daemon_name}", "{client_addr}", "{client_name}", "{client_ptr}", "{client_port}",
    }  # fmt: skip
    assert known["_"] == "[192.0.2.7]"


def test_everything_that_is_known_is_told() -> None:
    known = values(
        session(
            kind="submission",
            client=Client(address="2001:db8::1", port=40000, name="host.example"),
            local="[2001:db8::2]:587",
            user="kim",
            mechanism="PLAIN",
            tls=TlsFacts(version="TLSv1.3", cipher="AES", bits=256),
            transaction=Transaction(sender="kim@example.org", queue_id="4Q"),
        ),
        "agent 1",
        "lee@example.net",
    )
    assert known["_"] == "host.example [2001:db8::1]"
    assert known["{daemon_name}"] == "ORIGINATING"
    assert (known["{daemon_addr}"], known["{daemon_port}"]) == ("2001:db8::2", "587")
    assert (known["{auth_type}"], known["{auth_authen}"]) == ("PLAIN", "kim")
    assert (known["{tls_version}"], known["{cipher_bits}"]) == ("TLSv1.3", "256")
    assert (known["i"], known["{mail_host}"], known["{rcpt_host}"]) == (
        "4Q",
        "example.org",
        "example.net",
    )


def test_who_comes_over_a_unix_socket_is_this_host() -> None:
    assert peer(session(client=Client(uid=1000))) == ("localhost", "127.0.0.1", 0)


def test_whose_address_nobody_knows_is_not_this_host() -> None:
    hidden = session(client=Client(proxied=True))
    assert peer(hidden) == ("unknown", "", 0)
    assert values(hidden, "agent 1")["_"] == "unknown"
