"""Logging in, against the examples of the standards, independent clients, and nonsense."""

import base64
import hashlib
import hmac
import smtplib
from collections.abc import Callable

import pytest
from aiosmtplib.auth import auth_crammd5_verify, auth_login_encode, auth_plain_encode
from hypothesis import given, settings
from hypothesis import strategies as st
from scramp import ScramClient

from deliveryagent.protocol import sasl, scram
from deliveryagent.protocol.sasl import (
    Answer,
    Challenge,
    CheckPassword,
    CheckToken,
    CramSecret,
    End,
    Failure,
    Login,
    ScramKeys,
    Step,
)
from deliveryagent.protocol.saslprep import PreparationError, prepare

NONCE = "3rfcNHYJY1ZVvWVs7j"
SALT = b"0123456789abcdef"
ROUNDS = 4096  # scramp does with no fewer
WRONG = Failure()

Client = Callable[[bytes], bytes]


class Office:
    """Answers the questions as one who has a single account; remembers what was asked."""

    def __init__(self, user: str = "kim", password: str = "pencil", *, cram: bool = True) -> None:
        self.user = user
        self.password = password
        self.cram = cram
        self.steps: list[Step] = []

    def answer(self, question: Step) -> Answer:
        self.steps.append(question)
        match question:
            case CheckPassword(user, password):
                return user if (user, password) == (self.user, self.password) else None
            case CheckToken(user, token):
                return self.user if user in ("", self.user) and token == self.password else None
            case CramSecret(user):
                known = self.cram and user == self.user
                return self.password.encode() if known else None
            case ScramKeys(user):
                if user == self.user:
                    return scram.derive(self.password, SALT, ROUNDS)
                return scram.made_up(user, b"secret", ROUNDS)
        raise AssertionError(question)


def run(
    office: Office,
    mechanism: str,
    initial: bytes | None,
    *responses: bytes,
    client: Client | None = None,
) -> End:
    """Play an exchange; the client says ``responses`` in turn, or what ``client`` makes of a challenge."""
    left = list(responses)
    exchange = sasl.begin(mechanism, initial, nonce=NONCE, hostname="mx.example.org")
    answer: Answer = None
    try:
        step = next(exchange)
        while True:
            if isinstance(step, Challenge):
                office.steps.append(step)
                answer = client(step.data) if client is not None else left.pop(0)
            else:
                answer = office.answer(step)
            step = exchange.send(answer)
    except StopIteration as end:
        result: End = end.value
        return result


def said(office: Office) -> list[bytes]:
    return [step.data for step in office.steps if isinstance(step, Challenge)]


# --- the examples of the standards


def test_cram_md5_as_in_its_standard() -> None:
    """RFC 2195 2."""
    office = Office("tim", "tanstaaftanstaaf")
    nonce, _, host = "1896.697170952@postoffice.reston.mci.net".partition("@")
    exchange = sasl.begin("CRAM-MD5", None, nonce=nonce, hostname=host)
    assert next(exchange) == Challenge(b"<1896.697170952@postoffice.reston.mci.net>")
    question = exchange.send(b"tim b913a602c7eda7a495b4e6e7334d3890")
    with pytest.raises(StopIteration) as end:
        exchange.send(office.answer(question))
    assert end.value.value == Login("tim")


