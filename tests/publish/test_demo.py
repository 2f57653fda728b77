"""Parts of the demo page: the model, and the section about its training."""

import os
import re
import shutil
import socket
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from backbones.checkpoints import tiny_resnet
from PIL import Image
from publish.records import HUB, LABELS, evaluated, make_multi_label_record, make_record, put
from publish.saving import save_model
from torch import nn

from hf_tl.backbones.load import load_backbone
from hf_tl.cli import ERROR_STATUS, main
from hf_tl.demo.demo_model import DemoModel, blend, distinct
from hf_tl.demo.demo_story import tell_story
from hf_tl.demo.guard import remove_old_files
from hf_tl.demo.uploads import read_image
from hf_tl.errors import DataError, ModelError, PublishError
from hf_tl.predicting.predict import predict
from hf_tl.record import CardTexts, LearnedSplit, Origin, RunRecord, read_record
from hf_tl.strategy import Phase, Strategy

HOSTILE = ("<img src=x onerror=alert(1)>", '"><script>alert(2)</script>', "a & b")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return images in color, 16-bit gray, and with transparent pixels that hide another color."""
    folder = tmp_path_factory.mktemp("images")
    color = Image.effect_mandelbrot((120, 90), (-3, -2.5, 2, 2.5), 100).convert("RGB")
    deep = Image.fromarray(np.asarray(color.convert("L")).astype(np.uint16) * 257)
    seen_through = Image.merge("RGBA", [*color.split(), color.convert("L").point(lambda value: 255 * (value > 99))])
    files = {"color.jpg": color, "deep.png": deep, "seen_through.png": seen_through}
    for name, image in files.items():
        image.save(folder / name)
    return [folder / name for name in files]


def save(folder: Path, name: str = "timm:test_resnet", **options: object) -> str:
    torch.manual_seed(0)
    model, transforms = load_backbone(name, LABELS, Strategy.transfer(), pretrained=False, **options)
    is_multi_label = model.config.problem_type == "multi_label_classification"
    record = make_multi_label_record() if is_multi_label else make_record()
    save_model(model, transforms, record, folder)
    return str(folder)


@pytest.mark.parametrize(
    "options",
    [{}, {"in_chans": 1}, {"problem_type": "multi_label_classification"}],
    ids=["color", "gray", "multi-label"],
)
def test_the_page_predicts_as_hf_tl_predict(tmp_path: Path, images: list[Path], options: dict[str, object]) -> None:
    folder = save(tmp_path / "out", **options)
    model = DemoModel(folder)
    for prediction, file in zip(predict(folder, images), images, strict=True):
        expected = prediction.ranking
        ranking = [(model.labels[index], share) for index, share in model.rank(read_image(file))]
        assert [label for label, _ in ranking] == [label for label, _ in expected]
        assert [share for _, share in ranking] == pytest.approx([share for _, share in expected], abs=1e-5)


def test_activation_maps_cover_the_input_of_the_network(tmp_path: Path, images: list[Path]) -> None:
    model = DemoModel(save(tmp_path / "out"))
    assert model.why_it_cannot_look() is None
    maps = [model.look(read_image(images[0]), index) for index in range(len(LABELS))]
    assert all(picture is None or picture.size == (448, 448) for picture in maps)
    assert any(maps)


def test_a_map_is_hot_where_the_class_was_seen() -> None:
    heat = np.zeros((500, 500))
    heat[:250] = 1
    pixels = np.asarray(blend(np.full((500, 500, 3), 0.5), heat)).astype(int)
    assert pixels.shape == (500, 500, 3)
    assert (pixels[0, 0] > pixels[-1, -1] + 80).all()


def test_a_network_that_cannot_be_looked_into_says_so(tmp_path: Path, images: list[Path]) -> None:
    blind = tiny_resnet()
    blind.resnet.encoder.stages[0].layers[0].layer[0].convolution.stride = (64, 64)
    blind.resnet.encoder.stages[0].layers[0].shortcut = nn.AdaptiveAvgPool2d(1)
    blind.resnet.embedder = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, 8, 1))
    model = DemoModel(save(tmp_path / "out"))
    model.model = blind.eval()
    assert "no activation map" in (model.why_it_cannot_look() or "")
    assert len(model.rank(read_image(images[0]))) == 3, "it classifies nevertheless"


def test_labels_of_several_classes_are_numbered() -> None:
    assert distinct(["crane", "owl", "crane"]) == ["crane (class 0)", "owl", "crane (class 2)"]


@pytest.mark.parametrize("name", ["missing", "no/such/model"])
def test_a_model_that_is_not_there(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=f"no image classifier '{name}'"):
        DemoModel(name)


def test_the_error_of_an_upload_contains_no_path(tmp_path: Path) -> None:
    (tmp_path / "notes.png").write_text("no image")
    with pytest.raises(DataError, match="the file: no image that Pillow can read") as caught:
        read_image(tmp_path / "notes.png")
    assert str(tmp_path) not in str(caught.value)


class Reader(HTMLParser):
    """Parser that collects the elements and the text of a page."""

    def __init__(self, page: object) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(str(page))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.text += " " if tag in ("dd", "small", "div") else ""

    def handle_data(self, data: str) -> None:
        self.text += data


def story_of(record: RunRecord) -> Reader:
    return Reader(tell_story(record, None))


def test_the_story_states_stages_phases_and_accuracy() -> None:
    record = evaluated(make_record())
    text = " ".join(story_of(record).text.split())
    for part in (
        "Test accuracy 92.5%",
        "95% CI",
        "120 images",
        "finetune the last 2 of 6 stages were trained",
        "25,771 of 55,771 parameters",
        "timm/test_resnet.r160_in1k",
        "trained on 360 images, 3 classes",
        "Trained head: 771 parameters, 3 epochs at a peak learning rate of 0.003.",
        "Trained layer4 to head: 25,771 parameters, 6 epochs",
        "including images that show none of them",
    ):
        assert part in text


def test_the_story_counts_all_images_that_taught() -> None:
    record = make_record()
    learned = (*record.learned_from, LearnedSplit("pets", "validation", 60, "va" * 32))
    assert "trained on 420 images" in story_of(put(record, learned_from=learned)).text


def test_the_story_of_a_multi_label_model() -> None:
    text = story_of(evaluated(make_multi_label_record())).text
    assert "Test mean average precision" in text
    assert "all labels right on 55.0" in text
    assert "predicts those above 0.5" in text


def test_what_others_wrote_is_text_in_the_story() -> None:
    record = make_record(labels=HOSTILE)
    record = put(record, data__name=HOSTILE[1], origin__name=HOSTILE[1], strategy__name=HOSTILE[1])
    record = put(record, card=CardTexts(HOSTILE[0], HOSTILE[1]))
    story = story_of(record)
    assert story.tags == story_of(make_record()).tags | {"p"}
    assert story.attributes == {"class"}
    assert story.text.count(HOSTILE[1]) == 5
    assert all(label in story.text for label in HOSTILE)


@pytest.mark.parametrize(
    ("changes", "start"),
    [
        ({}, HUB.name),
        ({"origin": Origin.random()}, "random weights"),
        ({"origin": Origin("file", file="w.pth")}, "a weights file"),
        ({"origin": Origin("folder")}, "a local checkpoint"),
        ({"origin": Origin("trained", earlier=HUB)}, f"trained before by hf_tl, from {HUB.name}"),
        ({"origin": Origin("trained", earlier=Origin.random())}, "trained before by hf_tl, from random weights"),
        ({"origin": HUB.changed_in_memory()}, "weights of unknown origin"),
        ({"phases__1__recipe": Phase("all", 6.0, from_random_weights=True)}, "random weights"),
    ],
)
def test_the_story_states_the_starting_weights(changes: dict[str, object], start: str) -> None:
    text = " ".join(story_of(put(make_record(), **changes)).text.split())
    assert f"test_resnet starting weights: {start} Data" in text


def test_the_story_of_a_model_that_was_not_measured() -> None:
    record = put(make_record(), status="trained", measured={})
    assert "Test accuracy – not evaluated Strategy" in " ".join(story_of(record).text.split())


def test_a_damaged_record_is_one_clear_error() -> None:
    record = put(make_record(), phases__0__trained_stages=())
    with pytest.raises(PublishError, match=r"the record \(run\.json\) lacks or mixes up"):
        tell_story(record, None)


@pytest.mark.parametrize("directory", ["digits-transfer", "clothing-finetune"])
def test_the_story_of_the_example_cards(directory: str) -> None:
    folder = Path(__file__).parents[2] / "model_cards" / directory
    story = Reader(tell_story(read_record(folder), folder / "stages.png"))
    assert "img" in story.tags
    assert "tf_efficientnet_lite0" in story.text


@pytest.mark.parametrize(
    "flags", [["--server_name", "192.0.2.1"], ["--server_port", "70000"], ["--server_port", "TAKEN"]]
)
def test_an_address_that_cannot_be_listened_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str]
) -> None:
    pytest.importorskip("gradio")
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(SystemExit):
        main(["demo", str(tmp_path), *(flag.replace("TAKEN", str(taken.getsockname()[1])) for flag in flags)])
    assert re.search("is not available|takes an integer of at least 1", capsys.readouterr().err)


def test_gradio_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        import gradio  # noqa: F401
    except ImportError:
        for command in (["demo", str(tmp_path)], ["push", str(tmp_path), "user/pets", "--space"]):
            with pytest.raises(SystemExit) as stop:
                main(command)
            assert stop.value.code == ERROR_STATUS
            assert 'pip install "hf-tl[app]"' in capsys.readouterr().err
        return
    from hf_tl.demo.demo_page import build_page

    folder = Path(save(tmp_path / "out"))
    page = build_page(str(folder))
    assert page.title == "test_resnet on pets"
    assert not page.analytics_enabled
    shutil.copytree(folder, tmp_path / "plain", ignore=shutil.ignore_patterns("run.json"))
    assert build_page(str(tmp_path / "plain")).title == "plain", "a classifier that hf_tl did not train has no story"
    (folder / "run.json").write_text("{")
    with pytest.raises(PublishError, match=r"run\.json of .* cannot be read"):
        build_page(str(folder))


def test_the_oldest_files_are_removed_beyond_a_size_and_a_number(tmp_path: Path) -> None:
    for number in range(6):
        file = tmp_path / f"{number}" / "image.png" if number % 2 else tmp_path / f"broken-off-{number}"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(bytes(10))
        os.utime(file, (number, number))

    def kept() -> list[int]:
        return sorted(int(file.stat().st_mtime) for file in tmp_path.rglob("*") if file.is_file())

    remove_old_files(tmp_path, 50, 100)
    assert kept() == [1, 2, 3, 4, 5]
    remove_old_files(tmp_path, 50, 3)
    assert kept() == [3, 4, 5]
    assert not (tmp_path / "1").exists()
    remove_old_files(tmp_path, 19, 3)
    assert kept() == [5]
