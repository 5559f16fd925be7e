"""Addresses from the system's own name service: /etc/hosts and whatever nsswitch.conf names.

Used instead of DNS with ``disable_dns_lookups``. Guarantees: as ``resolver.servers``: one value for
every way it can go, nothing raises but cancelling. The blocking call runs in a few threads of its
own; one that never returns costs a thread, not the event loop.
"""

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor

from deliveryagent.mail.delivery import Failure, Trouble
from deliveryagent.resolver.servers import RECORDS_KEPT, Answer, RecordType, Standing

_THREADS = 8
_FAMILIES = {"A": socket.AF_INET, "AAAA": socket.AF_INET6}
_ABSENT = {socket.EAI_NONAME, socket.EAI_ADDRFAMILY, getattr(socket, "EAI_NODATA", None)}
_TTL = 60.0


class SystemHosts:
    """The system's name service."""

    def __init__(self, *, timeout: float) -> None:
        self._timeout = timeout
        self._threads = ThreadPoolExecutor(_THREADS, "hosts")

    async def ask(self, name: str, kind: RecordType) -> Answer:
        """The addresses of a name; there are no MX records in this world."""
        family = _FAMILIES.get(kind)
        if family is None:
            return Answer(Standing.NO_DATA, ttl=_TTL)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._timeout):
                found = await loop.run_in_executor(
                    self._threads,
                    lambda: socket.getaddrinfo(name, None, family, socket.SOCK_STREAM),
                )
        except TimeoutError:
            text = f"the system did not find {name} within {self._timeout:g} s"
        except socket.gaierror as error:
            if error.errno in _ABSENT:
                return Answer(Standing.NO_NAME, ttl=_TTL)
            text = f"the system cannot look up {name}: {(error.strerror or 'unknown').lower()}"
        except (OSError, UnicodeError) as error:
            text = f"the system cannot look up {name}: {type(error).__name__}"
        else:
            addresses = dict.fromkeys(str(sockaddr[0]).partition("%")[0] for *_, sockaddr in found)
            records = tuple((0, address) for address in list(addresses)[:RECORDS_KEPT])
            return Answer(Standing.FOUND, records, ttl=_TTL)
        return Answer(Standing.FAILED, failure=Failure(Trouble.DNS_TEMPORARY, text))

    def close(self) -> None:
        """Let go of the threads; one that still waits ends by itself."""
        self._threads.shutdown(wait=False, cancel_futures=True)