def test_scram_sha_256_as_in_its_standard() -> None:
    """RFC 7677 3."""
    client = "rOprNGfwEbeRWgbNEkqO"
    server = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
    salt = scram.decode("W22ZaJ0SNY7soEsUEjb6gQ==")
    exchange = sasl.begin("SCRAM-SHA-256", f"n,,n=user,r={client}".encode(), nonce=server)
    assert next(exchange) == ScramKeys("user")
    first = exchange.send(scram.derive("pencil", salt, 4096))
    assert first == Challenge(f"r={client}{server},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096".encode())
    proof = "dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
    last = exchange.send(f"c=biws,r={client}{server},p={proof}".encode())
    assert last == Challenge(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=")
    with pytest.raises(StopIteration) as end:
        exchange.send(b"")
    assert end.value.value == Login("user")


def test_plain_as_in_its_standard() -> None:
    """RFC 4616 4, but that nobody may be another."""
    assert run(Office("tim", "tanstaaftanstaaf"), "PLAIN", b"\0tim\0tanstaaftanstaaf") == Login(
        "tim"
    )
    office = Office("Kurt", "xipj3plmq")
    assert run(office, "PLAIN", None, b"Ursel\0Kurt\0xipj3plmq") == WRONG
    assert said(office) == [b""]


# --- independent clients

words = st.text(min_size=1, max_size=20)


def usable(*texts: str) -> bool:
    try:
        for text in texts:
            prepare(text)
    except PreparationError:
        return False
    return True


def through_scramp(office: Office, user: str, password: str) -> End:
    client = ScramClient(["SCRAM-SHA-256"], user, password)
    first = client.get_client_first().encode()
    turn = 0

    def respond(challenge: bytes) -> bytes:
        nonlocal turn
        turn += 1
        if turn == 1:
            client.set_server_first(challenge.decode())
            return str(client.get_client_final()).encode()
        client.set_server_final(challenge.decode())
        return b""

    return run(office, "SCRAM-SHA-256", first, client=respond)


@settings(max_examples=20, deadline=None)
# Letters that Unicode 3.2 has: scramp knows no others.
@given(st.text(st.characters(min_codepoint=32, max_codepoint=0x21F), min_size=1, max_size=20))
def test_scramp_logs_in_and_believes_the_server(word: str) -> None:
    if not usable(word):
        return
    user, password = prepare(word), prepare("pass" + word)
    assert through_scramp(Office(user, password), word, "pass" + word) == Login(user)
    assert through_scramp(Office(user, password), word, "pass") == WRONG
    assert through_scramp(Office("somebody", password), word, "pass" + word) == (
        Login(user) if user == "somebody" else WRONG
    )


@given(words, words)
def test_aiosmtplib_logs_in(user: str, password: str) -> None:
    if not usable(user, password) or "\0" in user + password:
        return
    office = Office(prepare(user), prepare(password))
    known = Login(prepare(user))
    plain = base64.b64decode(auth_plain_encode(user, password))
    assert run(office, "PLAIN", plain) == known
    name, secret = (base64.b64decode(part) for part in auth_login_encode(user, password))
    assert run(office, "LOGIN", name, secret) == known
    assert run(office, "LOGIN", None, name, secret) == known
    assert said(office)[-2:] == [b"Username:", b"Password:"]

    def respond(challenge: bytes) -> bytes:
        return base64.b64decode(
            auth_crammd5_verify(user, prepare(password), base64.b64encode(challenge))
        )

    assert run(office, "CRAM-MD5", None, client=respond) == known


def test_smtplib_logs_in() -> None:
    client = smtplib.SMTP()
    client.user, client.password = "kim", "pencil"
    assert run(Office(), "PLAIN", client.auth_plain().encode()) == Login("kim")

    def cram(challenge: bytes) -> bytes:
        return (client.auth_cram_md5(challenge) or "").encode()

    assert run(Office(), "CRAM-MD5", None, client=cram) == Login("kim")
    first = client.auth_login().encode()
    assert run(Office(), "LOGIN", first, b"pencil") == Login("kim")


# --- strangers


def walked(office: Office) -> list[str]:
    return [type(step).__name__ for step in office.steps]


@pytest.mark.parametrize("known", ["kim", "nobody"])
@pytest.mark.parametrize(
    ("mechanism", "responses", "steps"),
    [
        ("PLAIN", [b"\0kim\0wrong"], ["Challenge", "CheckPassword"]),
        ("LOGIN", [b"kim", b"wrong"], ["Challenge", "Challenge", "CheckPassword"]),
        ("CRAM-MD5", [b"kim " + b"0" * 32], ["Challenge", "CramSecret"]),
    ],
)
def test_a_stranger_takes_the_same_steps_as_a_wrong_password(
    known: str, mechanism: str, responses: list[bytes], steps: list[str]
) -> None:
    office = Office(known)
    assert run(office, mechanism, None, *responses) == WRONG
    assert walked(office) == steps


@pytest.mark.parametrize("known", ["kim", "nobody"])
def test_in_scram_too_a_stranger_gets_a_salt_and_is_refused_at_the_end(known: str) -> None:
    office = Office(known)
    assert through_scramp(office, "kim", "wrong") == WRONG
    assert walked(office) == ["ScramKeys", "Challenge"]
    assert said(office)[0].endswith(f",i={ROUNDS}".encode())


def test_an_account_without_the_secret_cannot_use_cram_md5() -> None:
    digest = hmac.new(b"pencil", f"<{NONCE}@mx.example.org>".encode(), "md5").hexdigest()
    response = f"kim {digest}".encode()
    assert run(Office(), "CRAM-MD5", None, response) == Login("kim")
    assert run(Office(cram=False), "CRAM-MD5", None, response) == WRONG
    empty = hmac.new(b"", f"<{NONCE}@mx.example.org>".encode(), "md5").hexdigest()
    assert run(Office(password=""), "CRAM-MD5", None, f"kim {empty}".encode()) == WRONG


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256"])
def test_one_may_ask_to_be_oneself_but_nobody_else(mechanism: str) -> None:
    def try_as(wanted: str) -> End:
        if mechanism == "PLAIN":
            return run(Office(), "PLAIN", f"{wanted}\0kim\0pencil".encode())
        return scram_by_hand(f"n,a={wanted},")

    assert try_as("kim") == Login("kim")
    assert try_as("root") == WRONG


# --- SCRAM, turn by turn


def scram_by_hand(
    header: str = "n,,", *, binding: str = "", nonce: str = "", name: str = "kim", more: str = ""
) -> End:
    """A client whose parts can be bent."""
    bare = f"n={name},r=abc{more}"

    def respond(challenge: bytes) -> bytes:
        if challenge.startswith(b"v="):
            return b""
        channel = binding or scram.encode(header.encode())
        final = f"c={channel},r={nonce or 'abc' + NONCE}"
        exchanged = f"{bare},{challenge.decode()},{final}".encode()
        return f"{final},p={scram.encode(proof_of('pencil', exchanged))}".encode()

    return run(Office(), "SCRAM-SHA-256", (header + bare).encode(), client=respond)


def proof_of(password: str, exchanged: bytes) -> bytes:
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), SALT, ROUNDS)
    key = hmac.digest(salted, b"Client Key", "sha256")
    signature = hmac.digest(hashlib.sha256(key).digest(), exchanged, "sha256")
    return bytes(a ^ b for a, b in zip(key, signature, strict=True))


