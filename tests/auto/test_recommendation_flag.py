"""`--recommendation`: training by a recommendation that was computed before."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from auto.inputs import Inputs, check_no_path, read
from cli.runs import SMALL, fails, write_images

from hf_tl.advisor.recommendation import RECORD
from hf_tl.cli import main
from hf_tl.config import RECOMMENDED_STRATEGY


def test_a_recommendation_is_trained_and_recorded(inputs: Inputs, recommended: Path, tmp_path: Path) -> None:
    """The model is the recommended one of the named ones; its strategy may be shortened."""
    advice, out = tmp_path / "advice", tmp_path / "out"
    shutil.copytree(recommended, advice)
    strategy = json.loads((advice / RECOMMENDED_STRATEGY).read_text())
    for phase in strategy["phases"]:
        phase["epochs"] = 1
    (advice / RECOMMENDED_STRATEGY).write_text(json.dumps(strategy))
    main(["train", *inputs.flags(), "--recommendation", str(advice), *SMALL, "--output_dir", str(out)])
    record, card = read(out), (out / "README.md").read_text()
    written = json.loads((advice / RECORD).read_text())
    assert record["strategy"] == strategy
    assert record["model"]["architecture"] == Path(written["backbone"]).name
    published = record["recommendation"]
    assert published["reason"] == written["reason"].replace(f"{inputs.root}/", "")
    names = [measured.pop("backbone") for measured in published["evidence"]]
    assert names == [Path(measured.pop("backbone")).name for measured in written["evidence"]]
    assert published["evidence"] == written["evidence"]
    assert "Before training, hf_tl's advisor evaluated" in card
    assert "| Stage depth |" not in card
    assert "--recommendation advice" in record["command"]
    assert record["settings"]["recommendation"] == "advice"
    check_no_path(inputs, out)


def without(*names: str) -> Callable[[dict[str, Any]], object]:
    def spoil(record: dict[str, Any]) -> object:
        *path, last = names
        for name in path:
            record = record[name][0] if isinstance(record[name], list) else record[name]
        return record.pop(last)

    return spoil


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (without("data", "fingerprint"), "found unusable content (KeyError: 'fingerprint')"),
        (without("evidence", "depths"), "found unusable content (KeyError: 'depths')"),
        (without("warnings"), "found unusable content (KeyError: 'warnings')"),
        (lambda record: record.update(schema_version=99), "expected schema version 2, found 99"),
        (lambda record: record.update(backbone=None), "found unusable content (TypeError"),
        (lambda record: record.update(backbone="timm/other"), "is for another model than"),
        (lambda record: record["data"].update(fingerprint="0"), "is for other images (colors) than those of --dataset"),
    ],
)
def test_recommendations_that_do_not_fit_are_refused(
    inputs: Inputs,
    recommended: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[dict[str, Any]], object],
    said: str,
) -> None:
    """All before anything is trained."""
    advice = tmp_path / "advice"
    shutil.copytree(recommended, advice)
    record = json.loads((advice / RECORD).read_text())
    spoil(record)
    (advice / RECORD).write_text(json.dumps(record))
    flags = ["--recommendation", str(advice), *SMALL, "--output_dir", str(tmp_path / "out")]
    assert said in fails(["train", *inputs.flags(), *flags], capsys)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [None, b"", b"[1, 2]", b"{", b"\xff\xfe"])
def test_a_file_that_is_no_recommendation(
    inputs: Inputs, recommended: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None
) -> None:
    shutil.copytree(recommended, tmp_path / "advice")
    (tmp_path / "advice" / RECORD).unlink()
    if content is not None:
        (tmp_path / "advice" / RECORD).write_bytes(content)
    flags = ["--recommendation", str(tmp_path / "advice"), *SMALL, "--output_dir", str(tmp_path / "out")]
    assert "expected a folder with the recommendation.json" in fails(["train", *inputs.flags(), *flags], capsys)
    assert not (tmp_path / "out").exists()


def test_other_images_and_another_model_are_refused(
    inputs: Inputs, recommended: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_images(tmp_path / "other", 9)
    flags = ["--recommendation", str(recommended), *SMALL, "--output_dir", str(tmp_path / "out")]
    said = fails(["train", "--model", inputs.models[0], "--dataset", str(other), *flags], capsys)
    assert "is for other images (colors)" in said
    said = fails(["train", "--model", "timm:test_vit", "--dataset", inputs.images, *flags], capsys)
    assert "is for another model than timm:test_vit; use --model" in said
    assert not (tmp_path / "out").exists()


def test_another_spelling_of_the_path_is_accepted(
    inputs: Inputs, recommended: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run gets as far as the checks at the loading of the model."""
    chosen = Path(json.loads((recommended / RECORD).read_text())["backbone"])
    indirect = str(chosen.parent / "colors" / ".." / chosen.name)
    flags = ["--recommendation", str(recommended), *SMALL, "--output_dir", str(tmp_path / "out")]
    flags += ["--test_time_flip", "--horizontal_flip", "false"]
    said = fails(["train", "--model", indirect, "--dataset", inputs.images, *flags], capsys)
    assert "--test_time_flip averages the logits of an image and its mirror image" in said
