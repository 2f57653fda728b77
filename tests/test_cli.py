"""The command line end to end, on small networks and images: training, files, output, publication and errors."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from backbones.checkpoints import save_transformers, tiny_resnet, tiny_vit
from cli.printed import as_printed, metrics_of
from hub.client import environment, run_python
from hub.server import Fault, HubServer
from PIL import Image
from safetensors.torch import load_file
from transformers import PreTrainedModel

import hf_tl
from hf_tl.cli import ERROR_STATUS, main
from hf_tl.errors import ConfigError, HfTlError
from hf_tl.flags import parse_run_config
from hf_tl.record import read_record

COLORS = {"green": (40, 200, 40), "blue": (40, 40, 200), "red": (200, 40, 40)}
REPOSITORY = Path(__file__).parents[1]
# one thread: on a busy machine two threads wait for each other
SMALL = ["--report_to", "none", "--cpu_threads", "1"]
TINY = ["--model", "timm:test_resnet", "--no_pretrained", "--image_size", "32", *SMALL]


def write_images(folder: Path, count: int, colors: dict[str, tuple[int, int, int]] = COLORS) -> Path:
    """Write noisy images in the color of their class."""
    random = np.random.default_rng(count)
    for name, color in colors.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = np.clip(np.array(color) + random.integers(-40, 40, (24, 30, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def colors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "colors"
    write_images(folder / "train", 24)
    write_images(folder / "test", 6)
    return folder


@pytest.fixture(scope="module")
def trained(colors: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model of `hf-tl train`: head first, then the last stage, too."""
    folder = tmp_path_factory.mktemp("run") / "out"
    recipe = ["--strategy", "finetune", "--trainable_stages", "2", "--num_train_epochs", "6", "--learning_rate", "0.03"]
    batch = ["--per_device_train_batch_size", "8", "--augmentation", "none", "--backbone_learning_rate", "0.003"]
    main(["train", *TINY, "--dataset", str(colors), *recipe, *batch, "--output_dir", str(folder)])
    return folder


