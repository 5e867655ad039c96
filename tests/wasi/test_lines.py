from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edge.wasi.lines import LINE_MAX, LineSink


def printed(*writes: bytes, limit: int = 1 << 20) -> list[str]:
    lines: list[str] = []
    sink = LineSink(lines.append, limit)
    for data in writes:
        assert sink.writable() > 0
        sink.write(data)
    sink.finish()
    return lines


def test_lines_come_whole_however_they_were_written() -> None:
    assert printed(b"he", b"llo\nwor", b"ld\n", b"\n", b"end") == ["hello", "world", "", "end"]
    assert printed(b"dos\r\n") == ["dos"]


def test_a_line_is_emitted_when_it_ends_not_before() -> None:
    lines: list[str] = []
    sink = LineSink(lines.append)
    sink.write(b"prompt> ")
    assert lines == []
    sink.write(b"answer\n")
    assert lines == ["prompt> answer"]


def test_a_long_line_is_split_between_characters() -> None:
    text = "äß€😀" * 2000
    lines = printed(text.encode())
    assert "".join(lines) == text
    assert all(len(line.encode()) <= LINE_MAX for line in lines)


def test_what_is_no_utf8_is_replaced() -> None:
    assert printed(b"a\xffb\n") == ["a\ufffdb"]
    assert "".join(printed(b"\x80" * 20_000)) == "\ufffd" * 20_000


def test_endless_output_ends_with_one_note() -> None:
    lines: list[str] = []
    sink = LineSink(lines.append, limit=10_000)
    for _ in range(1000):
        sink.write(b"spam\n" * 100)
    assert len(lines) < 10_000 / 64 + 2
    assert "dropped" in lines[-1]
    assert not any("dropped" in line for line in lines[:-1])
    sink.finish()
    assert "dropped" in lines[-1]


def test_empty_lines_are_not_free() -> None:
    assert len(printed(b"\n" * 100_000, limit=6400)) == 101


@given(st.lists(st.binary(max_size=40), max_size=30))
def test_no_byte_is_lost_or_invented(writes: list[bytes]) -> None:
    whole = b"".join(writes)
    expected = [line.rstrip(b"\r").decode("utf-8", "replace") for line in whole.split(b"\n")]
    if not whole.split(b"\n")[-1]:
        expected.pop()
    assert printed(*writes) == expected
