"""The settings of a ``[[listener]]``: a door through which programs and hosts hand over mail by protocol.

Names are those of Postfix's ``smtpd_`` parameters without the prefix where there is one. Never opens
anything: what the texts mean is read by those who use them.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from deliveryagent.protocol.session import Kind
from deliveryagent.setting import ByteSize, Duration, key, parse_duration, parse_size

Mechanism = Literal["PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-256", "XOAUTH2", "OAUTHBEARER"]


@dataclass(frozen=True, kw_only=True)
class DoorSettings:
    """Where the door is, and of what kind."""

    kind: Annotated[
        Kind,
        key(
            '"submission" for people and programs that log in, "smtp" for hosts of trusted networks, '
            '"lmtp" for a local mail system.'
        ),
    ] = "submission"
    address: Annotated[
        str,
        key(
            '"127.0.0.1:587", "[::1]:587", "*:587", "unix:/path" or "systemd:NAME" for a socket that '
            "systemd holds under this name.",
            postfix="inet_interfaces",
        ),
    ] = ""
    socket_mode: Annotated[
        str,
        key("The mode of a Unix socket, in octal; who can open it may relay.", postfix="lmtp_unix"),
    ] = "0660"
    socket_group: Annotated[
        str, key("The group a Unix socket belongs to. Empty: the service's own.")
    ] = ""
    banner: Annotated[
        str,
        key("What follows the host name in the greeting.", postfix="smtpd_banner"),
    ] = "ESMTP"
    trusted_networks: Annotated[
        tuple[str, ...],
        key("Networks whose hosts may relay without a login.", postfix="mynetworks"),
    ] = ()
    xclient_networks: Annotated[
        tuple[str, ...],
        key(
            "Networks whose hosts may say whom they speak for (XCLIENT).",
            postfix="smtpd_authorized_xclient_hosts",
        ),
    ] = ()
    proxy_networks: Annotated[
        tuple[str, ...],
        key(
            "Networks of proxies that begin every connection with a PROXY header, version 1 or 2; "
            "nobody else may connect then.",
            postfix="smtpd_upstream_proxy_protocol",
        ),
    ] = ()


@dataclass(frozen=True, kw_only=True)
class ServerTlsSettings:
    """TLS at the door."""

    tls_certificate: Annotated[
        tuple[str, ...],
        key(
            "PEM files, each a certificate with its chain; the first is the default, the others are "
            "chosen by the name a client asks for.",
            postfix="smtpd_tls_chain_files, smtpd_tls_cert_file",
            single=True,
        ),
    ] = ()
    tls_key: Annotated[
        tuple[str, ...],
        key(
            "PEM files with the private keys, one for each certificate. Empty: they stand in the "
            "files of the certificates.",
            postfix="smtpd_tls_key_file",
            single=True,
        ),
    ] = ()
    tls_key_passphrase: Annotated[
        str,
        key('What opens the private keys: "credential:NAME" or "file:PATH". Empty: they are open.'),
    ] = ""
    tls_protocols: Annotated[
        Literal["TLSv1.2", "TLSv1.3"],
        key("The oldest version of TLS that is spoken.", postfix="smtpd_tls_protocols"),
    ] = "TLSv1.2"
    tls_ciphers: Annotated[
        str,
        key(
            "Ciphers for TLS 1.2, in OpenSSL's words. Empty: those of the system.",
            postfix="smtpd_tls_ciphers",
        ),
    ] = ""
    require_tls: Annotated[
        bool,
        key(
            "Before STARTTLS, take only NOOP, EHLO, STARTTLS and QUIT.",
            postfix="smtpd_enforce_tls",
        ),
    ] = False
    tls_only: Annotated[
        bool,
        key("TLS from the first octet on (port 465).", postfix="smtpd_tls_wrappermode"),
    ] = False


@dataclass(frozen=True, kw_only=True)
class AuthSettings:
    """Who is who."""

    require_auth: Annotated[
        bool,
        key("Take no mail from who has not logged in, trusted or not."),
    ] = False
    auth_mechanisms: Annotated[
        tuple[Mechanism, ...],
        key("What is offered to log in with.", postfix="smtpd_sasl_mechanism_filter"),
    ] = ("PLAIN", "LOGIN", "SCRAM-SHA-256")
    auth_without_tls: Annotated[
        bool,
        key(
            "Offer PLAIN and LOGIN without TLS too: passwords can be read on the way.",
            postfix="smtpd_tls_auth_only",
        ),
    ] = False
    users: Annotated[
        str,
        key("The file of accounts that `dagent user` manages. Empty: only hooks know users."),
    ] = ""
    auth_error_limit: Annotated[
        int,
        key(
            "Failed logins after which a session is ended; some clients try three mechanisms at once."
        ),
    ] = 6
    auth_error_sleep: Annotated[
        Duration,
        key("The answer to a failed login is kept back for so long, longer if others failed too."),
    ] = parse_duration("1s")


@dataclass(frozen=True, kw_only=True)
class CheckSettings:
    """What is asked of clients that are not trusted, and of all contents."""

    refuse_own_helo: Annotated[
        bool, key("Refuse clients that call themselves by this host's name.")
    ] = True
    refuse_reserved_helo: Annotated[
        bool,
        key(
            "Refuse clients that call themselves by what is no name, or a reserved one (RFC 2606).",
            postfix="reject_invalid_helo_hostname",
        ),
    ] = True
    refuse_bare_helo: Annotated[
        bool,
        key(
            "Refuse clients that call themselves by a name without a dot.",
            postfix="reject_non_fqdn_helo_hostname",
        ),
    ] = True
    check_sender_domain: Annotated[
        bool,
        key(
            "Refuse senders whose domain has neither mail hosts nor an address.",
            postfix="reject_unknown_sender_domain",
        ),
    ] = True
    bare_newline: Annotated[
        Literal["refuse", "normalise"],
        key(
            "A CR or LF that is not part of CRLF: refuse the message, or make it CRLF or a blank.",
            postfix="smtpd_forbid_bare_newline",
        ),
    ] = "refuse"
    line_length_limit: Annotated[
        ByteSize, key("Longest line of a content that is taken.", postfix="line_length_limit")
    ] = parse_size("1 MiB")
    mime_nesting_limit: Annotated[
        int, key("Deepest nesting of MIME parts that is taken.", postfix="mime_nesting_limit")
    ] = 100
    recipient_limit: Annotated[
        int,
        key("Most recipients of one message over this door.", postfix="smtpd_recipient_limit"),
    ] = 1000
    future_release_limit: Annotated[
        Duration,
        key("How far ahead a client may ask a message to be sent (RFC 4865); 0: not offered."),
    ] = parse_duration("30d")
    priority_limit: Annotated[
        int,
        key("The highest priority a client may give a message (RFC 6710), 0 to 9."),
    ] = 4
    idempotency_key_header: Annotated[
        str,
        key(
            "The header field whose value makes the same message sent twice one message, for each "
            "user or client. Empty: none does."
        ),
    ] = ""


@dataclass(frozen=True, kw_only=True)
class SessionLimitSettings:
    """What one client, and all of them, may cost."""

    connection_limit: Annotated[
        int, key("Most sessions at a time.", postfix="default_process_limit")
    ] = 2000
    connection_limit_per_address: Annotated[
        int,
        key(
            "Most sessions of one address at a time; trusted ones are not counted. 0: no limit.",
            postfix="smtpd_client_connection_count_limit",
        ),
    ] = 50
    timeout: Annotated[
        Duration,
        key("How long a client may take for its next command or octet.", postfix="smtpd_timeout"),
    ] = parse_duration("300s")
    session_timeout: Annotated[
        Duration,
        key("How long a session may last between two messages that are taken."),
    ] = parse_duration("1h")
    minimum_data_rate: Annotated[
        ByteSize,
        key("Octets a second a content must come with at least.", postfix="smtpd_min_data_rate"),
    ] = parse_size(500)
    soft_error_limit: Annotated[
        int,
        key("Errors of a session after which answers are slow.", postfix="smtpd_soft_error_limit"),
    ] = 10
    hard_error_limit: Annotated[
        int,
        key("Errors after which a session is ended.", postfix="smtpd_hard_error_limit"),
    ] = 20
    error_sleep_time: Annotated[
        Duration,
        key("How slow answers are after errors.", postfix="smtpd_error_sleep_time"),
    ] = parse_duration("1s")
    command_limit: Annotated[
        int,
        key(
            "NOOP, RSET, VRFY and the like that a session may give between two messages; more are "
            "errors.",
            postfix="smtpd_junk_command_limit",
        ),
    ] = 100


@dataclass(frozen=True, kw_only=True)
class HookSettings:
    """Who else is asked."""

    hooks: Annotated[
        tuple[str, ...],
        key('Python objects, "package.module:object", that are asked at every stage, in order.'),
    ] = ()
    hook_timeout: Annotated[
        Duration, key("How long a hook may take; then the client is told to come again.")
    ] = parse_duration("30s")
    milters: Annotated[
        tuple[str, ...],
        key(
            'Milters that are asked after the hooks: "inet:host:port" or "unix:/path".',
            postfix="smtpd_milters",
        ),
    ] = ()
    milter_default_action: Annotated[
        Literal["tempfail", "accept", "reject"],
        key("What happens when a milter cannot be asked.", postfix="milter_default_action"),
    ] = "tempfail"
    milter_timeout: Annotated[
        Duration,
        key("How long a milter may take for an answer.", postfix="milter_command_timeout"),
    ] = parse_duration("30s")


@dataclass(frozen=True, kw_only=True)
class ListenerSettings(
    DoorSettings,
    ServerTlsSettings,
    AuthSettings,
    CheckSettings,
    SessionLimitSettings,
    HookSettings,
):
    """One ``[[listener]]``."""
