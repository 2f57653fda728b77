"""`hf-tl evaluate` on exported models: images, training images, temperature and metrics are those of their model."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from cli.runs import fails, write_images
from exporting.trained import INSTALLED, train_and_export
from fuzzing.mutations import mutate_json
from fuzzing.reading import PARTS, fuzz
from parts import parts
from PIL import Image

import hf_tl
from hf_tl.cli import main
from hf_tl.errors import DataError
from hf_tl.evaluation.holdout.exported import ExportedClassifier
from hf_tl.evaluation.holdout.opening import load_classifier
from hf_tl.predicting.evaluate import Evaluation, evaluate
from hf_tl.record import LearnedFrom, read_record, write_record
from hf_tl.runtime.origin import origin_of
from hf_tl.runtime.runners import RUNTIMES

pytest.importorskip("onnxscript")
UNKNOWN = "hf_tl cannot tell whether"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_and_export(tmp_path_factory.mktemp("run"))


@pytest.fixture
def holdout(model: Path, tmp_path: Path) -> Path:
    """Return new images, with copies of images of the training among them."""
    folder = write_images(tmp_path / "holdout", 35)
    for number in range(6):
        shutil.copyfile(model.parent / "images" / "red" / f"{number}.png", folder / "red" / f"copy-{number}.png")
    return folder


def plain(evaluation: Evaluation) -> dict[str, Any]:
    """Return everything that an evaluation says, without the metrics that follow rounding."""
    measured = evaluation.measured
    return {
        "images": (evaluation.data, evaluation.fingerprint, evaluation.split, evaluation.images, measured.split_digest),
        "training images": (evaluation.left_out, evaluation.learned, evaluation.unknown, evaluation.notes),
        "weights": (measured.weights_digest, evaluation.temperature),
        "predictions": (measured.confusion, evaluation.accuracy),
        "notes": (evaluation.labels, evaluation.problem, evaluation.data_notes, evaluation.metric_notes),
    }


def write_other_record(model: Path, folder: Path) -> None:
    """Write the record of a model that was trained on other images, and their digests."""
    folder.mkdir()
    record = read_record(model)
    learned = LearnedFrom().plus("other images", "train", 1, [b"a" * 32])
    write_record(replace(record, learned_from=learned.splits), folder)
    learned.save(folder)


@pytest.mark.parametrize("name", INSTALLED)
def test_an_export_is_evaluated_as_its_model(model: Path, holdout: Path, name: str) -> None:
    expected = evaluate(model, holdout)
    assert expected.left_out > 0
    assert expected.images >= 100, "a network of torch is folded"
    assert expected.temperature is not None
    for exported in (model / name, model / name / RUNTIMES[name].file):
        evaluation = evaluate(exported, holdout)
        assert plain(evaluation) == plain(expected)
        assert evaluation.metrics == pytest.approx(expected.metrics, abs=1e-5)
        for key in ("before", "after"):
            ours, true = (each.measured.calibration[key] for each in (evaluation, expected))
            assert ours["ece"] == pytest.approx(true["ece"], abs=1e-5)


def test_the_dataset_of_the_training_has_the_splits_of_the_training(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = model.parent / "images"
    for flags in ([], ["--split", "validation"]):
        outputs = []
        for each in (model, model / "onnx"):
            main(["evaluate", str(each), "--dataset", str(images), *flags])
            outputs.append(capsys.readouterr().out.splitlines()[0])
        assert outputs[0] == outputs[1]
        assert outputs[0].startswith(flags[-1] if flags else "test")
    text = fails(["evaluate", str(model / "onnx"), "--dataset", str(images), "--split", "train"], capsys)
    assert "train images are training images of the model, and no other is there" in text


def test_corruptions_are_measured_on_the_pixels_of_the_export(model: Path, holdout: Path) -> None:
    expected, actual = (evaluate(each, holdout, corruptions=True).robustness for each in (model, model / "onnx"))
    assert expected is not None
    assert actual is not None
    assert actual.input_size == expected.input_size == (32, 32)
    for ours, true in zip(actual.results, expected.results, strict=True):
        assert ours.metrics["accuracy"] == pytest.approx(true.metrics["accuracy"], abs=0.02)
    assert actual.mean == pytest.approx(expected.mean, abs=0.02)


def test_a_quantized_file_has_the_training_images_of_its_model_and_not_its_temperature(
    model: Path, holdout: Path
) -> None:
    expected = evaluate(model, holdout)
    evaluation = evaluate(model / "onnx" / "model_int8.onnx", holdout)
    assert evaluation.left_out == expected.left_out
    assert evaluation.notes == expected.notes
    assert evaluation.measured.weights_digest != expected.measured.weights_digest
    assert evaluation.temperature is None


def test_digests_are_found_around_the_export_and_beside_it_and_nowhere_else(
    model: Path, holdout: Path, tmp_path: Path
) -> None:
    (tmp_path / "damaged").mkdir()
    for name in ("run.json", "learned_from.npz"):
        (tmp_path / "damaged" / name).write_bytes(b"{")
    write_other_record(model, tmp_path / "another")
    alone = shutil.copytree(model / "onnx", tmp_path / "alone" / "onnx")
    beside = shutil.copytree(model / "onnx", tmp_path / "beside")
    shutil.copytree(model, tmp_path / "model")
    known = evaluate(beside, holdout)
    assert plain(known) == plain(evaluate(model, holdout))
    unknown = evaluate(alone, holdout)
    assert unknown.left_out == 0
    assert UNKNOWN in unknown.notes[0]
    assert unknown.temperature == known.temperature is not None


def test_an_export_elsewhere_finds_its_training_images_in_the_dataset_of_the_training(
    model: Path, tmp_path: Path
) -> None:
    """The record states seed and shares, by which the splits are drawn again, as those of a published model are."""
    alone = shutil.copytree(model / "onnx", tmp_path / "alone" / "onnx")
    images = model.parent / "images"
    assert plain(evaluate(alone, images)) == plain(evaluate(model, images))
    with pytest.raises(DataError, match="train images are training images of the model"):
        evaluate(alone, images, split="train")


def test_another_file_in_its_place_has_no_training(model: Path, holdout: Path, tmp_path: Path) -> None:
    """Neither training images nor temperature of a record are those of a file that was not made from its weights."""
    folder = shutil.copytree(model, tmp_path / "out") / "onnx"
    shutil.copyfile(folder / "model_int8.onnx", folder / "model.onnx")
    evaluation = evaluate(folder, holdout)
    assert UNKNOWN in evaluation.notes[0]
    assert evaluation.temperature is None
    assert load_classifier(folder).record is None


def test_a_record_of_other_weights_leaves_training_images_unknown(model: Path, holdout: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(model, tmp_path / "out") / "onnx"
    report = json.loads((folder / "export.json").read_text())
    report["model"]["weights_digest"] = "0" * 64
    (folder / "export.json").write_text(json.dumps(report))
    evaluation = evaluate(folder, holdout)
    assert evaluation.left_out == evaluate(model, holdout).left_out
    assert UNKNOWN in evaluation.notes[-1]
    assert evaluation.temperature is None


def test_an_export_of_a_model_in_memory_states_the_weights_that_it_was_made_from(
    model: Path, holdout: Path, tmp_path: Path
) -> None:
    loaded, _ = hf_tl.load(model)
    same = hf_tl.export(loaded, "onnx", tmp_path / "same", dataset=holdout)
    assert load_classifier(same).record == load_classifier(model).record
    torch.nn.init.zeros_(next(loaded.parameters()))
    changed = hf_tl.export(loaded, "onnx", tmp_path / "changed", dataset=holdout)
    assert load_classifier(changed).weights_digest != load_classifier(model).weights_digest
    assert UNKNOWN in evaluate(changed, holdout).notes[0]


def test_autocast_does_not_reach_the_runtime_of_an_exported_file(model: Path) -> None:
    pixels = torch.rand(2, 3, 32, 32)
    for name in INSTALLED:
        network = load_classifier(model / name).network
        expected = network(pixel_values=pixels).logits
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(network(pixel_values=pixels).logits, expected)


@pytest.mark.parametrize("part", parts(PARTS))
def test_a_mutated_report_is_read_or_refused(model: Path, tmp_path: Path, part: int) -> None:
    folder = shutil.copytree(model / "onnx", tmp_path / "onnx")
    fuzz(folder / "export.json", mutate_json, lambda: origin_of(folder / "model.onnx"), part)


def test_an_exported_model_describes_itself_without_a_path(model: Path) -> None:
    classifier = ExportedClassifier.open(model / "onnx" / "model.onnx")
    expected = load_classifier(model).describe()
    assert classifier.describe() == {**expected, "runtime": "ONNX Runtime"}
    assert classifier.name == "onnx/model.onnx"


@pytest.mark.parametrize("options", [{"in_chans": 1}, {"problem_type": "multi_label_classification"}], ids=str)
def test_gray_and_multi_label_exports_are_classifiers_as_their_models(
    model: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    network, _ = hf_tl.load_backbone("timm:test_resnet", ["a", "b"], "transfer", pretrained=False, **options)
    images = model.parent / "images"
    exported = load_classifier(hf_tl.export(network, "onnx", tmp_path / "onnx", dataset=images))
    expected = load_classifier(network)
    assert exported.labels == expected.labels
    assert exported.problem is expected.problem
    assert exported.input_size == expected.input_size
    assert exported.scaling == expected.scaling
    for file in sorted(images.glob("*/0.png")):
        pixels = [each.transform(Image.open(file)) for each in (exported, expected)]
        assert torch.allclose(*pixels, atol=1e-5)
        with torch.no_grad():
            logits = [each.network.eval()(pixel_values=pixels[0][None]).logits for each in (exported, expected)]
        assert torch.allclose(*logits, atol=1e-4)
