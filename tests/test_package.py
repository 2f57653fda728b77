"""The package as installed: cost of the import, exports, content of the wheel."""

import re
import subprocess
import sys
import zipfile
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


def test_every_exported_name_resolves_and_is_documented() -> None:
    readme = (REPOSITORY / "hf_tl" / "README.md").read_text(encoding="utf-8")
    assert hf_tl.__all__ == sorted(hf_tl.__all__)
    for name in hf_tl.__all__:
        assert getattr(hf_tl, name).__doc__, name
        assert re.search(rf"\b{name}\b", readme), f"{name} is not in hf_tl/README.md"


def test_a_wheel_holds_the_card_template_and_works_elsewhere(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", str(tmp_path)]
    subprocess.run([*build, str(REPOSITORY)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "site")
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
