"""Systems other than Linux with UTF-8, simulated by removing features: real commands must still run."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from cli.runs import TINY, write_images

from hf_tl.cli import ERROR_STATUS

REPOSITORY = Path(__file__).parents[1]
SLOW = pytest.mark.slow

WINDOWS = """
import ctypes, errno, fcntl, os, stat, sys
from pathlib import Path

for name in ("posix_fallocate", "preadv", "pwrite", "pread", "sched_getaffinity"):
    delattr(os, name)

class Library(ctypes.CDLL):
    # no exchange of two folders in one step
    def __getattr__(self, name):
        if name == "renameat2":
            raise AttributeError(name)
        return super().__getattr__(name)

ctypes.CDLL = Library

def refused(*paths):
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), *map(str, paths))

real = {name: getattr(os, name) for name in ("open", "fsync", "rename", "replace", "unlink", "rmdir")}
watched = os.environ["WATCHED"]

def is_open(path):
    # Windows neither renames nor removes what this process has open, nor a folder with such a file
    path = os.path.abspath(os.fsdecode(path))
    if not path.startswith(watched):
        return False
    for number in os.listdir("/proc/self/fd"):
        try:
            held = os.readlink(f"/proc/self/fd/{number}")
        except OSError:
            continue
        if held == path or held.startswith(path + os.sep):
            return True
    return False

def open_(path, flags, *rest, **options):
    # os.walk and shutil.rmtree open folders by functions that Windows does not have
    if not isinstance(path, int) and os.path.isdir(path) and sys._getframe(1).f_code.co_filename.endswith(".py"):
        if "hf_tl" in sys._getframe(1).f_code.co_filename:
            refused(path)
    return real["open"](path, flags, *rest, **options)

def fsync(file):
    number = file if isinstance(file, int) else file.fileno()
    if stat.S_ISDIR(os.fstat(number).st_mode) or fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    real["fsync"](number)

def rename(old, new, **options):
    if os.path.exists(new) and str(new).startswith(watched):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(new))
    replace(old, new, **options)

def replace(old, new, **options):
    if is_open(old) or is_open(new) or (os.path.isdir(new) and str(new).startswith(watched)):
        refused(old, new)
    real["replace"](old, new, **options)

def unlink(path, **options):
    if "dir_fd" not in options and is_open(path):
        refused(path)
    real["unlink"](path, **options)

os.open, os.fsync, os.rename, os.replace, os.unlink, os.remove = open_, fsync, rename, replace, unlink, unlink
"""
COMMAND = "import sys; from hf_tl.__main__ import command; command()"

Done = subprocess.CompletedProcess[bytes]


def run(words: Sequence[str | Path], folder: Path, code: str = "", **environment: str) -> Done:
    """Run `hf-tl` in a process of its own, after some code."""
    folder.mkdir(exist_ok=True)
    variables = {
        **os.environ,
        "PYTHONPATH": str(REPOSITORY),
        "HF_TL_CACHE": str(folder / "features"),
        "WATCHED": str(folder),
        **environment,
    }
    words = [sys.executable, "-c", code + COMMAND, *map(str, words)]
    return subprocess.run(words, cwd=folder, env=variables, capture_output=True, check=False)


def succeeds(done: Done, folder: Path) -> str:
    """Check that a run saved its model, and return its output."""
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-3000:]
    assert b"Traceback" not in done.stderr
    assert b"Test accuracy" in done.stdout
    assert json.loads((folder / "run.json").read_text(encoding="utf-8"))
    assert (folder / "model.safetensors").is_file()
    return done.stdout.decode("latin-1")


def test_the_first_command_of_the_readme_on_windows(tmp_path: Path) -> None:
    done = run(["train"], tmp_path, WINDOWS)
    assert "Caching features" in succeeds(done, tmp_path / "runs" / "digits-tf_efficientnet_lite0-transfer")
    assert not list((tmp_path / "features").glob(".*"))


@pytest.fixture(scope="module")
def colors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "colors"
    write_images(folder / "train", 12)
    write_images(folder / "test", 4)
    return folder


STOP = """
from hf_tl.checkpoints import checkpoint
write = checkpoint.write_checkpoint
def stop(folder, step, *rest):
    write(folder, step, *rest)
    if step >= 4:
        raise SystemExit(3)
