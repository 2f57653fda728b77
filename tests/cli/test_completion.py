"""`hf-tl completion`: the script in a real bash."""

import shutil
import subprocess
from pathlib import Path

import pytest

from hf_tl.cli import COMMANDS, PARSERS, main
from hf_tl.cli.completion import completion_script

BASH = shutil.which("bash")
SCRIPTS = {
    shell: completion_script(shell, {name: make() for name, make in PARSERS.items()}) for shell in ("bash", "zsh")
}


def completions(*words: str) -> list[str]:
    """Return the words that bash offers for the last word of a command line."""
    line = " ".join(f"'{word}'" for word in words)
    program = f"{SCRIPTS['bash']}\nCOMP_WORDS=({line})\nCOMP_CWORD={len(words) - 1}\n_hf_tl\n"
    program += 'printf "%s\\n" "${COMPREPLY[@]}"'
    done = subprocess.run([str(BASH), "-u", "-c", program], check=True, capture_output=True, text=True)
    assert not done.stderr
    return done.stdout.split()


needs_bash = pytest.mark.skipif(BASH is None, reason="no bash")


@needs_bash
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["hf-tl", "eval"], ["evaluate"]),
        (["hf-tl", "train", "--layer"], ["--layer_decay"]),
        (["hf-tl", "train", "--no"], ["--no_pretrained", "--norm", "--no_keep_memory"]),
        (["hf-tl", "train", "--strategy", "f"], ["finetune", "full"]),
        (["hf-tl", "export", "out", "--form"], ["--format"]),
        (["hf-tl", "export", "out", "--format", "torch_"], ["torch_export"]),
        (["hf-tl", "cache", "c"], ["clear"]),
        (["hf-tl", "predict", "out", ""], []),  # file names, by bash itself
        (["hf-tl", "nothing", "--x"], []),
    ],
)
def test_bash_completes(words: list[str], expected: list[str]) -> None:
    assert completions(*words) == expected


@needs_bash
def test_bash_offers_all_commands() -> None:
    assert completions("hf-tl", "") == [*COMMANDS, "--help", "--version"]


@needs_bash
@pytest.mark.parametrize("shell", SCRIPTS)
def test_the_script_parses(shell: str) -> None:
    subprocess.run([str(BASH), "-n"], input=SCRIPTS[shell], check=True, text=True)


@pytest.mark.skipif(shutil.which("zsh") is None, reason="no zsh")
def test_zsh_reads_the_script(tmp_path: Path) -> None:
    done = subprocess.run(["zsh", "-f"], input=SCRIPTS["zsh"], check=True, capture_output=True, text=True, cwd=tmp_path)
    assert not done.stderr


def test_the_command_prints_the_script(capsys: pytest.CaptureFixture[str]) -> None:
    for shell, script in SCRIPTS.items():
        main(["completion", shell])
        assert capsys.readouterr().out == script
