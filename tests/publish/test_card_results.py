"""Statements of cards about results, calibration and training images."""

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from publish.cards import body_of
from publish.records import (
    EARLIER_WEIGHTS,
    evaluated,
    make_multi_label_record,
    put,
    with_interpolation,
    with_robustness,
    without_temperature,
)

from hf_tl.card.card import render_card
from hf_tl.card.summary import summarize
from hf_tl.record import LearnedSplit, Origin, PlainMeasured, RunRecord, Temperature


def test_card_of_a_multi_label_model() -> None:
    record = evaluated(make_multi_label_record())
    record = put(record, measured__test__intervals__mean_average_precision=(0.7512, 0.9001))
    card = render_card(record)
    body = body_of(card)
    for text in (
        "An image classification model for 3 labels, any number of them per image: `cat`, `dog`, `owl`. It is",
        "**Test mean average precision: 85.0%** (120 images, 95% CI 75.1–90.0%). Exact-match accuracy: 55.0% (95% CI ",
        "logits.sigmoid()[0]",
        "gives each label a probability of its own",
        "| Mean average precision (95% CI) | Micro F1 (95% CI) | Macro F1 (95% CI) |",
        "| test | 120 | 85.0% (75.1–90.0%) | 0.750 (0.",
        "An exact match is an image with all labels right.",
        "bootstrap for mean average precision and F1",
        "(ECE) of the probability of each class in each image on the test split, in 15 bins",
        "The mean average precision of test leaves out 1 label without images.",
        "![Loss and validation mean average precision by epoch, with phases](history.png)",
        "| `owl` | 120 | 20 | 0 |",
        "| all images | 360 | 60 | 120 |",
    ):
        assert text in body, text
    for wrong in (
        "softmax",
        "argmax",
        "Test accuracy",
        "one of its classes",
        "Top-5",
        "of validation leaves out",
        "confusion",
    ):
        assert wrong not in body
    results = ModelCard(card).data.to_dict()["model-index"][0]["results"][0]
    assert results["task"] == {"type": "image-classification", "name": "Multi-label image classification"}
    assert [(metric["type"], metric["name"], metric["value"]) for metric in results["metrics"]] == [
        ("mAP", "Mean average precision", 0.85),
        ("f1", "Micro F1", 0.75),
        ("f1", "Macro F1", pytest.approx(0.65)),
        ("accuracy", "Exact-match accuracy", pytest.approx(0.55)),
    ]
    assert ModelCard(card).data.tags == ["hf_tl", "timm", "multi-label-image-classification", "fine-tuning"]
    assert ModelCard(card).data.metrics == ["accuracy", "f1"]


def test_test_images_among_the_training_images_are_stated(record: RunRecord) -> None:
    record = put(record, measured__test__learned=7, measured__test__left_out=5)
    card = render_card(record)
    start, _, results = body_of(card).partition("## Results")
    assert "7 of the 120 test images were training images: not an estimate of generalization." in start
    assert "\n- 7 of the 120 test images were training images: not an estimate" in results
    assert "\n- 5 images of the test split left out: the weights had been trained on them.\n" in results
    assert "model-index" not in card, "the Hub ranks models by it"
    assert "7 of the 120" not in render_card(put(record, measured__test__learned=0))


def test_the_accuracy_of_a_plain_pipeline_is_stated_where_it_differs(record: RunRecord) -> None:
    plain = PlainMeasured({"transparency": 16, "16-bit gray": 4}, {"accuracy": 0.5})
    record = put(record, measured__test__plain=plain, data__splits__test__conversions={"transparency": 16})
    body = body_of(render_card(record))
    assert (
        "- Test accuracy: 92.5% (95% CI 86.4–96.0%) as evaluated by hf_tl, and 50.0% (95% CI 41.2–58.8%) by a plain "
        "pipeline(), which treats some images differently (transparency: 16, 16-bit gray: 4)." in body
    )
    assert "Images that hf_tl converts and a plain pipeline() does not: test: transparency 16." in body


