import io
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tqdm.auto import tqdm

from hf_tl.reporting.console import TolerantStream, encodable, log_level, progress_bar, say, tolerant_streams

REPOSITORY = Path(__file__).parents[2]
TEXT = "Saving … café 猫 →"


class Terminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


def stream(encoding: str, kind: type[io.TextIOWrapper] = io.TextIOWrapper) -> io.TextIOWrapper:
    return kind(io.BytesIO(), encoding=encoding, newline="\n")


def written(stream: io.TextIOWrapper) -> bytes:
    stream.flush()
    raw = stream.buffer
    assert isinstance(raw, io.BytesIO)
    return raw.getvalue()


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("ascii", r"Saving ... caf\xe9 \u732b ->"),
        ("latin-1", r"Saving ... café \u732b ->"),
        ("cp1252", r"Saving ... café \u732b ->"),
        ("utf-8", TEXT),
    ],
)
def test_what_a_stream_cannot_encode_is_replaced(monkeypatch: pytest.MonkeyPatch, encoding: str, expected: str) -> None:
    out = stream(encoding)
    monkeypatch.setattr(sys, "stdout", out)
    say(None, TEXT)
    assert written(out) == f"{expected}\n".encode(encoding)


def test_what_it_can_encode_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    assert encodable("Saving … 猫", "utf-8") == "Saving … 猫"
    assert encodable("Saving … café", "cp1252") == "Saving … café"


def test_no_stream_and_a_closed_one(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = stream("utf-8")
    closed.close()
    for out in (None, closed):
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", out)
        with tolerant_streams():
            say(None, TEXT)
            with progress_bar(total=2) as bar:
                bar.update()


def test_a_line_is_printed_above_an_open_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    both = stream("utf-8", Terminal)
    monkeypatch.setattr(sys, "stdout", both)
    monkeypatch.setattr(sys, "stderr", both)
    for make in (progress_bar, tqdm):
        with tolerant_streams(), make(total=2, ascii=True) as bar:
            bar.update()
            say(None, "a line")
    assert written(both).decode().count("\ra line\n") == 2


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_half_a_character_is_written_as_its_code_point(encoding: str) -> None:
    """Python reads the bytes of a file name that are no text as such halves."""
    out = stream(encoding)
    TolerantStream(out).write("a\udcff")
    assert written(out) == b"a\\udcff"


@pytest.mark.parametrize(
    ("total", "step", "initial", "expected"),
    [
        (40, 1, 0, [10, 20, 30, 40, 50, 60, 70, 80, 90, 100]),
        (40, 1, 30, [80, 90, 100]),
        (3, 1, 0, [33, 67, 100]),
        (100, 33, 0, [33, 66, 99]),
        (0, 1, 0, []),
    ],
)
def test_progress_in_a_file_is_a_line_every_tenth(
    total: int, step: int, initial: int, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    err = stream("utf-8")
    monkeypatch.setattr(sys, "stderr", err)
    with progress_bar(total=total, initial=initial, desc="Work", unit="step") as bar:
        bar.set_postfix_str("loss 1")
        for _ in range((total - initial) // step):
            bar.update(step)
            say(None, "between the lines")
    lines = written(err).decode().splitlines()
    assert [int(line.split()[1].removesuffix("%")) for line in lines] == expected
    assert all(line.startswith("Work: ") and line.endswith(", loss 1)") for line in lines)
    assert b"\r" not in written(err)


def test_a_bar_vanishes_from_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    err = stream("utf-8", Terminal)
    monkeypatch.setattr(sys, "stderr", err)
    with progress_bar(total=2, mininterval=0) as bar:
        bar.update(2)
    text = written(err).decode()
    assert "100%" in text
    assert text.split("\r")[-2].isspace()
    assert "\n" not in text


@pytest.mark.parametrize(("level", "is_shown"), [("info", True), ("warning", False), ("error", False)])
def test_the_logger_decides_what_is_shown(
    level: str, is_shown: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    logger = logging.getLogger("hf_tl")
    before = logger.level
    with log_level(level):
        say(None, "a message")
        logging.getLogger("hf_tl.some.module").error("an error")
        with progress_bar(total=1) as bar:
            bar.update()
    assert logger.level == before
    out, err = capsys.readouterr()
    assert out == ("a message\n" if is_shown else "")
    assert err.startswith("an error\n")
    assert ("100%" in err) == is_shown


def test_an_application_can_take_the_messages(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    logger = logging.getLogger("hf_tl")
    monkeypatch.setattr(logger, "propagate", True)
    monkeypatch.setattr(logger, "handlers", [])
    say(None, "a message of 5%")
    assert [record.getMessage() for record in caplog.records] == ["a message of 5%"]
    assert capsys.readouterr() == ("", "")


def test_one_stream_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    out = stream("ascii")
    assert TolerantStream(TolerantStream(out)) == out
    assert TolerantStream(out).encoding == "ascii"
    assert TolerantStream(out) != TolerantStream(stream("ascii"))


PRINTING = """
import sys
from hf_tl.reporting.console import progress_bar, say, tolerant_streams

def talk():
    with progress_bar(total=3000, mininterval=0) as bar:
        for number in range(3000):
            say(None, f"line {number} " + "x" * 100)
            bar.update()

if sys.argv[1] == "command":
    with tolerant_streams():
        print("first")
        talk()
        print("last" * 10_000)
else:
    talk()
open(sys.argv[2], "w").write("done")
"""


@pytest.mark.parametrize("way", ["command", "library"])
def test_a_closed_pipe_does_not_end_the_process(tmp_path: Path, way: str) -> None:
    """Like `hf-tl train 2>&1 | head`."""
    reader, writer = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", PRINTING, way, str(tmp_path / "done")],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=writer,
        stderr=writer,
    )
    os.close(writer)
    assert os.read(reader, 10)
    os.close(reader)
    assert process.wait(60) == 0
    assert (tmp_path / "done").read_text() == "done"
