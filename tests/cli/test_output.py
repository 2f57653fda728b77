"""Output of running commands: to files, to terminals, and with `--quiet`."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from backbones.checkpoints import save_transformers, tiny_vit

from hf_tl.cli import main

REPOSITORY = Path(__file__).parents[2]
TRAIN = ["train", "--model", "timm:test_resnet", "--no_pretrained", "--image_size", "32", "--cpu_threads", "1"]
TRAIN += ["--report_to", "none", "--epochs", "2"]


def start(words: list[str], folder: Path, out: int, err: int) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "hf_tl", *words]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=out, stderr=err)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Return the output and the messages of a training, whose streams are files."""
    folder = tmp_path_factory.mktemp("files")
    with (folder / "out.txt").open("wb") as out, (folder / "err.txt").open("wb") as err:
        assert start([*TRAIN, "-o", "model"], folder, out.fileno(), err.fileno()).wait(300) == 0
    return tuple((folder / f"{name}.txt").read_bytes().decode() for name in ("out", "err"))  # type: ignore[return-value]


def test_progress_in_a_file_is_a_line_every_tenth(written: tuple[str, str]) -> None:
    _, err = written
    assert "\r" not in err
    assert "\x1b" not in err
    steps = [int(number) for number in re.findall(r"^Phase 1/1 \(.+\): (\d+)% \(", err, re.MULTILINE)]
    assert [number // 10 for number in steps] == list(range(1, 11))
    assert all(re.fullmatch(r".+: \d+% \([\d,]+ of [\d,]+.*\)", line) for line in err.splitlines())


def test_messages_in_a_file_are_lines_in_the_order_of_what_happens(written: tuple[str, str]) -> None:
    out, _ = written
    starts = ["Data ", "Model ", "Strategy ", "Trained phase 1/1 ", "Saving ", "Evaluating ", "Checking "]
    starts += ["Test accuracy ", "Validation accuracy ", "Checkpoint ", "Saved in ", "Load it"]
    places = [[line.startswith(start) for line in out.splitlines()].index(True) for start in starts]
    assert places == sorted(places)
    assert "\r" not in out
    assert "" not in out.splitlines()
    result = r"training loss \d+\.\d+, validation accuracy [\d.]+% \(144 images, 95% CI .+\)"
    epochs = [line for line in out.splitlines() if line.startswith("Epoch ")]
    assert [line.partition(":")[0] for line in epochs] == ["Epoch 1 of 2", "Epoch 2 of 2"]
    assert all(re.fullmatch(rf"Epoch \d of 2: {result}", line) for line in epochs)
    validation = r"validation accuracy [\d.]+% \(144 images, 95% CI .+\)"
    assert re.search(rf"^Trained phase 1/1 \(head\): training loss \d\.\d+, {validation} in .+ s$", out, re.MULTILINE)


def test_bars_vanish_from_a_terminal(tmp_path: Path) -> None:
    pty, termios = pytest.importorskip("pty"), pytest.importorskip("termios")
    reader, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (40, 120))
    process = start([*TRAIN, "-o", "model"], tmp_path, terminal, terminal)
    os.close(terminal)
    text = b""
    while True:
        try:
            chunk = os.read(reader, 65536)
        except OSError:  # the process has ended
            break
        if not chunk:
            break
        text += chunk
    os.close(reader)
    assert process.wait(60) == 0
    screen = shown(text.decode())
    assert "step/s" in text.decode()
    assert not [line for line in screen if "step/s" in line or "image/s" in line or "it/s" in line]
    assert any(line.startswith("Trained phase 1/1 ") for line in screen)


def shown(text: str) -> list[str]:
    """Return the lines that a terminal shows: carriage returns go to the start of a line, `ESC [A` one line up."""
    screen, row, column = [""], 0, 0
    for part in re.findall(r"\r|\n|\x1b\[A|[^\r\n\x1b]+", text):
        if part == "\r":
            column = 0
        elif part == "\n":
            row += 1
            screen += [""] * (row == len(screen))
        elif part == "\x1b[A":
            row -= 1
        else:
            line = screen[row].ljust(column)
            screen[row], column = line[:column] + part + line[column + len(part) :], column + len(part)
    return [line.rstrip() for line in screen]


def test_quiet_is_quiet_and_evaluate_shows_percentages_with_intervals(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Use a transformers model, whose loading and saving would show bars and a report."""
    vit, out, log = save_transformers(tiny_vit(), tmp_path / "vit"), str(tmp_path / "model"), tmp_path / "log"
    with log.open("wb") as file:
        words = ["train", "--model", str(vit), *TRAIN[6:], "--quiet", "-o", out]
        assert start(words, tmp_path, file.fileno(), file.fileno()).wait(300) == 0
    assert log.read_text() == ""
    capfd.readouterr()
    main(["evaluate", out, "--dataset", "digits"])
    text, err = capfd.readouterr()
    assert "it/s" not in err
    first, *rows = text.splitlines()
    assert first == "test: 360 images"
    assert rows.pop(0).startswith("data: test split of digits")
    interval = r"\(95% CI \d+\.\d–\d+\.\d%\)"
    assert re.fullmatch(rf"  accuracy       \d+\.\d% {interval}", rows[0])
    assert re.fullmatch(rf"  top5_accuracy  \d+\.\d% {interval}", rows[1])
    assert re.fullmatch(r"  macro_f1       \d\.\d{4} \(95% CI \d\.\d+–\d\.\d+\)", rows[2])
    assert re.fullmatch(r"  loss           \d+\.\d{4}", rows[3])
