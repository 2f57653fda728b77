"""The demo page of a calibrated model: images unlike the training images get a sentence in place of classes."""

import json
import os
import shutil
from pathlib import Path

import pytest

pytest.importorskip("gradio")

import httpx
from abstention.calibrated import calibrate, train, write_foreign
from PIL import Image
from publish.browser import needs_chromium, opened
from publish.servers import PATIENCE, served, serving, wait_for

import hf_tl
from hf_tl.abstention.detector import FILE
from hf_tl.demo.demo_exported import ExportedDemoModel
from hf_tl.demo.demo_page import UNLIKE, build_page
from hf_tl.demo.space import space_files
from hf_tl.errors import ModelError

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = train(tmp_path_factory.mktemp("run"), "--strategy", "full", "--epochs", "2")
    calibrate(folder)
    return folder


def classify(client: httpx.Client, image: Path) -> dict[str, object]:
    """Upload an image, and return what the page shows in place of the classes."""
    [path] = client.post("/gradio_api/upload", files={"files": (image.name, image.read_bytes())}).json()
    upload = {"path": path, "meta": {"_type": "gradio.FileData"}}
    event = client.post("/gradio_api/call/classify", json={"data": [upload]}).json()["event_id"]
    answer = client.get(f"/gradio_api/call/classify/{event}").text
    assert "event: complete" in answer, answer
    bars: dict[str, object] = json.loads(answer.split("data: ")[-1])[0]
    return bars


def test_the_page_says_of_foreign_images_that_they_are_unlike(model: Path, tmp_path: Path) -> None:
    own = [*sorted((model.parent / "photos").glob("*/1.png")), *sorted((model.parent / "photos").glob("*/2.png"))]
    expected = hf_tl.predict(model, own, abstain=True)
    (tmp_path / "uploads").mkdir()
    variables = {
        "PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1", "GRADIO_TEMP_DIR": str(tmp_path / "uploads")
    }  # fmt: skip
    with (
        serving(["-m", "hf_tl", "demo", str(model)], os.environ | variables, tmp_path) as (url, _),
        httpx.Client(base_url=url, timeout=PATIENCE) as client,
    ):
        for image in sorted(write_foreign(tmp_path / "foreign").glob("*.png"))[:2]:
            shown = classify(client, image)
            assert shown["label"] == UNLIKE
            assert not shown.get("confidences")
        for image, prediction in zip(own, expected, strict=True):
            assert classify(client, image)["label"] == (UNLIKE if prediction.abstained else prediction.label)


@pytest.mark.slow
@needs_chromium
def test_a_browser_shows_the_sentence_and_then_a_class(model: Path, tmp_path: Path) -> None:
    images = sorted((model.parent / "photos").glob("*/*.png"))
    accepted, prediction = next(
        (path, each)
        for path, each in zip(images, hf_tl.predict(model, images, abstain=True), strict=True)
        if not each.abstained
    )
    foreign = write_foreign(tmp_path / "foreign") / "0.png"
    variables = {"PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1"}
    with (
        served(["-m", "hf_tl", "demo", str(model)], os.environ | variables, tmp_path) as url,
        opened(url, tmp_path / "profile") as browser,
    ):
        browser.upload(foreign)
        wait_for(lambda: UNLIKE in browser.text)
        assert not browser.bars(), "no class is shown"
        assert "Activation map for" not in browser.text
        browser.upload(accepted)
        assert next(iter(wait_for(browser.bars))) == prediction.label
        assert UNLIKE not in browser.text


def test_the_page_of_an_exported_file_abstains_too(model: Path, tmp_path: Path) -> None:
    exported = hf_tl.export(model, "torch_export", tmp_path / "exported", dataset=model.parent / "photos")
    page = ExportedDemoModel(exported.file)
    images = [*write_foreign(tmp_path / "foreign").glob("*.png"), *(model.parent / "photos").glob("*/1.png")]
    expected = hf_tl.predict(model, images, abstain=True)
    assert {each.abstained for each in expected} == {True, False}
    for path, prediction in zip(images, expected, strict=True):
        assert page.abstains(Image.open(path)) == prediction.abstained
    never = hf_tl.export(train(tmp_path / "run", "--epochs", "1"), "torch_export", dataset=model.parent / "photos")
    assert not any(ExportedDemoModel(never.file).abstains(Image.open(path)) for path in images)


def test_the_page_says_how_many_images_are_accepted(model: Path) -> None:
    page = str(build_page(str(model)).get_config_file()["components"])
    assert "The model gives no class to images unlike its training images. Accepted:" in page
    assert "one of its classes for every image" not in page


def test_a_detector_of_other_weights_is_refused(model: Path, tmp_path: Path) -> None:
    other = train(tmp_path / "other", "--strategy", "transfer", "--epochs", "1", "--seed", "3")
    calibrate(other)
    shutil.copytree(model, tmp_path / "model")
    shutil.copy(other / FILE, tmp_path / "model" / FILE)
    with pytest.raises(ModelError, match="fitted for other weights"):
        build_page(str(tmp_path / "model"))


def test_a_space_holds_the_modules_of_abstention() -> None:
    files = space_files("user/space", "user/model", "0" * 40)
    assert {"hf_tl/abstention/detector.py", "hf_tl/abstention/scores.py"} <= files.keys()
    assert "hf_tl/predicting/calibrate.py" not in files
