"""A calibrated model on the Hub: it abstains there as in its folder, until other weights replace it."""

from pathlib import Path

import pytest
from abstention.calibrated import calibrate, train, write_foreign
from hub.server import HubServer
from publish.pushed import published

import hf_tl
from hf_tl.abstention.detector import FILE
from hf_tl.errors import ConfigError
from hf_tl.record import read_record


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = train(tmp_path_factory.mktemp("run"), "--strategy", "full", "--epochs", "2")
    calibrate(folder)
    return folder


def test_it_abstains_from_the_hub_and_after_a_pull(tmp_path: Path, model: Path, hub: HubServer) -> None:
    images = [*sorted(write_foreign(tmp_path / "foreign").glob("*.png")), *(model.parent / "photos").glob("*/1.png")]
    expected = hf_tl.predict(model, images, abstain=True, prediction_sets=True)
    assert {each.abstained for each in expected} == {True, False}
    hf_tl.push(model, "user/model")
    assert hf_tl.predict("user/model", images, abstain=True, prediction_sets=True) == expected
    pulled = hf_tl.pull("user/model", tmp_path / "pulled")
    assert hf_tl.predict(pulled, images, abstain=True, prediction_sets=True) == expected
    assert read_record(pulled).abstention == read_record(model).abstention
    assert (pulled / FILE).read_bytes() == (model / FILE).read_bytes()
    assert "validation images are accepted" in published(hub, repo_id="user/model")["README.md"].decode()


def test_other_weights_take_it_from_the_repository(tmp_path: Path, model: Path, hub: HubServer) -> None:
    hf_tl.push(model, "user/model")
    hf_tl.push(train(tmp_path, "--strategy", "full", "--epochs", "1", "--seed", "3"), "user/model")
    assert FILE not in published(hub, repo_id="user/model")
    with pytest.raises(ConfigError, match="hf-tl calibrate"):
        hf_tl.predict("user/model", model.parent / "photos", abstain=True)
