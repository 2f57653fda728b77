"""`--help` of all commands: what it lists, that it fits a screen, and that flags have the names it shows."""

import argparse
import contextlib
import dataclasses
import re
from importlib.metadata import version

import pytest

import hf_tl
from hf_tl.cli import COMMANDS, PARSERS, main
from hf_tl.config import RunConfig
from hf_tl.flags import ALIASES, COMMON, GROUPS, TrainParser, parse_run_config

LINES, COLUMNS = 58, 100
"""Size of a screen."""
FLAG = re.compile(r"^  (--?\w[\w-]*)(?:, (--?\w[\w-]*))?", re.MULTILINE)


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with contextlib.suppress(SystemExit):
        main(words)
    return capsys.readouterr().out


@pytest.mark.parametrize("words", [["--help"], *([name, "--help"] for name in COMMANDS)], ids=" ".join)
def test_help_fits_a_screen(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, *words).splitlines()
    assert len(lines) <= LINES
    assert max(map(len, lines)) <= COLUMNS


def test_help_follows_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    rows = [line for line in printed(capsys, "train", "--help-all").splitlines() if line.startswith(" " * 8)]
    assert max(map(len, rows)) <= 80


def test_the_overview_lists_each_command_once_and_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "--help")
    for name in COMMANDS:
        assert len(re.findall(rf"^  {name} ", text, re.MULTILINE)) == 1
    assert {"0", "1", "2", "130", "143"} <= set(re.findall(r"\d+", text.partition("exit codes")[2]))


def test_help_all_lists_each_flag_once_in_the_group_of_its_dataclass(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "train", "--help-all")
    assert "None" not in text
    for owner, title in GROUPS.items():
        section = re.split(r"\n\n", text.partition(f"\n{title}:\n")[2])[0]
        names = [name.removeprefix("--").removeprefix("no_") for name, _ in FLAG.findall(section)]
        assert sorted(set(names) - {"config"}) == sorted(field.name for field in dataclasses.fields(owner))
        assert len(names) == len(set(names))


def test_help_shows_the_flags_that_people_use(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "train", "--help")
    shown = {name for name, _ in FLAG.findall(text)}
    common = {f"--{name}" for names in COMMON.values() for name in names}
    assert shown == {*common, "-h", "--help-all", "--quiet", "--log_level"}
    assert f"{len(TrainParser().flags()) - len(shown)} more flags" in text
    assert text.count("\n  hf-tl train") == 3  # examples


def test_booleans_show_the_word_that_changes_something(capsys: pytest.CaptureFixture[str]) -> None:
    text = " ".join(printed(capsys, "train", "--help-all").split())
    assert "--no_pretrained start from random weights" in text
    assert "--no_keep_memory let glibc return freed memory to the system (slower on CPUs)" in text
    assert "--streaming read" in text
    assert "--refit, --no_refit after" in text
    assert " --pretrained" not in text


@pytest.mark.parametrize("flag", ["--keep_memory", "--no_keep_memory", "--no-keep-memory", "--keep-memory=false"])
def test_booleans_take_all_their_spellings(flag: str) -> None:
    assert parse_run_config([flag]).training.keep_memory == (flag == "--keep_memory")


def test_a_boolean_without_a_default_can_be_turned_off() -> None:
    assert [parse_run_config(words).strategy.refit for words in ([], ["--refit"], ["--no-refit"])] == [
        None,
        True,
        False,
    ]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_a_text_for_all_arguments(command: str) -> None:
    parser = PARSERS[command]()
    assert parser.description
    assert all(action.help for action in [*parser.flags(), *parser.positionals()])
    dashes = [action for action in parser.flags() if isinstance(action.metavar, str) and action.metavar == "TEXT"]
    assert all(action.dest.startswith("card_") for action in dashes), "say what text: a name, a folder, a file"


def test_aliases_are_shown_and_set_the_same_values(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "train", "--help")
    for name, alias in ALIASES.items():
        assert f"--{name}, {alias} " in text
    short = parse_run_config(["--epochs", "3", "--lr", "0.1", "--batch_size", "4", "-o", "out"])
    names = ["--num_train_epochs", "3", "--learning_rate", "0.1", "--per_device_train_batch_size", "4"]
    assert short == parse_run_config([*names, "--output_dir", "out"]) != RunConfig()
    assert parse_run_config(["--batch-size=5"]).training.per_device_train_batch_size == 5


@pytest.mark.parametrize("flag", ["--version", "-V"])
def test_version_names_hf_tl_and_the_libraries(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    own, libraries = printed(capsys, flag).splitlines()
    assert own == f"hf-tl {hf_tl.__version__}"
    for name in ("torch", "transformers", "timm"):
        assert f"{name} {version(name)}" in libraries.split(", ")


def test_the_nearest_command_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["evalute"])
    assert capsys.readouterr().err == "hf-tl: unknown command 'evalute'; did you mean evaluate?\n"


def test_all_commands_can_be_quiet() -> None:
    for parser in PARSERS.values():
        by_name = {action.dest: action for action in parser().flags()}
        assert {"quiet", "log_level", "help"} <= by_name.keys()
        assert isinstance(by_name["quiet"], argparse._StoreTrueAction)
