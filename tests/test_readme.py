"""The README and the pages of the rooms: commands parse, flags and links exist, code runs."""

import ast
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from backbones.checkpoints import save_timm, timm_network
from exporting.models import write_images
from pages import blocks

import hf_tl
from hf_tl.cli import PARSERS
from hf_tl.errors import ConfigError

REPOSITORY = Path(__file__).parents[1]
README = REPOSITORY / "README.md"
FOLDERS = ("hf_tl", "scripts", "tests")
PAGES = [README, *sorted(page for folder in FOLDERS for page in (REPOSITORY / folder).rglob("README.md"))]
LAUNCHERS = {
    "accelerate": {"--multi_gpu", "--use_fsdp", "--fsdp_version", "--dynamo_backend", "--mixed_precision"},
    "torchrun": {"--nproc_per_node"},
    "pytest": {"--durations", "--fast"},
}
"""Flags of other programs that the pages show; hf_tl is tested under both launchers in tests/training."""


def title(page: Path) -> str:
    return page.relative_to(REPOSITORY).as_posix()


def commands() -> Iterator[tuple[str, list[str]]]:
    for page in PAGES:
        for block in blocks(page, "bash"):
            for line in block.replace("\\\n", " ").splitlines():
                for command in line.split("&&"):
                    if words := shlex.split(command, comments=True):
                        yield title(page), words


def parse(words: list[str]) -> None:
    """Let a command of hf-tl parse its words."""
    PARSERS[words[0]]().parse(words[1:])


def check_script(words: list[str]) -> None:
    """Check that a script exists and has the flags that are given to it."""
    script = REPOSITORY / words[0]
    text = script.read_text(encoding="utf-8")
    for flag in (word.lstrip("-") for word in words[1:] if word.startswith("--")):
        assert re.search(rf'"--{flag}"|^    {flag}: ', text, re.MULTILINE), f"{script.name} has no --{flag}"


def check_launch(words: list[str]) -> None:
    """Check the flags of a launcher, and parse those of the script."""
    place = words.index("scripts/train.py")
    flags = {word for word in words[1:place] if word.startswith("--")}
    assert flags <= LAUNCHERS[words[0]], flags
    parse(["train", *words[place + 1 :]])


@pytest.mark.parametrize(("page", "words"), [pytest.param(*each, id=" ".join(each[1])) for each in commands()])
def test_commands_parse(page: str, words: list[str]) -> None:
    match words:
        case ["hf-tl", "--version"]:
            pass  # `tests/cli` runs it
        case ["hf-tl", *rest]:
            parse(rest)
        case ["accelerate" | "torchrun", *_]:
            check_launch(words)
        case ["python", "-m", "build"] | ["twine", "check", *_]:
            pass
        case ["python", *rest]:
            check_script(rest)
        case ["pip", "install", "-e", wanted]:
            extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
            assert wanted.strip(".[]") in extras["optional-dependencies"]
        case ["pip", "install", "--no-deps", "-e", "."] | ["pip", "install", "numpy", *_]:
            pass  # `tests/exporting/test_exported_models.py` takes away the other libraries
        case ["pytest", *rest]:
            assert all((REPOSITORY / word).exists() for word in rest if word.startswith("tests/"))
        case ["ruff" | "mypy", *_]:
            pass
        case _:
            pytest.fail(f"{page}: no test knows the command {words}")


def test_a_command_that_does_not_parse_is_noticed() -> None:
    with pytest.raises(ConfigError, match="unknown flag --strat"):
        parse(["train", "--strat", "full"])
    with pytest.raises(ConfigError, match="unknown flag --bits"):
        parse(["export", "DIR", "--bits", "8"])


@pytest.mark.parametrize("page", PAGES, ids=title)
def test_flags_in_the_text_exist(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    named = set(re.findall(r"`--([a-z][a-z_0-9]*)", text))
    known = {name.lstrip("-") for flags in LAUNCHERS.values() for name in flags}
    known |= {name.lstrip("-") for parser in PARSERS.values() for name in parser()._option_string_actions}
    assert named <= known


@pytest.mark.parametrize("page", PAGES, ids=title)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert link.startswith("https://") or (page.parent / link).exists(), link


@pytest.mark.parametrize("page", PAGES, ids=title)
def test_files_of_the_repository_exist(page: Path) -> None:
    named = re.findall(r"`((?:tests|scripts|hf_tl|model_cards)/[\w./-]+)`", page.read_text(encoding="utf-8"))
    assert not [name for name in named if not (REPOSITORY / name).exists()]


@pytest.mark.parametrize("page", PAGES, ids=title)
def test_modules_and_constants_exist(page: Path) -> None:
    """A page names tests and the modules of its room by their names, other modules by their place in `hf_tl`."""
    text = page.read_text(encoding="utf-8")
    folders = (page.parent, REPOSITORY, REPOSITORY / "hf_tl", REPOSITORY / "tests")
    known = {file.name for file in (*page.parent.rglob("*.py"), *(REPOSITORY / "tests").rglob("test_*.py"))}
    modules = set(re.findall(r"`([a-z_/]+\.py)`", text)) - known
    assert not [name for name in modules if not any((folder / name).exists() for folder in folders)]
    constants = set(re.findall(r"`(_?[A-Z]+_[A-Z_]+)`", text))
    files = [file for folder in FOLDERS for file in (REPOSITORY / folder).rglob("*.py")]
    code = "".join(file.read_text(encoding="utf-8") for file in files)
    assert not [name for name in constants if not re.search(rf"\b{name}\b", code)]


@pytest.mark.parametrize("page", PAGES, ids=title)
def test_python_compiles_and_its_names_are_public(page: Path) -> None:
    for code in blocks(page, "python"):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "hf_tl":
                assert node.attr in hf_tl.__all__, node.attr


def test_every_room_has_a_page() -> None:
    rooms = {path.parent for path in (REPOSITORY / "hf_tl").glob("*/__init__.py")}
    assert not [room.name for room in rooms if not (room / "README.md").exists()]
    readme = README.read_text(encoding="utf-8")
    assert not [room.name for room in rooms if f"(hf_tl/{room.name}/README.md)" not in readme]


def test_the_readme_lists_the_extras() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    table = README.read_text(encoding="utf-8").partition("| extra |")[2].partition("\n\n")[0]
    assert set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) == set(project["optional-dependencies"])


def test_the_readme_is_short() -> None:
    lines = README.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 200
    assert not [line for line in lines if len(line) > 120]


def test_the_readme_trains_in_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Run the first Python example on a small folder and network."""
    folder = save_timm(timm_network(), tmp_path / "backbone")
    write_images(tmp_path / "photos")
    code = next(code for code in blocks(README, "python") if "hf_tl.train(" in code)
    assert code.count('"timm/tf_efficientnet_lite0.in1k"') == 1
    monkeypatch.chdir(tmp_path)
    quick = code.replace('"timm/tf_efficientnet_lite0.in1k"', repr(str(folder))).replace(
        '"transfer"', '"transfer", epochs=1'
    )
    exec(quick, {})
    assert re.search(r"^\d+\.\d%$", capsys.readouterr().out, re.MULTILINE)
    assert (tmp_path / "photos-model" / "run.json").exists()
