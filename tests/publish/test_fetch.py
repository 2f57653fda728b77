"""Loading from the Hub: into a folder, and into memory with the recorded freezing."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from backbones.checkpoints import save_transformers, tiny_vit
from hub.client import run_python
from hub.server import Fault, HubServer
from hub.store import now
from huggingface_hub import HfApi, constants
from publish.pushed import REPO, contents
from publish.records import LABELS

import hf_tl
from hf_tl.backbones.load import load
from hf_tl.demo.demo_model import DemoModel
from hf_tl.errors import ModelError, PublishError
from hf_tl.hub.fetch import pull
from hf_tl.hub.hub import push
from hf_tl.record import LearnedFrom, read_record
from hf_tl.record.learned import LEARNED_FILE


@pytest.fixture(autouse=True)
def own_cache(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set a download cache for this test."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))


def test_a_pulled_folder_is_the_pushed_one(hub: HubServer, saved: Path, tmp_path: Path) -> None:
    push(saved, REPO)
    folder = pull(REPO, tmp_path / "new" / "pets")
    assert sorted(path.name for path in folder.parent.iterdir()) == ["pets"]
    local, fetched = contents(saved), contents(folder)
    assert set(fetched) == {"config.json", "model.safetensors", "README.md", "run.json", "stages.png", "history.png"}
    assert all(fetched[name] == local[name] for name in set(fetched) - {"README.md"})
    assert f'model="{REPO}"' in fetched["README.md"].decode()
    before = len([call for call in hub.hub.log if "/commit/" in call[1]])
    push(folder, REPO)
    assert len([call for call in hub.hub.log if "/commit/" in call[1]]) == before


def test_digests_of_training_images_are_not_fetched(hub: HubServer, saved: Path, tmp_path: Path) -> None:
    """Not even digests in the repository, which would be taken for those of this machine."""
    push(saved, REPO)
    HfApi().upload_file(path_or_fileobj=saved / LEARNED_FILE, path_in_repo=LEARNED_FILE, repo_id=REPO)
    folder = pull(REPO, tmp_path / "pets")
    assert not (folder / LEARNED_FILE).exists()
    record = read_record(folder)
    learned = LearnedFrom.read(record.learned_from, folder)
    assert not learned.is_complete
    assert learned.unknown == record.learned_from


def test_pull_of_an_earlier_revision(hub: HubServer, saved: Path, copy: Path, tmp_path: Path) -> None:
    commit = push(saved, REPO).rpartition("/")[2]
    with (copy / "README.md").open("a") as card:
        card.write("More.\n")
    push(copy, REPO)
    assert b"More." in (pull(REPO, tmp_path / "new") / "README.md").read_bytes()
    assert b"More." not in (pull(REPO, tmp_path / "old", revision=commit) / "README.md").read_bytes()


def test_a_folder_with_files_stays_as_it_was(hub: HubServer, saved: Path, copy: Path) -> None:
    push(saved, REPO)
    before = contents(copy)
    with pytest.raises(PublishError, match=r"expected a new or empty folder"):
        pull(REPO, copy)
    assert contents(copy) == before


def test_a_pull_gets_through_faults(hub: HubServer, saved: Path, tmp_path: Path) -> None:
    push(saved, REPO)
    hub.hub.faults += [
        Fault("/api/models/user/pets", status=503),
        Fault("/resolve/.*/config.json", status=503, headers={"Retry-After": "0"}),
        Fault("/cdn/", is_cut=True),
    ]
    folder = pull(REPO, tmp_path / "pets")
    assert not any(fault.times for fault in hub.hub.faults)
    assert (folder / "model.safetensors").read_bytes() == (saved / "model.safetensors").read_bytes()


def test_a_pull_that_cannot_be_leaves_nothing(hub: HubServer, saved: Path, tmp_path: Path) -> None:
    with pytest.raises(PublishError, match="not found"):
        pull(REPO, tmp_path / "pets")
    push(saved, REPO)
    with pytest.raises(PublishError, match="revision was not found"):
        pull(REPO, tmp_path / "pets", revision="v9")
    repo = hub.hub.repos["models", REPO]
    files = dict(hub.hub.files(repo))
    hub.hub.add_commit(repo, "main", files | {"model.safetensors": hub.hub.regular(b"other")}, "mixed", "user")
    with pytest.raises(PublishError, match=r"^user/pets/model\.safetensors is damaged.*nothing was downloaded"):
        pull(REPO, tmp_path / "pets")
    del files["run.json"]
    hub.hub.add_commit(repo, "main", files, "less", "user")
    with pytest.raises(PublishError, match=r"not published by hf_tl: it has no run\.json"):
        pull(REPO, tmp_path / "pets")
    assert not (tmp_path / "pets").exists()
    assert not list(tmp_path.glob(".partial-*"))


def test_a_pull_to_where_nothing_can_be_written(hub: HubServer, saved: Path, tmp_path: Path) -> None:
    push(saved, REPO)
    (tmp_path / "file").touch()
    with pytest.raises(PublishError, match="file/pets cannot be written: File exists"):
        pull(REPO, tmp_path / "file" / "pets")


def test_load_puts_the_freezing_back(hub: HubServer, saved: Path, copy: Path) -> None:
    first = push(saved, REPO).rpartition("/")[2]
    config = json.loads((copy / "config.json").read_text())
    config["hf_tl"]["strategy"]["phases"][-1]["trainable_stages"] = 1
    (copy / "config.json").write_text(json.dumps(config))
    push(copy, REPO)
    for revision, trained in ((None, {"fc"}), (first, {"fc", "layer4"})):
        model, transforms = hf_tl.load(REPO, revision=revision)
        names = {name.split(".")[1] for name, p in model.named_parameters() if p.requires_grad}
        assert names == trained
        assert [model.config.id2label[index] for index in range(3)] == list(LABELS)
        model.train()
        assert not model.timm_model.bn1.training
    model.eval()
    local, _ = load(saved)
    pixels = torch.randn(1, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(model(pixel_values=pixels).logits, local(pixel_values=pixels).logits)
    assert transforms.eval is not None


def test_a_pushed_model_loads_offline_from_the_cache(
    hub: HubServer, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(saved, REPO)
    load(REPO)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    model, _ = load(REPO)
    assert model.config.id2label[0] == LABELS[0]


@pytest.mark.slow
def test_evaluate_measures_a_pushed_model(hub: HubServer, saved: Path, tmp_path: Path) -> None:
    push(saved, REPO)
    # with a Pipeline object evaluate 0.4.6 asks transformers for TFPreTrainedModel, which was removed
    code = """
