"""Dialling: a connection or the reason why not, within the limit."""

import asyncio
import socket
from pathlib import Path

import pytest

from deliveryagent.mail.delivery import Failure, Trouble
from deliveryagent.mail.nexthop import Endpoint
from deliveryagent.wire.connection import Connection
from deliveryagent.wire.dial import dial
from tests.doors.talks import QUICK, Run, both_loops, deliver, told
from tests.doubles.scripted_peer import ScriptedPeer


@both_loops
def test_a_unix_socket_is_dialled(run: Run[None], tmp_path: Path) -> None:
    async def main() -> None:
        async with ScriptedPeer(lmtp=True, path=tmp_path / "lmtp.sock") as peer:
            assert told(await deliver(peer, count=2)) == ["dot 250"] * 2
        missing = Endpoint("localhost", "", 0, path=str(tmp_path / "missing"), transport="lmtp")
        failure = await dial(missing, limits=QUICK)
        assert isinstance(failure, Failure)
        assert failure.trouble is Trouble.CONNECT_FAILED
        too_long = Endpoint("localhost", "", 0, path="/" + "x" * 200, transport="lmtp")
        failure = await dial(too_long, limits=QUICK)
        assert isinstance(failure, Failure)
        assert failure.trouble is Trouble.CONNECT_FAILED

    run(main())


@both_loops
def test_ipv6_is_dialled(run: Run[None]) -> None:
    async def main() -> None:
        try:
            async with ScriptedPeer(host="::1") as peer:
                assert told(await deliver(peer)) == ["dot 250"]
                connection = await dial(peer.endpoint, limits=QUICK, bind_address6="::1")
                assert isinstance(connection, Connection)
                connection.close()
        except OSError:
            pytest.skip("this machine has no IPv6 loopback")

    run(main())


@both_loops
def test_the_source_address_is_used(run: Run[None]) -> None:
    async def main() -> None:
        async with ScriptedPeer() as peer:
            connection = await dial(peer.endpoint, limits=QUICK, bind_address="127.0.0.77")
            assert isinstance(connection, Connection)
            await connection.greeting()
            assert peer.clients == ["127.0.0.77"]
            connection.close()
            # The other family's source address does not matter.
            connection = await dial(peer.endpoint, limits=QUICK, bind_address6="2001:db8::1")
            assert isinstance(connection, Connection)
            connection.close()

    run(main())


@both_loops
def test_a_source_address_that_is_not_ours_is_a_failure_of_its_own(run: Run[None]) -> None:
    async def main() -> None:
        endpoint = Endpoint("mx.example", "127.0.0.1", 9)
        for address in ("192.0.2.1", "nonsense"):
            failure = await dial(endpoint, limits=QUICK, bind_address=address)
            assert isinstance(failure, Failure)
            assert failure.trouble is Trouble.BIND_FAILED
            assert address in failure.text

    run(main())


@both_loops
def test_a_closed_port_is_told_as_refused(run: Run[None]) -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        failure = await dial(Endpoint("mx.example", "127.0.0.1", port), limits=QUICK)
        assert failure == Failure(
            Trouble.CONNECT_FAILED, f"connect to mx.example[127.0.0.1]:{port}: Connection refused"
        )

    run(main())


@both_loops
def test_a_host_that_does_not_answer_is_given_up_in_time(run: Run[None]) -> None:
    async def main() -> None:
        # A full backlog: the system takes no further connection and says nothing.
        with socket.socket() as server:
            server.bind(("127.0.0.1", 0))
            server.listen(0)
            port = server.getsockname()[1]
            waiting = [socket.socket() for _ in range(4)]
            for sock in waiting:
                sock.setblocking(False)
                sock.connect_ex(("127.0.0.1", port))
            await asyncio.sleep(0.05)
            failure = await dial(Endpoint("mx.example", "127.0.0.1", port), limits=QUICK)
            for sock in waiting:
                sock.close()
        assert failure == Failure(
            Trouble.CONNECT_FAILED,
            f"connect to mx.example[127.0.0.1]:{port}: timed out after 300ms",
        )

    run(main())


@both_loops
def test_cancelling_leaves_no_socket_behind(run: Run[None]) -> None:
    async def main() -> None:
        with socket.socket() as server:
            server.bind(("127.0.0.1", 0))
            server.listen(0)
            port = server.getsockname()[1]
            waiting = [socket.socket() for _ in range(4)]
            for sock in waiting:
                sock.setblocking(False)
                sock.connect_ex(("127.0.0.1", port))
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await dial(Endpoint("mx.example", "127.0.0.1", port), limits=QUICK)
            for sock in waiting:
                sock.close()

    run(main())


@both_loops
def test_a_listener_hears_the_whole_dialogue(run: Run[None]) -> None:
    async def main() -> None:
        heard: list[str] = []
        async with ScriptedPeer() as peer:
            connection = await dial(peer.endpoint, limits=QUICK, listener=heard.append)
            assert isinstance(connection, Connection)
            await connection.greeting()
            connection.close()
        assert heard[0] == "S: 220 peer.example ESMTP"

    run(main())
