"""The remembered dialogue: bounded, printable, without secrets."""

from deliveryagent.wire.transcript import ENTRIES_KEPT, OCTETS_KEPT, Transcript


def test_commands_replies_and_events_are_lines() -> None:
    transcript = Transcript()
    transcript.received(b"220 hi\r\n")
    transcript.sent(b"MAIL FROM:<a@example.org>\r\nDATA\r\n")
    transcript.received(b"250 ok\r\n35")
    transcript.received(b"4 go\r\n")
    transcript.happened("lost connection")
    assert transcript.lines() == [
        "S: 220 hi",
        "C: MAIL FROM:<a@example.org>",
        "C: DATA",
        "S: 250 ok",
        "S: 354 go",
        "* lost connection",
    ]


def test_no_secret_is_remembered() -> None:
    transcript = Transcript()
    transcript.sent(b"AUTH PLAIN AGtpbQBzZWNyZXQ=\r\n")
    transcript.received(b"235 welcome\r\n")
    transcript.sent(b"MAIL FROM:<a@example.org>\r\n")
    transcript.received(b"250 ok\r\n")
    transcript.sent(b"auth login\r\n")
    transcript.received(b"334 VXNlcm5hbWU6\r\n")
    transcript.sent(b"a2lt\r\n")
    transcript.received(b"334 UGFzc3dvcmQ6\r\n")
    transcript.sent(b"c2VjcmV0\r\n")
    transcript.received(b"535 no\r\n")
    transcript.sent(b"QUIT\r\n")
    assert transcript.lines() == [
        "C: AUTH PLAIN (hidden)",
        "S: 235 welcome",
        "C: MAIL FROM:<a@example.org>",
        "S: 250 ok",
        "C: auth login",
        "S: 334 VXNlcm5hbWU6",
        "C: (hidden)",
        "S: 334 UGFzc3dvcmQ6",
        "C: (hidden)",
        "S: 535 no",
        "C: QUIT",
    ]


def test_a_secret_stays_hidden_when_its_reply_comes_in_pieces() -> None:
    transcript = Transcript()
    transcript.sent(b"AUTH LOGIN\r\n")
    for piece in (b"3", b"34 VXNl", b"cm5hbWU6\r\n"):
        transcript.received(piece)
    transcript.sent(b"c2VjcmV0\r\n")
    assert transcript.lines() == ["C: AUTH LOGIN", "S: 334 VXNlcm5hbWU6", "C: (hidden)"]


def test_what_is_remembered_is_bounded_and_printable() -> None:
    transcript = Transcript()
    for number in range(1000):
        transcript.received(b"250-\x1b[2J\x00%d " % number + b"x" * 10_000)
        transcript.sent(b"NOOP\r\n")
    lines = transcript.lines()
    assert len(lines) <= ENTRIES_KEPT
    assert all(len(line) <= OCTETS_KEPT + 20 and line.isprintable() for line in lines)


def test_a_listener_hears_whole_lines_and_nothing_is_remembered() -> None:
    heard: list[str] = []
    transcript = Transcript(heard.append)
    transcript.sent(b"EHLO me\r\n")
    transcript.received(b"250-a\r\n25")
    transcript.received(b"0 b\r\n")
    transcript.happened("TLSv1.3")
    assert heard == ["C: EHLO me", "S: 250-a", "S: 250 b", "* TLSv1.3"]
    assert transcript.lines() == []