def test_training_images_of_all_trainings_are_stated(record: RunRecord) -> None:
    chain = (LearnedSplit("cats", "train", 1000, "ca" * 32), *record.learned_from, LearnedSplit("old", "train", 5))
    earlier = Origin("trained", data="cats", strategy="transfer", earlier=record.origin, head="kept")
    body = body_of(render_card(put(record, learned_from=chain, origin=earlier)))
    assert (
        f"- `cats`, train: 1,000 images, digest `{'ca' * 32}`\n"
        f"- `pets`, train: 360 images, digest `{'tr' * 32}`\n- `old`, train: 5 images, content not recorded\n" in body
    )
    assert "With the images of earlier trainings, the weights were trained on up to 1,365 images.\n" in body
    unknown = (LearnedSplit("old", "train", 0), *record.learned_from)
    body = body_of(render_card(put(record, learned_from=unknown, origin=earlier)))
    assert "were trained on an unknown number of images.\n" in body
    assert "- `old`, train: number of images not recorded" in body


def test_images_are_shown_only_where_allowed(record: RunRecord) -> None:
    assert "mistakes.png" not in render_card(evaluated(record))
    assert "![Test images of the most confident errors](mistakes.png)" in render_card(evaluated(record, images=True))


@pytest.mark.parametrize(
    ("changes", "texts"),
    [
        (
            {},
            (
                "at the coefficient 0.7 (the nearest to 0 that is right on as many validation images as the best, "
                "within one standard error). "
                "Coefficient 0: the starting weights, with the head that they had when fine-tuning began. Coefficient "
                "1: the weights at the end of training. Weights between",
                "![Validation accuracy of interpolated weights by coefficient](interpolation.png)",
            ),
        ),
        (
            {"rule": "chosen", "head": "end", "kept": 0.5},
            (
                "at the coefficient 0.5 (chosen before training). Coefficient 0: the starting weights, with the head "
                "of the end, because they had no trained head.",
            ),
        ),
        ({"rule": "first training"}, ("(selected in the first training)",)),
    ],
)
def test_interpolated_weights_are_stated(record: RunRecord, changes: dict[str, Any], texts: tuple[str, ...]) -> None:
    record = with_interpolation(evaluated(record), **changes)
    body = body_of(render_card(record))
    for text in texts:
        assert text in body
    assert "interpolated at" not in render_card(put(record, interpolation=None))
    assert RunRecord.from_json(record.to_json()) == record
    coefficient = f"coefficient {changes.get('kept', 0.7)} between the weights before (0) and after fine-tuning (1), "
    assert coefficient in summarize(record, Path("out"))


def test_results_under_corruptions_have_a_section(record: RunRecord) -> None:
    body = body_of(render_card(with_robustness(evaluated(record))))
    section = body.partition("### Robustness\n")[2].partition("## Strategy")[0]
    for text in (
        "Test accuracy under corruptions: mean 60.0% (95% CI 55.1–64.3%), −27.5 points against clean images (95% CI "
        "−32.1 to −23.0).\n",
        "![Test accuracy under corruptions of three strengths](robustness.png)",
        "| Corruption | Clean | Weak | Medium | Strong |\n|---|--:|--:|--:|--:|\n| Gaussian noise (standard deviation "
        "0.08, 0.18, 0.38 of the range) | 92.5% (",
        "| 80.0% (70.0–90.0%) | 60.0% (50.0–70.0%) | 40.0% (30.0–50.0%) |",
        "[ImageNet-C](https://arxiv.org/abs/1903.12261)",
        "as the network sees them (160 × 160 pixels)",
    ):
        assert text in section, text
    assert "Robustness" not in render_card(evaluated(record))
    assert RunRecord.from_json(with_robustness(evaluated(record)).to_json()) == with_robustness(evaluated(record))


def test_a_missing_temperature_is_given_a_reason(record: RunRecord) -> None:
    card = render_card(without_temperature(evaluated(record), "no validation image is wrong"))
    assert "<summary>Calibration: expected calibration error 11.2%</summary>" in card
    assert "in 15 bins: 11.2%. Temperature scaling: none (no validation image is wrong).\n" in card
    assert "divided by" not in card


def test_a_calibration_without_its_temperature_is_not_shown(record: RunRecord) -> None:
    """Result `after` a temperature that no record confirms."""
    card = render_card(put(evaluated(record), temperature=None))
    assert "2.1%" not in card
    assert "Temperature scaling: none (no temperature was fitted)." in card


def test_a_temperature_of_other_weights_is_no_record(record: RunRecord) -> None:
    with pytest.raises(ValueError, match="fitted on other weights"):
        put(evaluated(record), temperature=Temperature(1.7, EARLIER_WEIGHTS, "validation", 60))