import json
import datasets, evaluate, numpy as np
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification
from hf_tl.evaluation.offline import Accuracy

rows = np.random.default_rng(0).integers(0, 256, (6, 40, 50, 3), dtype=np.uint8)
features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=["cat", "dog", "owl"]))
images = datasets.Dataset.from_dict({"image": [Image.fromarray(row) for row in rows], "label": [0, 1, 2] * 2}, features)
model = AutoModelForImageClassification.from_pretrained("user/pets")
processor = AutoImageProcessor.from_pretrained("user/pets")
accuracies = []
for how in ({"model_or_pipeline": "user/pets"}, {"model_or_pipeline": model, "feature_extractor": processor}):
    measured = evaluate.evaluator("image-classification").compute(
        data=images, metric=Accuracy(), label_mapping=model.config.label2id, **how
    )
    accuracies.append(measured["accuracy"])
print(json.dumps(accuracies))
"""
    accuracies = json.loads(run_python(code, hub.url, tmp_path, has_hf_tl=True).splitlines()[-1])
    assert accuracies[0] == accuracies[1]
    assert 0 <= accuracies[0] <= 1


class Payload:
    """Object that writes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return (exec, (f"open({str(self.marker)!r}, 'w').close()",))


def publish_files(hub: HubServer, files: dict[str, bytes]) -> None:
    """Commit files of any name and content to a repository."""
    repo = {"type": "models", "id": "evil/pets", "refs": {}, "tags": {}, "commits": {}, "created": now()}
    repo["private"] = False
    hub.hub.repos["models", "evil/pets"] = repo
    entries = {name: hub.hub.regular(content) for name, content in files.items()}
    hub.hub.add_commit(repo, "main", entries, "x", "evil")


CODE = b"""open({marker!r}, 'w').close()
from transformers import PreTrainedConfig
class Config(PreTrainedConfig):
    pass
"""
AUTO_MAP = {"AutoConfig": "code.Config", "AutoModelForImageClassification": "code.Model"}


def hostile(case: str, saved: Path, marker: Path) -> dict[str, bytes]:
    """Return the files of a malicious repository."""
    files = {name: content for name, content in contents(saved).items() if "/" not in name}
    config = json.loads(files["config.json"])
    code = CODE.replace(b"{marker!r}", repr(str(marker)).encode())
    match case:
        case "auto_map":
            config |= {"model_type": "unheard_of", "auto_map": AUTO_MAP}
            files["code.py"] = code
        case "auto_map of a known type":
            config |= {"auto_map": AUTO_MAP, "trust_remote_code": True}
            files["code.py"] = code
        case "nested trust_remote_code":
            config["model_args"] = {"trust_remote_code": True}
        case "attention kernel":
            config["_attn_implementation_internal"] = "evil/kernel"
        case "nested attention kernel":
            config["text_config"] = {"attn_implementation": {"": "evil/kernel@main"}}
        case "other weights":
            config["model_args"] = {"checkpoint_path": str(marker.parent / "other.bin")}
            torch.save(Payload(marker), marker.parent / "other.bin")
        case "other place":
            config["architecture"] = f"local-dir:{marker.parent}"
        case "processor":
            files["preprocessor_config.json"] = json.dumps(
                {"image_processor_type": "Evil", "auto_map": {"AutoImageProcessor": "code.Config"}}
            ).encode()
            folder = save_transformers(tiny_vit(), marker.parent / "vit")
            config = json.loads((folder / "config.json").read_text())
            files["model.safetensors"] = (folder / "model.safetensors").read_bytes()
            shutil.rmtree(folder)
            files["code.py"] = code
        case "pickle":
            del files["model.safetensors"]
            torch.save({"fc.weight": Payload(marker)}, marker.parent / "evil.bin")
            files["pytorch_model.bin"] = (marker.parent / "evil.bin").read_bytes()
        case "names":
            files |= {"../evil.png": b"x", "/evil.png": b"x"}
        case "shards":
            del files["model.safetensors"]
            index = {"metadata": {}, "weight_map": {"fc.weight": "../../model.safetensors"}}
            files["model.safetensors.index.json"] = json.dumps(index).encode()
    return files | {"config.json": json.dumps(config).encode()}