def test_a_client_that_could_bind_the_channel_logs_in_where_that_is_not_offered() -> None:
    assert scram_by_hand("n,,") == Login("kim")
    assert scram_by_hand("y,,") == Login("kim")
    assert scram_by_hand(more=",x=later") == Login("kim")


def test_who_binds_the_channel_or_was_told_another_story_is_refused() -> None:
    assert scram_by_hand("p=tls-exporter,,") == WRONG
    assert scram_by_hand("y,,", binding=scram.encode(b"n,,")) == WRONG
    assert scram_by_hand(nonce="abc" + NONCE + "x") == WRONG
    assert scram_by_hand(nonce="abc") == WRONG


def test_a_name_with_a_comma_is_written_another_way() -> None:
    def respond(challenge: bytes) -> bytes:
        raise AssertionError(challenge)

    office = Office("k,i=m")
    with pytest.raises(AssertionError):
        run(office, "SCRAM-SHA-256", b"n,,n=k=2Ci=3Dm,r=abc", client=respond)
    assert office.steps[0] == ScramKeys("k,i=m")


# --- tokens


@pytest.mark.parametrize(
    ("mechanism", "message"),
    [
        ("XOAUTH2", b"user=kim\1auth=Bearer pencil\1\1"),
        ("OAUTHBEARER", b"n,a=kim,\1host=mx.example.org\1port=587\1auth=Bearer pencil\1\1"),
        ("OAUTHBEARER", b"n,,\1auth=Bearer pencil\1\1"),
    ],
)
def test_a_token_is_shown_to_whoever_knows_about_tokens(mechanism: str, message: bytes) -> None:
    assert run(Office(), mechanism, message) == Login("kim")
    assert run(Office(), mechanism, None, message) == Login("kim")
    office = Office(password="another")
    assert run(office, mechanism, message, b"") == WRONG
    assert said(office)[0].startswith(b'{"status":')


