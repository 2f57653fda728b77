"""Names, folders, weights and labels that cannot be loaded: the error says why."""

import json
import pickle
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from backbones.checkpoints import PETS, edit_config, save_timm, save_transformers, timm_network, tiny_vit
from hub.client import run_python
from hub.server import HubServer
from safetensors.torch import load_file, save_file

from hf_tl.backbones.load import load, load_backbone
from hf_tl.backbones.weights.limits import settings_of
from hf_tl.errors import LONGEST, ConfigError, ModelError


def test_weights_and_channels_belong_to_timm_names(tmp_path: Path) -> None:
    folder = save_transformers(tiny_vit(), tmp_path)
    for arguments in ({"weights": "w.safetensors"}, {"in_chans": 1}):
        with pytest.raises(ConfigError, match=r"expected model=.timm:ARCHITECTURE. with"):
            load_backbone(str(folder), PETS, **arguments)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("timm:test_resnt", r"no architecture 'test_resnt'; did you mean test_resnet"),
        ("timm:resnet5O", r"did you mean .*resnet50"),
        ("timm:xyzzyqqq", r"see timm.list_models\(\)"),
        ("timm:test_resnet.nothing", r"no weights 'test_resnet.nothing'; available tags: r160_in1k"),
        ("timm:", "no architecture ''"),
        ("timm:zfnet", "its authors published none"),
        ("timm:vit_base_patch16_xp_224", "No pretrained weights"),
    ],
)
def test_wrong_timm_names(name: str, text: str) -> None:
    with pytest.raises(ModelError, match=text):
        load_backbone(name, PETS)


REPORT = """
from hf_tl.backbones.load import load_backbone
from hf_tl.errors import ModelError
for name in {names}:
    try:
        load_backbone(name, ["a", "b"])
    except ModelError as error:
        print(error)
"""


def test_wrong_hub_names(hub: HubServer, tmp_path: Path) -> None:
    names = ["user/nothing", "./no_folder", "resnet50"]
    message = run_python(REPORT.format(names=names), hub.url, tmp_path, has_hf_tl=True)
    assert [f"no model {name!r}" in message for name in names] == [True] * 3
    assert message.count("a model is a Hub id (user/name), a local directory with config.json") == 3
    assert "did you mean timm:resnet50?" in message


@pytest.mark.slow
def test_timm_weights_without_a_network_are_an_error_that_names_the_flag(tmp_path: Path) -> None:
    """The address refuses connections, as on a machine without a network; huggingface_hub retries for a minute."""
    message = run_python(REPORT.format(names=["timm:test_resnet"]), "http://127.0.0.1:9", tmp_path, has_hf_tl=True)
    assert "timm cannot create 'test_resnet'" in message
    assert 'check the network, or pass weights="FILE"' in message


def test_an_empty_folder_is_no_model(tmp_path: Path) -> None:
    for call in (lambda: load(tmp_path), lambda: load_backbone(str(tmp_path), PETS)):
        with pytest.raises(ModelError, match=r"(?s)no model .*config\.json"):
            call()


@pytest.mark.parametrize("file", ["model.safetensors", "preprocessor_config.json"])
def test_a_missing_file_is_named(file: str, tmp_path: Path) -> None:
    folder = save_transformers(tiny_vit(), tmp_path)
    (folder / file).unlink()
    with pytest.raises(ModelError, match=file.replace(".", r"\.")):
        load_backbone(str(folder), PETS)


def test_truncated_weights_are_named(checkpoint: tuple[Path, dict[str, torch.Tensor]]) -> None:
    file = checkpoint[0] / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"the weights of .* cannot be loaded"):
        load_backbone(str(checkpoint[0]), PETS)


def test_weights_of_another_architecture_are_refused(checkpoint: tuple[Path, dict[str, torch.Tensor]]) -> None:
    save_file({"embedding.weight": torch.zeros(3)}, checkpoint[0] / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"do not fit .*: .* and \d+ more missing"):
        load_backbone(str(checkpoint[0]), PETS)


