"""The certificates and keys of a listener: what can be used, and what is said of what cannot."""

import ssl
from pathlib import Path

import pytest
import trustme

from deliveryagent.intake.listener_settings import ServerTlsSettings
from deliveryagent.intake.server_tls import facts_of, names_of, server_context
from tests.doubles.smtp_door import certificate, trusting


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


def context(*certificates: str, **more: object) -> ssl.SSLContext:
    settings = ServerTlsSettings(tls_certificate=certificates, **more)  # type: ignore[arg-type] # as given
    found = server_context(settings)
    assert found is not None
    return found


def handshake(
    server: ssl.SSLContext, client: ssl.SSLContext, name: str | None
) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Both ends of a connection, in memory."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    here = server.wrap_bio(to_server, to_client, server_side=True)
    there = client.wrap_bio(to_client, to_server, server_hostname=name)
    for _ in range(6):
        for end in (there, here):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return here, there


def anybody() -> ssl.SSLContext:
    found = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    found.check_hostname = False
    found.verify_mode = ssl.CERT_NONE
    return found


def test_without_a_certificate_there_is_no_tls() -> None:
    assert server_context(ServerTlsSettings()) is None


def test_a_certificate_and_its_key_may_be_in_one_file_or_in_two(
    tmp_path: Path, ca: trustme.CA
) -> None:
    one = certificate(tmp_path, ca, "a.dev")
    text = Path(one).read_text("ascii")
    key, chain = tmp_path / "key.pem", tmp_path / "chain.pem"
    end = text.index("-----BEGIN CERTIFICATE")
    key.write_text(text[:end], "ascii")
    chain.write_text(text[end:], "ascii")
    for server in (context(one), context(str(chain), tls_key=(str(key),))):
        here, _ = handshake(server, trusting(ca), "a.dev")
        facts = facts_of(here)
        assert (facts.version, facts.server_name) == ("TLSv1.3", "a.dev")
        assert facts.bits >= 128


@pytest.mark.parametrize(
    ("name", "subject"),
    [
        ("a.dev", "a.dev"),
        ("B.dev", "b.dev"),
        ("mail.c.dev", "*.c.dev"),
        ("x.y.c.dev", "a.dev"),
        (None, "a.dev"),
    ],
)
def test_the_name_chooses_the_certificate(
    tmp_path: Path, ca: trustme.CA, name: str | None, subject: str
) -> None:
    files = [certificate(tmp_path, ca, one) for one in ("a.dev", "b.dev", "*.c.dev")]
    here, there = handshake(context(*files), anybody(), name)
    der = there.getpeercert(binary_form=True)
    assert der is not None
    path = tmp_path / "seen.pem"
    path.write_text(ssl.DER_cert_to_PEM_cert(der), "ascii")
    assert names_of(str(path)) == [subject]
    assert facts_of(here).server_name == (name or "")


def test_old_versions_are_not_spoken(tmp_path: Path, ca: trustme.CA) -> None:
    file = certificate(tmp_path, ca, "a.dev")
    assert context(file).minimum_version == ssl.TLSVersion.TLSv1_2
    newest = context(file, tls_protocols="TLSv1.3")
    old = anybody()
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    assert handshake(context(file), old, "a.dev")[0].version() == "TLSv1.2"
    with pytest.raises(ssl.SSLError):
        handshake(newest, old, "a.dev")


def test_ciphers_are_those_of_the_settings(tmp_path: Path, ca: trustme.CA) -> None:
    file = certificate(tmp_path, ca, "a.dev")
    old = anybody()
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    here, _ = handshake(context(file, tls_ciphers="ECDHE-ECDSA-AES128-GCM-SHA256"), old, "a.dev")
    assert facts_of(here).cipher == "ECDHE-ECDSA-AES128-GCM-SHA256"


def test_each_listener_has_tickets_of_its_own(tmp_path: Path, ca: trustme.CA) -> None:
    file = certificate(tmp_path, ca, "a.dev")
    client = anybody()
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    first = context(file)
    _, there = handshake(first, client, "a.dev")
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    here = context(file).wrap_bio(to_server, to_client, server_side=True)
    again = client.wrap_bio(to_client, to_server, server_hostname="a.dev", session=there.session)
    for _ in range(6):
        for end in (again, here):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    assert not again.session_reused


@pytest.mark.parametrize(
    ("content", "words"),
    [("", "cannot be used"), ("not a certificate", "cannot be used"), (None, "No such file")],
)
def test_files_that_cannot_be_used_are_named(
    tmp_path: Path, content: str | None, words: str
) -> None:
    path = tmp_path / "bad.pem"
    if content is not None:
        path.write_text(content, "ascii")
    with pytest.raises(ValueError, match=words) as caught:
        context(str(path))
    assert str(path) in str(caught.value)


def test_a_key_must_fit_and_be_there_for_each_certificate(tmp_path: Path, ca: trustme.CA) -> None:
    one, other = certificate(tmp_path, ca, "a.dev"), certificate(tmp_path, ca, "b.dev")
    with pytest.raises(ValueError, match="another number of files"):
        context(one, other, tls_key=(one,))
    with pytest.raises(ValueError, match=r"a\.dev\.pem"):
        context(one, tls_key=(other,))


def test_a_locked_key_opens_with_its_passphrase_only(tmp_path: Path, ca: trustme.CA) -> None:
    serialization = pytest.importorskip("cryptography.hazmat.primitives.serialization")
    text = Path(certificate(tmp_path, ca, "a.dev")).read_bytes()
    key = serialization.load_pem_private_key(text, None)
    locked = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"sesame"),
    )
    path = tmp_path / "locked.pem"
    path.write_bytes(locked + text[text.index(b"-----BEGIN CERTIFICATE") :])
    settings = ServerTlsSettings(tls_certificate=(str(path),))
    assert server_context(settings, "sesame") is not None
    for wrong in ("", "wrong"):
        with pytest.raises(ValueError, match=r"locked\.pem"):
            server_context(settings, wrong)