# --- nonsense

MALFORMED = [
    ("PLAIN", b""),
    ("PLAIN", b"kim\0pencil"),
    ("PLAIN", b"\0kim\0pencil\0"),
    ("PLAIN", b"\0\0pencil"),
    ("PLAIN", b"\0kim\0"),
    ("PLAIN", b"\0kim\0\xff\xfe"),
    ("PLAIN", b"\0" + b"k" * 256 + b"\0pencil"),
    ("PLAIN", b"\0kim\0" + b"p" * 1025),
    ("CRAM-MD5", b"kim pencil"),
    ("CRAM-MD5", b"0" * 32),
    ("SCRAM-SHA-256", b"n,,n=kim"),
    ("SCRAM-SHA-256", b"n=kim,r=abc"),
    ("SCRAM-SHA-256", b"x,,n=kim,r=abc"),
    ("SCRAM-SHA-256", b"n,,n=k=4Dm,r=abc"),
    ("SCRAM-SHA-256", b"n,,n=,r=abc"),
    ("SCRAM-SHA-256", b"n,,n=kim,r=a c"),
    ("SCRAM-SHA-256", b"n,b=x,n=kim,r=abc"),
    ("SCRAM-SHA-256", b"n,,\xff"),
    ("XOAUTH2", b"user=kim\1auth=Bearer pencil\1"),
    ("XOAUTH2", b"user=kim\1auth=Basic pencil\1\1"),
    ("OAUTHBEARER", b"auth=Bearer pencil\1\1"),
    ("OAUTHBEARER", b"n,b=kim,\1auth=Bearer pencil\1\1"),
]


@pytest.mark.parametrize(("mechanism", "message"), MALFORMED)
def test_a_malformed_message_is_refused_as_such(mechanism: str, message: bytes) -> None:
    office = Office()
    end = run(office, mechanism, None, message)
    assert isinstance(end, Failure)
    assert (end.code, end.enhanced) == (501, "5.5.2")
    assert walked(office) == ["Challenge"]


def test_cram_md5_begins_with_the_server() -> None:
    assert run(Office(), "CRAM-MD5", b"kim x") == Failure(
        501, "5.5.4", "CRAM-MD5 has no initial response"
    )


def test_a_name_that_cannot_be_one_is_just_wrong() -> None:
    assert run(Office(), "PLAIN", b"\0k\x07m\0pencil") == WRONG
    assert run(Office(), "LOGIN", "\u00ad".encode(), b"pencil") == WRONG


def test_nothing_secret_is_shown_by_accident() -> None:
    for question in (CheckPassword("kim", "pencil"), CheckToken("kim", "pencil")):
        assert "pencil" not in repr(question)
        assert "kim" in repr(question)


chunks = st.one_of(
    st.binary(max_size=60),
    st.lists(
        st.sampled_from(
            [b"n,,", b"n=kim", b",", b"r=abc", b"p=", b"c=biws", b"\0", b"\1", b"=", b"kim", b"a=", b"user="]
        )
    ).map(b"".join),
)  # fmt: skip


@given(st.sampled_from(sasl.MECHANISMS), st.none() | chunks, st.lists(chunks, max_size=4))
def test_whatever_is_said_it_ends_and_lets_nobody_in(
    mechanism: str, initial: bytes | None, responses: list[bytes]
) -> None:
    left = iter(responses)
    end = run(Office(), mechanism, initial, client=lambda _: next(left, b""))
    assert isinstance(end, Failure)
    assert end.code in {501, 535}
    assert "\n" not in end.text
