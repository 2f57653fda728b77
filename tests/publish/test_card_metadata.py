"""Metadata of cards, by which the Hub lists and ranks models."""

import pytest
from publish.records import make_record, put

from hf_tl.card.card import render_card
from hf_tl.card.metadata import card_metadata
from hf_tl.errors import PublishError
from hf_tl.record import RunRecord


def test_metadata(record: RunRecord) -> None:
    metadata = card_metadata(record).to_dict()
    results = metadata.pop("model-index")[0]["results"][0]
    assert metadata == {
        "pipeline_tag": "image-classification",
        "library_name": "transformers",
        "base_model": "timm/test_resnet.r160_in1k",
        "base_model_relation": "finetune",
        "license": "apache-2.0",
        "metrics": ["accuracy", "f1"],
        "tags": ["hf_tl", "timm", "fine-tuning"],
    }
    assert results["metrics"][0] == {"type": "accuracy", "value": 0.925, "name": "Accuracy"}


@pytest.mark.parametrize(
    ("name", "source", "datasets"),
    [
        ("pets", "folder", None),
        ("user/pets", "hub", ["user/pets"]),
        ("user/pets", "folder", None),
        ("beans", "hub", ["beans"]),
        ("my pets", "hub", None),
    ],
)
def test_only_a_hub_dataset_is_named_as_one(
    record: RunRecord, name: str, source: str, datasets: list[str] | None
) -> None:
    assert card_metadata(put(record, data__name=name, data__source=source)).datasets == datasets


@pytest.mark.parametrize("license_text", [None, "see LICENSE", "Apache 2.0"])
def test_license_is_never_invented(record: RunRecord, license_text: str | None) -> None:
    record = put(record, origin__license=license_text)
    assert card_metadata(record).license is None
    assert f"License of the starting weights: {license_text or 'not recorded'}" in render_card(record)


def test_a_license_that_the_hub_does_not_know_is_another_one_with_its_name(record: RunRecord) -> None:
    metadata = card_metadata(put(record, origin__license="dinov3-license")).to_dict()
    assert (metadata["license"], metadata["license_name"]) == ("other", "dinov3-license")
    assert metadata["license_link"] == f"https://huggingface.co/{record.origin.name}"


@pytest.mark.parametrize(("classes", "is_shown"), [(9, False), (10, True)])
def test_top_five_accuracy_appears_from_ten_classes_on(classes: int, is_shown: bool) -> None:
    record = make_record(labels=tuple("abcdefghij"[:classes]))
    assert ("| Top-5 accuracy (95% CI) |" in render_card(record)) == is_shown
    assert ("99.0%" in render_card(record)) == is_shown
    names = [metric["name"] for metric in card_metadata(record).to_dict()["model-index"][0]["results"][0]["metrics"]]
    assert names == ["Accuracy", *(["Top-5 accuracy"] if is_shown else []), "Macro F1"]


def test_a_record_of_another_problem_is_refused(record: RunRecord) -> None:
    with pytest.raises(PublishError, match="problem_type is 'regression'"):
        render_card(put(record, model__problem_type="regression"))