@pytest.mark.parametrize("change", ["missing", "shape"])
def test_one_tensor_of_the_backbone_that_does_not_fit_is_named(
    change: str, checkpoint: tuple[Path, dict[str, torch.Tensor]]
) -> None:
    file = checkpoint[0] / "model.safetensors"
    weights = load_file(file)
    name = next(name for name, tensor in weights.items() if tensor.ndim == 4)
    tensor = weights.pop(name)
    if change == "shape":
        weights[name] = torch.zeros(*tensor.shape[:3], tensor.shape[3] + 2)
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=name.removeprefix("timm_model.").replace(".", r"\.")):
        load_backbone(str(checkpoint[0]), PETS)


class Payload:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (_write, (str(self.marker),))


def _write(path: str) -> None:
    Path(path).write_text("code ran")


def test_a_pickle_that_holds_code_is_refused_and_nothing_runs(
    checkpoint: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    folder, marker = checkpoint[0], tmp_path / "marker"
    (folder / "model.safetensors").unlink()
    torch.save({"weight": Payload(marker)}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="the weights of"):
        load_backbone(str(folder), PETS)
    assert not marker.exists()
    pickle.loads(pickle.dumps(Payload(marker)))
    assert marker.exists()  # the payload works


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        (["one"], "at least two classes, found 1: one"),
        ([], "at least two classes, found 0"),
        (["a", "b", "a"], "expected distinct class names, found duplicates: a"),
        ("ab", "expected labels as a list of strings, found 'ab'"),
        ([1, 2], "expected labels as a list of strings"),
    ],
)
def test_invalid_labels_are_errors(labels: list[str], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        load_backbone("timm:test_resnet", labels, pretrained=False)


@pytest.mark.parametrize("library", ["torchvision", "sentencepiece", "detectron2"])
def test_a_missing_library_is_not_blamed_on_the_settings(library: str) -> None:
    with pytest.raises(ImportError, match=library), settings_of("cats", "preprocessor_config.json"):
        raise ImportError(f"the processor needs {library}")


@pytest.mark.parametrize("save", [partial(save_transformers, tiny_vit()), partial(save_timm, timm_network("test_vit"))])
def test_only_numbers_that_a_library_reads_are_limited(save: Callable[[Path], Path], tmp_path: Path) -> None:
    config = save(tmp_path) / "config.json"
    settings = json.loads(config.read_text())
    config.write_text(json.dumps({**settings, "training_images": 14_197_122, "notes": {"seed": 2**40}}))
    assert load_backbone(str(tmp_path), PETS)[0].config.num_labels == len(PETS)
    config.write_text(json.dumps({**settings, "num_labels": 14_197_122}))
    with pytest.raises(ModelError, match=r"expected numbers up to .* found num_labels"):
        load_backbone(str(tmp_path), PETS)


def test_a_classifier_that_does_not_pool_is_refused(tmp_path: Path) -> None:
    save_timm(timm_network("test_vit"), tmp_path)
    edit_config(tmp_path, model_args={"global_pool": ""})
    with pytest.raises(ModelError, match=r"expected logits of shape \(1, 3\) for an image, found \(1, \d+, 3\)"):
        load(tmp_path)
    edit_config(tmp_path, model_args={"global_pool": "token"})
    load(tmp_path)


@pytest.mark.parametrize("entry", [{"pretrained_cfg": "x"}, {"pretrained_cfg": [1]}, {"model_args": [1]}])
def test_settings_of_timm_are_refused_by_name_where_timm_reads_them(tmp_path: Path, entry: dict[str, object]) -> None:
    folders = [
        save_timm(timm_network("test_vit"), tmp_path / "timm"),
        save_transformers(tiny_vit(), tmp_path / "transformers"),
    ]
    for folder in folders:
        config = folder / "config.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), **entry}))
    with pytest.raises(ModelError, match=re.escape(str(folders[0]))):
        load(folders[0])
    assert load(folders[1])[0].config.num_labels == 3


def test_a_message_that_quotes_a_long_value_keeps_its_problem_and_its_advice() -> None:
    message = str(ModelError(f"expected a name, found {200_000 * 'x'}; choose another model"))
    assert len(message) <= LONGEST
    assert message.startswith("expected a name, found x")
    assert message.endswith("x; choose another model")
