"""The name server of a measurement: right answers from a table."""

import dns.message
import dns.rdatatype

from benchmarks.names import answer, serving, zone
from benchmarks.network import Network, here
from deliveryagent.lab.nameserver import NameServer


def ask(server: NameServer, known: dict[bytes, bytes], name: str, kind: str) -> dns.message.Message:
    question = dns.message.make_query(name, kind)
    found = dns.message.from_wire(answer(server, known, question.to_wire()))
    assert found.id == question.id
    return found


def test_the_same_question_gets_the_same_answer_under_its_own_id() -> None:
    server = NameServer(zone(3, Network(own=True)))
    known: dict[bytes, bytes] = {}
    answers = [ask(server, known, "d2.test", "MX") for _ in range(3)]
    assert {str(one.answer[0][0]) for one in answers} == {"10 mx.d2.test."}
    assert server.count("d2.test") == 1
    assert str(ask(server, known, "mx.d2.test", "A").answer[0][0]) == "127.1.0.3"
    assert not ask(server, known, "mx.d2.test", "AAAA").answer
    assert ask(server, known, "d3.test", "MX").rcode() == 3


def test_what_is_no_question_gets_no_answer() -> None:
    assert answer(NameServer({}), {}, b"hello") == b""


def test_the_server_answers_while_it_is_wanted() -> None:
    with serving(1, here()):
        pass
