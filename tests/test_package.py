"""The package as installed: cost of the import, exports, content of the wheel."""

import doctest
import inspect
import re
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import hf_tl

REPOSITORY = Path(__file__).parents[1]
HEAVY = {"torch", "timm", "transformers", "datasets", "matplotlib"}


def loaded_modules(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print('\\n'.join(sys.modules))"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "code", ["import hf_tl", "import hf_tl.strategy", "import hf_tl.cli; hf_tl.cli.main(['--help'])"]
)
def test_starting_imports_no_heavy_library(code: str) -> None:
    assert not HEAVY & loaded_modules(code)


def test_public_names_are_sorted_and_on_the_page_of_the_package() -> None:
    readme = (REPOSITORY / "hf_tl" / "README.md").read_text(encoding="utf-8")
    assert hf_tl.__all__ == sorted(hf_tl.__all__)
    assert not [name for name in hf_tl.__all__ if not re.search(rf"\b{name}\b", readme)]


@pytest.mark.parametrize("name", hf_tl.__all__)
def test_a_public_name_is_documented_with_an_example_that_runs(name: str) -> None:
    """`pytest --doctest-modules hf_tl` runs the examples; it finds them in the modules that define the names."""
    value = getattr(hf_tl, name)
    assert (value.__doc__ or "").partition("\n")[0].endswith(".")
    assert value.__module__.startswith("hf_tl.")
    [test] = doctest.DocTestFinder(recurse=False).find(value, name)
    assert [example for example in test.examples if doctest.SKIP not in example.options]


@pytest.mark.parametrize("name", hf_tl.__all__)
def test_a_public_name_is_typed(name: str) -> None:
    value = getattr(hf_tl, name)
    members = [value] if inspect.isfunction(value) else [member for key, member in vars(value).items() if key[0] != "_"]
    if inspect.isclass(value) and "__init__" in vars(value):
        members.append(value.__init__)
    for member in filter(inspect.isfunction, members):
        signature = inspect.signature(member)
        parameters = [each for each in signature.parameters.values() if each.name not in ("self", "cls")]
        assert inspect.Signature.empty not in [signature.return_annotation, *(each.annotation for each in parameters)]


def test_the_examples_are_run_on_each_commit() -> None:
    assert "pytest --doctest-modules hf_tl\n" in (REPOSITORY / ".ci" / "run").read_text(encoding="utf-8")


def test_the_citation_names_the_version() -> None:
    assert f"version = {{{hf_tl.__version__}}}" in (REPOSITORY / "README.md").read_text(encoding="utf-8")


def test_a_wheel_has_the_card_template_and_a_description_without_links_to_files(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", str(tmp_path)]
    subprocess.run([*build, str(REPOSITORY)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "site")
    (file,) = (tmp_path / "site").glob("*.dist-info/METADATA")
    metadata = Parser().parsestr(file.read_text(encoding="utf-8"))
    assert metadata["Version"] == hf_tl.__version__
    links = re.findall(r"\]\(([^)]+)\)", metadata.get_payload())
    assert links == [link for link in links if link.startswith("https://")], "they lead nowhere outside the repository"
    assert metadata.get_payload().startswith("# hf_tl\n")
    assert "hf_tl/model_cards/template.md" in names
    assert not [name for name in names if name.startswith(("tests/", "scripts/"))]
    code = (
        f"import sys; sys.path[:0] = {[str(tmp_path / 'site'), str(REPOSITORY / 'tests')]!r}\n"
        "import hf_tl; from publish.records import make_record\n"
        f"assert hf_tl.__file__.startswith({str(tmp_path)!r}), hf_tl.__file__\n"
        "from hf_tl.card.card import render_card\n"
        "print(render_card(make_record()).splitlines()[0])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "---"