import hf_tl.checkpoints.saving as saving
saving.write_checkpoint = stop
"""


def test_phases_checkpoints_and_resuming_on_windows(tmp_path: Path, colors: Path) -> None:
    flags = [*TINY, "--dataset", str(colors), "--strategy", "finetune", "--num_train_epochs", "4", "--save_steps", "1"]
    words = ["train", *flags, "--per_device_train_batch_size", "8", "--output_dir", "out"]
    stopped = run(words, tmp_path, WINDOWS + STOP)
    assert stopped.returncode == 3, stopped.stderr.decode()[-3000:]
    assert {path.name for path in (tmp_path / "out" / "checkpoints").iterdir()} == {"step-00000003", "step-00000004"}
    done = run([*words, "--resume_from_checkpoint", "auto"], tmp_path, WINDOWS)
    assert "Resuming after step 4" in succeeds(done, tmp_path / "out")
    assert not (tmp_path / "out" / "checkpoints").exists()
    for words in (["card", "out"], ["evaluate", "out", "--dataset", str(colors)]):
        other = run(words, tmp_path, WINDOWS)
        assert other.returncode == 0, other.stderr.decode()[-3000:]


@pytest.mark.parametrize("encoding", [pytest.param("cp1252", marks=SLOW), pytest.param("latin-1", marks=SLOW), "ascii"])
def test_the_first_command_of_the_readme_in_other_encodings(tmp_path: Path, encoding: str) -> None:
    """The output names the folder of the trained model."""
    done = run(["train", "--num_train_epochs", "1", "--output_dir", "猫"], tmp_path, PYTHONIOENCODING=encoding)
    assert r"Saved in             \u732b" in succeeds(done, tmp_path / "猫")


def test_classes_of_other_scripts(tmp_path: Path) -> None:
    names = ["café", "猫"]
    colors = dict(zip(names, [(200, 40, 40), (40, 40, 200)], strict=True))
    write_images(tmp_path / "data" / "train", 8, colors)
    write_images(tmp_path / "data" / "test", 4, colors)
    words = ["train", *TINY, "--dataset", "data", "--num_train_epochs", "1", "--output_dir", "out", "--card_images"]
    done = run(words, tmp_path, PYTHONIOENCODING="ascii")
    succeeds(done, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))
    assert config["label_names"] == names
    assert "猫" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    image = next((tmp_path / "data" / "test" / "猫").iterdir())
    predicted = run(["predict", "out", str(image)], tmp_path, PYTHONIOENCODING="ascii")
    assert predicted.returncode == 0, predicted.stderr.decode()[-3000:]
    assert rb"\u732b" in predicted.stdout
    # in the C locale without UTF-8 mode, Python escapes non-ASCII characters in file names
    refused = run([*words, "--output_dir", "other"], tmp_path, LC_ALL="C", PYTHONUTF8="0")
    assert refused.returncode == ERROR_STATUS, refused.stderr.decode()[-3000:]
    assert b"set PYTHONUTF8=1" in refused.stderr.splitlines()[-1]


@SLOW
def test_the_first_command_of_the_readme_in_the_c_locale(tmp_path: Path) -> None:
    done = run(["train", "--num_train_epochs", "1"], tmp_path, LC_ALL="C", PYTHONUTF8="0")
    succeeds(done, tmp_path / "runs" / "digits-tf_efficientnet_lite0-transfer")


@pytest.mark.parametrize(
    ("number", "status", "message"),
    [(signal.SIGINT, 130, "hf-tl train: interrupted"), pytest.param(signal.SIGTERM, 143, "", marks=SLOW)],
)
def test_a_signal_ends_a_command(tmp_path: Path, number: int, status: int, message: str) -> None:
    """Ctrl-C ends in one line; SIGTERM during training writes a checkpoint after the current step, with status 143."""
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, "train"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "HF_TL_CACHE": str(tmp_path / "features")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # ignored in background jobs
    )
    assert process.stderr is not None
    messages = ""
    while "Features of train" not in messages:
        character = process.stderr.read(1)
        assert character, messages
        messages += character
    process.send_signal(number)
    rest = process.stderr.read()
    assert process.wait(60) == status, rest
    assert "Traceback" not in rest
    assert rest.strip().endswith(message)


def test_every_text_file_names_its_encoding() -> None:
    """Without one, Windows reads and writes in the encoding of the user's language."""
    ruff = [sys.executable, "-m", "ruff", "check", "--preview", "--isolated", "--select", "PLW1514", "--no-cache"]
    done = subprocess.run([*ruff, str(REPOSITORY / "hf_tl")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_all_output_is_written_by_the_console() -> None:
    """Any other output may raise for a terminal that cannot show it."""
    bare = re.compile(r"accelerator\.print\(|tqdm\.write\(|(?<!\w)tqdm\(")
    files = {file.name: bare.findall(file.read_text(encoding="utf-8")) for file in (REPOSITORY / "hf_tl").rglob("*.py")}
    assert {name for name, calls in files.items() if calls} <= {"console.py"}
    assert bare.findall('accelerator.print("x"); tqdm.write("x"); tqdm(range(2))'), "the pattern finds them"
