"""The settings of name resolution, apart from the code that uses them: reading the configuration
should not cost the import of dnspython.
"""

from dataclasses import dataclass
from typing import Annotated

from deliveryagent.setting import Duration, key, parse_duration


@dataclass(frozen=True, kw_only=True)
class ResolverSettings:
    """How names are looked up."""

    nameservers: Annotated[
        tuple[str, ...],
        key('Name servers, such as "192.0.2.1" or "[::1]:5353"; empty means the system\'s.'),
    ] = ()
    ignore_mx_lookup_error: Annotated[
        bool,
        key(
            "Use the domain's own addresses when its MX lookup fails. Mail may go astray.",
            postfix="ignore_mx_lookup_error",
        ),
    ] = False
    disable_dns_lookups: Annotated[
        bool,
        key(
            "Use the system's name service, such as /etc/hosts, instead of DNS, and no MX records.",
            postfix="disable_dns_lookups",
        ),
    ] = False
    trust_ad: Annotated[
        bool,
        key(
            "Believe the name servers' word that an answer was validated by DNSSEC. Only for a "
            "validating resolver on this machine."
        ),
    ] = False
    timeout: Annotated[Duration, key("How long one name server may take for one answer.")] = (
        parse_duration("3s")
    )
    attempts: Annotated[int, key("How often each name server is asked before giving up.")] = 2
    minimal_ttl: Annotated[
        Duration, key("Answers are remembered at least so long, whatever their time to live.")
    ] = parse_duration("5s")
    maximal_ttl: Annotated[Duration, key("Answers are remembered at most so long.")] = (
        parse_duration("1h")
    )
    negative_ttl: Annotated[
        Duration, key("That a name or record does not exist is remembered at most so long.")
    ] = parse_duration("5m")
    failure_ttl: Annotated[
        Duration, key("After a failed lookup the name is left alone for so long.")
    ] = parse_duration("5s")