def fails(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that must fail, and return its error message."""
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == ERROR_STATUS
    return capsys.readouterr().err


def test_a_run_leaves_a_model_with_its_record_card_and_figures(trained: Path) -> None:
    names = {path.name for path in trained.iterdir()}
    figures = {"stages.png", "history.png", "confusion.png", "reliability.png"}
    assert names == {"config.json", "model.safetensors", "README.md", "run.json", "learned_from.npz", *figures}
    record = read_record(trained)
    assert record.measured["test"].metrics["accuracy"] >= 0.9
    assert [phase.trained_stages for phase in record.phases] == [("head",), ("layer4", "head")]
    assert all(phase.proof.holds for phase in record.phases)
    assert record.phases[0].proof.before != record.phases[1].proof.before  # layer4 is only in the first
    assert record.data.labels == ("blue", "green", "red")
    assert {name: split.images for name, split in record.data.splits.items()} == {
        "train": 64,
        "validation": 8,
        "test": 18,
    }
    assert [entry["epoch"] for entry in record.history] == [1, 2, 3, 4, 5, 6]
    assert record.command.startswith("hf-tl train --model timm:test_resnet")
    assert str(trained.parent) not in (trained / "run.json").read_text() + (trained / "README.md").read_text()


def test_predict_names_the_class_of_each_image(trained: Path, colors: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = [str(colors / "test" / name / "0.png") for name in COLORS]
    main(["predict", str(trained), *images, "--top_k", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[::2] == images
    assert [line.split()[-1] for line in lines[1::2]] == list(COLORS)


def test_evaluate_finds_the_recorded_accuracy(trained: Path, colors: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["evaluate", str(trained), "--dataset", str(colors)])
    lines = capsys.readouterr().out.splitlines()
    recorded = read_record(trained).measured["test"].metrics
    assert lines[0] == "test: 18 images"
    assert metrics_of(lines[1:]) == as_printed(recorded)


def test_evaluate_matches_classes_by_name(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two of the classes, which have other indices in this dataset."""
    two = {name: COLORS[name] for name in ("red", "green")}
    write_images(tmp_path / "two" / "train", 5, two)
    write_images(tmp_path / "two" / "test", 5, two)
    main(["evaluate", str(trained), "--dataset", str(tmp_path / "two")])
    assert "accuracy       100.0% (95% CI " in capsys.readouterr().out


def test_evaluate_leaves_out_what_a_model_learned_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Splits of a folder without splits are drawn as for the training, by its seed."""
    images, folder = tmp_path / "images", tmp_path / "out"
    write_images(images, 12)
    rest = ["--num_train_epochs", "1", "--seed", "3", "--refit", "true", "--output_dir", str(folder)]
    main(["train", *TINY, "--dataset", str(images), *SMALL, *rest])
    recorded = read_record(folder).measured["test"].metrics
    capsys.readouterr()
    main(["evaluate", str(folder), "--dataset", str(images)])
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == "test: 8 images"
    assert metrics_of(lines) == as_printed(recorded)
    for split, count in (("train", 25), ("validation", 3)):
        told = fails(["evaluate", str(folder), "--dataset", str(images), "--split", split], capsys)
        assert f"{count} of {count} {split} images are training images of the model, and no other is there" in told
        flags = ["--split", split, "--include_training_images"]
        main(["evaluate", str(folder), "--dataset", str(images), *flags])
        first, note, *_ = capsys.readouterr().out.splitlines()
        assert first == f"{split}: {count} images ({count} of them training images)"
        assert note.endswith("are training images of the model: not an estimate of generalization")


def test_a_trained_model_can_be_trained_on(trained: Path, colors: Path, tmp_path: Path) -> None:
    """The same labels keep the head: further training starts where the first ended."""
    rest = ["--num_train_epochs", "1", "--learning_rate", "1e-6", "--output_dir", str(tmp_path / "more")]
    main(["train", "--model", str(trained), "--dataset", str(colors), *SMALL, *rest])
    record = read_record(tmp_path / "more")
    assert record.measured["test"].metrics["accuracy"] >= 0.9
    assert record.origin.base_model is None
    assert (record.origin.kind, record.origin.head) == ("trained", "kept")


@pytest.mark.parametrize("make", [tiny_vit, tiny_resnet])
def test_a_transformers_backbone_is_trained_and_loads_in_plain_transformers(
    make: Callable[[], PreTrainedModel], colors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = save_transformers(make(), tmp_path / "base")
    flags = ["--strategy", "finetune", "--num_train_epochs", "8", "--augmentation", "none", *SMALL]
    rates = ["--learning_rate", "0.1", "--backbone_learning_rate", "0.01", "--per_device_train_batch_size", "8"]
    folder = tmp_path / "out"
    main(["train", "--model", str(base), "--dataset", str(colors), *flags, *rates, "--output_dir", str(folder)])
    record = read_record(folder)
    assert record.model.library == "transformers"
    assert record.measured["test"].metrics["accuracy"] >= 0.9
    images = [str(colors / "test" / name / "0.png") for name in COLORS]
    code = f"""
import json
from transformers import pipeline
classify = pipeline("image-classification", model={str(folder)!r})
print(json.dumps([ranking[0]["label"] for ranking in classify({images!r})]))
"""
    assert json.loads(run_python(code, "http://127.0.0.1:9", tmp_path).splitlines()[-1]) == list(COLORS)


def test_two_processes_give_the_metrics_of_one(colors: Path, tmp_path: Path) -> None:
    """The same global batch on two processes (gloo): the test images are counted once, the weights agree."""
    records = {}
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        flags = [*TINY, "--dataset", str(colors), "--num_train_epochs", "2", "--augmentation", "light"]
        flags += ["--per_device_train_batch_size", str(10 // processes)]
        launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(processes)]
        command = [*launcher, "--master_port", str(29600 + os.getpid() % 300), str(REPOSITORY / "scripts" / "train.py")]
        environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [*command, *flags, "--output_dir", str(folder)],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        assert done.stdout.count("Test accuracy") == 1
        records[processes] = read_record(folder)
    assert [records[n].hyperparameters["processes"] for n in (1, 2)] == [1, 2]
    one, two = records[1], records[2]
    assert two.measured["test"].metrics["accuracy"] == one.measured["test"].metrics["accuracy"]
    judged = [record.measured["test"] for record in (one, two)]
    assert judged[0].confusion == judged[1].confusion
    # images keep the order of the split, for any number of processes
    assert [m["image"] for m in judged[0].mistakes] == [m["image"] for m in judged[1].mistakes]
    assert two.measured["test"].metrics["loss"] == pytest.approx(one.measured["test"].metrics["loss"], rel=1e-4)
    assert [entry["train_loss"] for entry in two.history] == [
        pytest.approx(entry["train_loss"], rel=1e-4) for entry in one.history
    ]
    weights = [load_file(tmp_path / str(processes) / "model.safetensors") for processes in (1, 2)]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, rtol=1e-3, atol=1e-5)


def test_a_pushed_model_loads_where_hf_tl_is_not(
    hub: HubServer, colors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"
    flags = ["--num_train_epochs", "2", "--output_dir", str(folder), "--push_to_hub", "user/colors"]
    main(["train", *TINY, "--dataset", str(colors), *flags])
    assert "Published" in capsys.readouterr().out
    from hf_tl import load

    model, _ = load(folder)
    pixels = torch.linspace(-1, 1, 3 * 32 * 32).reshape(1, 3, 32, 32)
    with torch.inference_mode():
        expected = model(pixel_values=pixels).logits[0].tolist()
    image = colors / "test" / "red" / "0.png"
    code = f"""
import json, timm, torch
from transformers import AutoModelForImageClassification, pipeline
pixels = torch.linspace(-1, 1, 3 * 32 * 32).reshape(1, 3, 32, 32)
model = AutoModelForImageClassification.from_pretrained("user/colors").eval()
network = timm.create_model("hf-hub:user/colors", pretrained=True).eval()
with torch.inference_mode():
    logits = [model(pixel_values=pixels).logits[0].tolist(), network(pixels)[0].tolist()]
ranking = pipeline("image-classification", model="user/colors")({str(image)!r})
print(json.dumps([logits, model.config.id2label[0], network.pretrained_cfg["label_names"], ranking]))
"""
    logits, first, names, ranking = json.loads(run_python(code, hub.url, tmp_path).splitlines()[-1])
    assert logits == [pytest.approx(expected, abs=1e-6)] * 2
    assert first == "blue"
    assert names == ["blue", "green", "red"]
    assert {entry["label"] for entry in ranking} == set(COLORS)
    commits = [call for call in hub.hub.log if "/commit/" in call[1]]
    assert len(commits) == 1


def test_a_push_that_is_not_allowed_is_refused_before_training(
    hub: HubServer, colors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--output_dir", str(tmp_path / "out"), "--push_to_hub", "somebody-else/colors"]
    message = fails(["train", *TINY, "--dataset", str(colors), *flags], capsys)
    assert "may not write to 'somebody-else'" in message
    assert not (tmp_path / "out").exists()


def test_a_push_that_fails_leaves_the_model_and_the_command_to_push_it_later(
    hub: HubServer, colors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"
    refused = Fault("/repos/create", status=403, times=99)
    hub.hub.faults.append(refused)
    flags = ["--num_train_epochs", "1", "--output_dir", str(folder), "--push_to_hub", "user/colors"]
    with pytest.raises(SystemExit) as end:
        main(["train", *TINY, "--dataset", str(colors), *flags, "--hub_private"])
    assert end.value.code == ERROR_STATUS
    said = capsys.readouterr()
    assert "Test accuracy" in said.out
    assert "use one with write permission" in said.err
    command = said.err.strip().rpartition("push it later: ")[2]
    assert command == f"hf-tl push {folder} user/colors --private"
    refused.times = 0
    main(command.split()[1:])
    main(["pull", "user/colors", str(tmp_path / "pulled")])
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "pulled")
    assert hub.hub.repos["models", "user/colors"]["private"]
    assert (tmp_path / "pulled" / "run.json").read_bytes() == (folder / "run.json").read_bytes()


def test_training_from_python_checks_a_push_before_training(hub: HubServer, colors: Path, tmp_path: Path) -> None:
    strategy = hf_tl.Strategy.transfer(epochs=1)
    model, _ = hf_tl.load_backbone("timm:test_resnet", sorted(COLORS), strategy, pretrained=False, image_size=32)
    with pytest.raises(HfTlError, match="may not write to 'somebody-else'"):
        hf_tl.train(model, str(colors), strategy, push_to_hub="somebody-else/colors", output_dir=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_each_process_ends_where_a_push_is_not_allowed(hub: HubServer, colors: Path, tmp_path: Path) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    flags = ["--output_dir", str(tmp_path / "out"), "--push_to_hub", "somebody-else/colors"]
    done = subprocess.run(
        [*launcher, "-m", "hf_tl", "train", *TINY, "--dataset", str(colors), *flags],
        env={**environment(hub.url, tmp_path / "home"), "ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.stderr.count("may not write to 'somebody-else'") == 1
    assert f"exitcode  : {ERROR_STATUS}" in done.stderr
    assert not (tmp_path / "out").exists()


def test_the_card_is_written_again(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    card = trained / "README.md"
    before = card.read_bytes()
    card.unlink()
    main(["card", str(trained)])
    assert capsys.readouterr().out.strip() == str(card)
    assert card.read_bytes() == before
    assert "holds no run.json" in fails(["card", str(trained.parent)], capsys)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model", "timm:resnet51"], "did you mean resnet"),
        (["--model", "timm:resnet50.nothing"], "available tags: a1_in1k"),
        (["--model", "no/such-model-here"], "--model takes a Hub id"),
        (["--weights", "nowhere.safetensors", "--model", "timm:test_resnet", "--pretrained", "true"], "no such file"),
        (["--dataset", "./nowhere"], "nowhere"),
        (["--strategy", "finetune", "--trainable_stages", "70"], "expected 1 to 6 trainable stages"),
        (["--strategy", "finetune", "--trainable_stages", "1"], "at least 2"),
        (["--trainable_stages", "2"], "goes with --strategy finetune"),
        (["--per_device_train_batch_size", "0"], "at least 1"),
        (["--num_train_epochs", "-1"], "--num_train_epochs takes a number above 0 or none, found -1"),
        (["--report_to", "nonsense"], "--report_to nonsense"),
    ],
)
def test_bad_flags_are_told_and_leave_nothing(
    flags: list[str], message: str, colors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    told = fails(["train", *TINY, "--dataset", str(colors), "--output_dir", str(out), *flags], capsys)
    assert message in told
    assert len(told.splitlines()) <= 8
    assert not out.exists()


def test_a_folder_with_a_run_is_not_overwritten(
    trained: Path, colors: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (trained / "model.safetensors").read_bytes()
    told = fails(["train", *TINY, "--dataset", str(colors), "--output_dir", str(trained)], capsys)
    assert "holds another run" in told
    assert "--overwrite_output_dir" in told
    assert (trained / "model.safetensors").read_bytes() == before


def test_bad_images_are_told_before_training(colors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_images(tmp_path / "bad" / "train", 12).parent
    write_images(folder / "test", 3)
    good = (folder / "train" / "red" / "0.png").read_bytes()
    (folder / "train" / "red" / "0.png").write_bytes(good[: len(good) // 2])
    flags = [*TINY, "--dataset", str(folder), "--num_train_epochs", "1"]
    told = fails(["train", *flags, "--output_dir", str(tmp_path / "out")], capsys)
    assert "0.png" in told
    assert "--skip_bad_images" in told
    assert not (tmp_path / "out").exists()
    main(["train", *flags, "--skip_bad_images", "--output_dir", str(tmp_path / "out")])
    assert "0.png" in read_record(tmp_path / "out").data.notes[-1]


def test_flags_override_the_yaml_file(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("strategy: full\nseed: 7\npretrained: false\nlearning_rate: 1e-4\n")
    config = parse_run_config(["--config", str(tmp_path / "run.yaml"), "--seed", "8"])
    assert (config.strategy.strategy, config.training.seed, config.model.pretrained) == ("full", 8, False)
    assert config.strategy.learning_rate == pytest.approx(1e-4)


def test_unknown_yaml_keys_are_named(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("strategi: full\nseed: 7\n")
    with pytest.raises(ConfigError, match="strategi"):
        parse_run_config(["--config", str(tmp_path / "run.yaml")])


def test_the_commands_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    assert "hf-tl COMMAND" in capsys.readouterr().out
    assert "there is no command 'trian'; did you mean train?" in fails(["trian"], capsys)


LEAVING = """
import atexit, sys
from hf_tl.__main__ import command

class Library:
    def __del__(self):
        print("taken apart")

class Words(list):
    # stands for a library that asks, in the middle of a command, to be closed at the end
    def __getitem__(self, place):
        if not atexit_is_set:
            atexit_is_set.append(atexit.register(print, "closed"))
        return super().__getitem__(place)

library, atexit_is_set = Library(), []
sys.argv = Words(sys.argv)
command()
"""


@pytest.mark.parametrize(
    ("words", "status", "ends"), [(["--help"], 0, ["closed"]), (["trian"], ERROR_STATUS, ["closed", "taken apart"])]
)
def test_the_process_ends_without_being_taken_apart(words: list[str], status: int, ends: list[str]) -> None:
    """Exit handlers of libraries run, and output is flushed; an error has its status."""
    done = subprocess.run([sys.executable, "-c", LEAVING, *words], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    assert done.stdout.splitlines()[-len(ends) :] == ends
    assert ("usage: hf-tl" in done.stdout) == (status == 0)