HOSTILE = {
    "auto_map": "needs code from its repository.*trust_remote_code=True",
    "auto_map of a known type": "expected a config without trust_remote_code",
    "nested trust_remote_code": "expected a config without trust_remote_code",
    "attention kernel": "expected a config without kernels of another repository, found _attn_implementation_internal",
    "nested attention kernel": "expected a config without kernels of another repository, found attn_implementation",
    "other weights": "expected model_args without files in the config of .*, found checkpoint_path",
    "other place": "expected an architecture of timm in the config of .*, found the location",
    "processor": "needs code from its repository.*trust_remote_code=True",
    "pickle": "expected tensors only in the weights of .*, found a pickle that would run code",
    "names": "expected files inside the folder of",
    "shards": r"\.\.",
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_repository_is_refused(hub: HubServer, saved: Path, tmp_path: Path, case: str) -> None:
    marker = tmp_path / "outside" / "executed"
    marker.parent.mkdir()
    publish_files(hub, hostile(case, saved, marker))
    with pytest.raises(ModelError, match=HOSTILE[case]):
        load("evil/pets")
    assert not marker.exists()
    written = {path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("*") if path.is_file()}
    assert written <= {"hub", "cache", "outside"}
    assert {path.name for path in marker.parent.iterdir()} <= {"other.bin", "evil.bin"}


@pytest.mark.parametrize("case", HOSTILE)
def test_the_demo_refuses_a_hostile_repository(hub: HubServer, saved: Path, tmp_path: Path, case: str) -> None:
    marker = tmp_path / "outside" / "executed"
    marker.parent.mkdir()
    publish_files(hub, hostile(case, saved, marker))
    with pytest.raises(ModelError, match="evil/pets"):
        DemoModel("evil/pets")
    assert not marker.exists()
    assert {path.name for path in marker.parent.iterdir()} <= {"other.bin", "evil.bin"}


@pytest.mark.parametrize(
    "case", ["other weights", "other place", "nested trust_remote_code", "attention kernel", "shards"]
)
def test_a_hostile_folder_is_refused(saved: Path, tmp_path: Path, case: str) -> None:
    marker = tmp_path / "executed"
    folder = tmp_path / "evil"
    folder.mkdir()
    for name, content in hostile(case, saved, marker).items():
        (folder / name).write_bytes(content)
    with pytest.raises(ModelError, match=HOSTILE[case]):
        load(folder)
    assert not marker.exists()


@pytest.mark.parametrize("name", ["config.json", "run.json"])
def test_a_file_of_1_gb_is_not_downloaded(hub: HubServer, saved: Path, tmp_path: Path, name: str) -> None:
    publish_files(hub, {file: content for file, content in contents(saved).items() if "/" not in file})
    entry = hub.hub.files(hub.hub.repos["models", "evil/pets"])[name]
    entry["size"] = 10**9
    blob = hub.hub.blob("large")
    blob.touch()
    with blob.open("r+b") as file:
        file.truncate(10**9)
    entry["blob"] = "large"
    for fetch in (load, lambda repo_id: pull(repo_id, tmp_path / "pets")):
        with pytest.raises(ModelError, match=rf"at most 34 MB for each metadata file of .*, found {name} of 1,000 MB"):
            fetch("evil/pets")
    assert not any("/resolve/" in call[1] and call[0] == "GET" for call in hub.hub.log)
    assert not (tmp_path / "pets").exists()


def test_a_pull_writes_nothing_outside(hub: HubServer, saved: Path, tmp_path: Path) -> None:
    publish_files(hub, hostile("names", saved, tmp_path / "executed"))
    before = set(tmp_path.iterdir())
    with pytest.raises(ModelError, match=r"expected files inside the folder of .*, found ../evil.png, /evil.png"):
        pull("evil/pets", tmp_path / "pets")
    assert set(tmp_path.iterdir()) == before
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
