"""A push to a real Hub server over HTTP, and loading with the official clients."""

import ast
import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import timm
import torch
from hub.client import OTHER_TOKEN, READ_TOKEN, TOKEN, run_python
from hub.server import Fault, HubServer
from PIL import Image
from publish.pushed import REPO, commits, contents, published
from publish.records import LABELS, make_record, put
from safetensors.torch import load_file, save_file

from hf_tl.card.card import render_card
from hf_tl.card.plots import HISTORY_FIGURE, STAGES_FIGURE
from hf_tl.errors import PublishError
from hf_tl.hub.hub import check_push_access, push
from hf_tl.publish.save import rewrite_card
from hf_tl.record import read_record, write_record
from hf_tl.record.codec import encode
from hf_tl.record.learned import LEARNED_FILE

PUBLISHED = {"config.json", "model.safetensors", "README.md", "run.json", STAGES_FIGURE, HISTORY_FIGURE}
PRINT_ALL = (
    "import json",
    "with torch.inference_mode():",
    "    by_transformers = classifier.model(**inputs).logits[0].tolist()",
    "labels = [classifier.model.config.id2label[index] for index in range(3)]",
    "print(json.dumps({'transformers': by_transformers, 'timm': logits[0].tolist(), 'labels': labels}))",
)


def test_push_is_one_commit_of_the_model_alone(hub: HubServer, saved: Path) -> None:
    before = contents(saved)
    url = push(saved, REPO)
    (commit,) = commits(hub)
    assert set(commit["files"]) == PUBLISHED | {".gitattributes"}
    assert url == f"{hub.url}/{REPO}/commit/{commit['id']}"
    assert contents(saved) == before
    for name in PUBLISHED - {"README.md"}:
        assert hub.hub.read(commit["files"][name]) == before[name]
    card = hub.hub.read(commit["files"]["README.md"]).decode()
    assert card == render_card(read_record(saved), REPO)
    assert "USER/NAME" not in card
    assert huggingface_hub.ModelCard(card).data.base_model == "timm/test_resnet.r160_in1k"


def test_digests_of_training_images_stay_on_the_machine(hub: HubServer, saved: Path) -> None:
    assert (saved / LEARNED_FILE).is_file()
    push(saved, REPO)
    digests = (b"a" * 16, b"b" * 16)
    for name, content in published(hub).items():
        assert name != LEARNED_FILE
        assert not any(digest in content or digest.hex().encode() in content for digest in digests)
    (split,) = json.loads(published(hub)["run.json"])["learned_from"]
    assert split == encode(read_record(saved).learned_from[0])
    assert split["digest"] == "tr" * 32


def test_weights_of_a_training_that_has_not_ended_are_not_pushed(hub: HubServer, copy: Path) -> None:
    write_record(put(read_record(copy), status="training", measured={}), copy)
    for is_written in (True, False):
        if not is_written:
            (copy / "README.md").unlink()
        with pytest.raises(PublishError, match=r"has not ended: finish it.*--resume_from_checkpoint auto"):
            push(copy, REPO)
    assert not hub.hub.log


def test_a_model_that_was_not_measured_is_pushed_and_says_so(hub: HubServer, copy: Path) -> None:
    write_record(put(read_record(copy), status="trained", measured={}), copy)
    rewrite_card(copy)
    push(copy, REPO)
    card = published(hub)["README.md"].decode()
    assert "**Not measured.**" in card
    assert "model-index" not in card


def test_second_push_makes_no_commit(hub: HubServer, saved: Path) -> None:
    assert push(saved, REPO) == push(saved, REPO)
    assert len(commits(hub)) == 1


def test_push_to_a_branch_leaves_main(hub: HubServer, saved: Path) -> None:
    push(saved, REPO, revision="v2", private=True)
    assert len(commits(hub, "v2")) == 1
    assert not commits(hub)
    assert hub.hub.repos["models", REPO]["private"]


def test_push_replaces_what_would_be_loaded_with_it(hub: HubServer, saved: Path) -> None:
    api = huggingface_hub.HfApi()
    api.create_repo(REPO)
    for name in ("model.safetensors.index.json", "preprocessor_config.json", "photo.png", "NOTES.md"):
        api.upload_file(path_or_fileobj=b"{}", path_in_repo=name, repo_id=REPO)
    push(saved, REPO)
    assert set(commits(hub)[0]["files"]) == PUBLISHED | {".gitattributes", "photo.png", "NOTES.md"}


def test_pushed_model_loads_without_hf_tl(hub: HubServer, saved: Path, tmp_path: Path) -> None:
    Image.effect_mandelbrot((200, 160), (-3, -2.5, 2, 2.5), 100).convert("RGB").save(tmp_path / "image.jpg")
    push(saved, REPO)

    model = timm.create_model("test_resnet", num_classes=len(LABELS), checkpoint_path=saved / "model.safetensors")
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    with torch.inference_mode():
        expected = model.eval()(transform(Image.open(tmp_path / "image.jpg"))[None])[0]
    best = LABELS[int(expected.argmax())]

    # The card's own snippets, one after the other in one process; hf_tl's comes last and is not run here.
    snippets = re.findall(r"```python\n(.*?)```", render_card(make_record(), REPO), re.DOTALL)
    assert ["import hf_tl" in snippet for snippet in snippets] == [False, False, False, True]
    out = run_python("\n".join([*snippets[:3], *PRINT_ALL]), hub.url, tmp_path).splitlines()
    by_transformers, by_pipeline, by_timm, everything = out
    assert by_transformers.split()[0] == by_timm == ast.literal_eval(by_pipeline)[0]["label"] == best
    everything = json.loads(everything)
    assert everything["labels"] == list(LABELS)
    for library in ("transformers", "timm"):
        torch.testing.assert_close(torch.tensor(everything[library]), expected, rtol=0, atol=1e-6)


def test_the_blocker_hides_hf_tl(hub: HubServer, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="hf_tl is not installed here"):
        run_python("import hf_tl", hub.url, tmp_path)


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        (["model.safetensors"], "model.safetensors missing"),
        (["config.json", "run.json"], "config.json, run.json missing"),
        (["README.md"], "README.md missing; write the card again: hf-tl card"),
        ([STAGES_FIGURE], f"{STAGES_FIGURE} missing; write the card again: hf-tl card"),
        (["README.md", "config.json"], "README.md, config.json missing; name the --output_dir"),
    ],
)
def test_incomplete_folder_is_not_pushed(hub: HubServer, copy: Path, missing: list[str], said: str) -> None:
    for name in missing:
        (copy / name).unlink()
    with pytest.raises(PublishError, match=said):
        push(copy, REPO)
    assert not hub.hub.log


def test_shard_that_the_index_names_is_missed(hub: HubServer, copy: Path) -> None:
    (copy / "model.safetensors").rename(copy / "model-00001-of-00002.safetensors")
    weight_map = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(PublishError, match=r"model-00002-of-00002\.safetensors missing"):
        push(copy, REPO)


@pytest.mark.parametrize("name", ["model.safetensors", "run.json", "config.json"])
def test_truncated_file_is_not_pushed(hub: HubServer, copy: Path, name: str) -> None:
    whole = (copy / name).read_bytes()
    (copy / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(PublishError, match=name):
        push(copy, REPO)
    assert not hub.hub.log


@pytest.mark.parametrize(
    ("repo_id", "token", "said"),
    [
        ("pets", None, "without a user"),
        ("user/pets/more", None, "USER/NAME"),
        ("user/pe ts", None, "USER/NAME"),
        (REPO, READ_TOKEN, "reading only"),
        (REPO, "hf_wrong", "hf auth login.*401"),
        ("someone/pets", None, "may write to user, team: push to user/pets"),
    ],
)
def test_push_that_would_be_refused_is_seen_before(hub: HubServer, repo_id: str, token: str | None, said: str) -> None:
    with pytest.raises(PublishError, match=said) as caught:
        check_push_access(repo_id, token)
    assert "hf_" not in str(caught.value).replace("hf_tl", "")
    assert not hub.hub.repos


def test_push_without_token_says_how_to_get_one(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(PublishError, match=r"no Hub token.*hf auth login"):
        check_push_access(REPO)


def test_access_of_user_and_organisation(hub: HubServer) -> None:
    check_push_access(REPO)
    check_push_access("team/pets")


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Fault("/api/repos/create", status=403), "write permission"),
        (Fault("/preupload/", status=403), "write permission"),
        (Fault("/lfs/objects/batch", status=413), "too large"),
    ],
)
def test_refused_push_tells_how_to_push_later(hub: HubServer, copy: Path, fault: Fault, said: str) -> None:
    before = contents(copy)
    hub.hub.faults.append(fault)
    with pytest.raises(PublishError, match=said) as caught:
        push(copy, REPO)
    assert contents(copy) == before
    assert f"hf-tl push '{copy}' {REPO}" in str(caught.value)
    hub.hub.faults.clear()
    push(copy, REPO)
    assert len(commits(hub)) == 1


def test_of_two_pushes_at_once_one_wins_whole(hub: HubServer, saved: Path, copy: Path) -> None:
    write_record(put(read_record(copy), hardware="another"), copy)
    overtaken = Fault("/commit/", until=lambda: len(commits(hub)) == 1)
    hub.hub.faults.append(overtaken)
    with ThreadPoolExecutor() as pool:
        first = pool.submit(push, saved, REPO)
        while overtaken.times:
            time.sleep(0.01)
        push(copy, REPO)
        with pytest.raises(PublishError, match=r"another commit changed .* during the push.*push again"):
            first.result()
    (commit,) = commits(hub)
    assert hub.hub.read(commit["files"]["run.json"]) == (copy / "run.json").read_bytes()


def test_private_push_to_a_public_repository_is_refused(hub: HubServer, saved: Path) -> None:
    push(saved, REPO)
    with pytest.raises(PublishError, match="is public"):
        push(saved, REPO, private=True)


def test_card_that_the_hub_refuses(hub: HubServer, copy: Path) -> None:
    card = (copy / "README.md").read_text()
    (copy / "README.md").write_text(card.replace("license: apache-2.0", "license: my-own"))
    with pytest.raises(PublishError, match=r"refused the card: metadata.*license"):
        push(copy, REPO)
    assert not hub.hub.repos


def scoped(*permissions: str, name: str = "user") -> dict[str, Any]:
    """Return the Hub's description of a fine-grained token."""
    entity = {"_id": "1", "type": "user", "name": name}
    return {"global": [], "scoped": [{"entity": entity, "permissions": ["repo.content.read", *permissions]}]}


@pytest.mark.parametrize(
    ("permissions", "is_allowed"),
    [
        (scoped("repo.write"), True),
        (scoped("repo.write", name=REPO), True),
        ({"canReadGatedRepos": True}, True),  # unknown permissions are checked by the push itself
        (scoped(), False),
        (scoped("repo.write", name="team"), False),
    ],
)
def test_fine_grained_token(hub: HubServer, permissions: dict[str, Any], is_allowed: bool) -> None:
    hub.hub.tokens = {TOKEN: {"name": "user", "role": "fineGrained", "fineGrained": permissions}}
    if is_allowed:
        check_push_access(REPO)
        return
    with pytest.raises(PublishError, match="fine-grained Hub token may not write to user/pets"):
        check_push_access(REPO)


def test_pull_request_to_a_repository_of_somebody_else(
    hub: HubServer, saved: Path, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(saved, REPO)
    monkeypatch.setenv("HF_TOKEN", OTHER_TOKEN)
    with (copy / "README.md").open("a") as card:
        card.write("Proposed.\n")
    url = push(copy, REPO, create_pr=True)
    assert url == f"{hub.url}/{REPO}/discussions/1"
    assert push(copy, REPO, create_pr=True) == url
    assert len(commits(hub)) == 1
    assert len(commits(hub, "refs/pr/1")) == 2
    assert published(hub, "refs/pr/1")["README.md"].endswith(b"Proposed.\n")
    assert hub.hub.repos["models", REPO]["discussions"][0]["status"] == "open"
    # an existing model needs no pull request
    assert push(saved, REPO, create_pr=True).startswith(f"{hub.url}/{REPO}/commit/")
    assert len(hub.hub.repos["models", REPO]["discussions"]) == 1


@pytest.mark.parametrize("path", [r"/discussions$", "/discussions/1/status", r"/commit/refs%2Fpr%2F1"])
def test_pull_request_whose_answer_is_lost_is_not_made_twice(
    hub: HubServer, saved: Path, copy: Path, path: str
) -> None:
    push(saved, REPO)
    with (copy / "README.md").open("a") as card:
        card.write("Proposed.\n")
    hub.hub.faults.append(Fault(path, method="POST", is_cut=True, is_done=True))
    push(copy, REPO, create_pr=True)
    assert not hub.hub.faults[0].times
    assert len(hub.hub.repos["models", REPO]["discussions"]) == 1
    assert len(commits(hub, "refs/pr/1")) == 2


@pytest.mark.parametrize("options", [{"revision": "v2"}, {"private": True}])
def test_pull_request_to_another_branch_is_refused(hub: HubServer, saved: Path, options: dict[str, Any]) -> None:
    with pytest.raises(PublishError, match="made to main"):
        push(saved, REPO, create_pr=True, **options)
    assert not hub.hub.log


def test_weights_of_another_run_are_not_pushed(hub: HubServer, copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    weights["fc.bias"] += 1
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(PublishError, match=r"weights in .* are not those of run\.json"):
        push(copy, REPO)
    assert not hub.hub.log


def test_weights_written_again_are_the_same(hub: HubServer, copy: Path) -> None:
    save_file(dict(reversed(load_file(copy / "model.safetensors").items())), copy / "model.safetensors")
    push(copy, REPO)


def test_config_of_another_run_is_not_pushed(hub: HubServer, copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text()) | {"label_names": ["cow", "dog", "owl"]}
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(PublishError, match=r"mixes two runs: config\.json has the classes cow, dog, owl"):
        push(copy, REPO)
    assert not hub.hub.log


@pytest.mark.parametrize("metadata", ["license: [", "- a list", "model-index: 3"])
def test_card_whose_metadata_cannot_be_read_is_not_pushed(hub: HubServer, copy: Path, metadata: str) -> None:
    (copy / "README.md").write_text(f"---\n{metadata}\n---\n\n# Pets\n")
    with pytest.raises(PublishError, match=r"metadata of .*README\.md cannot be read.*hf-tl card"):
        push(copy, REPO)
    assert not hub.hub.log


def test_gitignore_that_keeps_out_a_file_is_refused(hub: HubServer, saved: Path) -> None:
    api = huggingface_hub.HfApi()
    api.create_repo(REPO)
    api.upload_file(path_or_fileobj=b"*.safetensors", path_in_repo=".gitignore", repo_id=REPO)
    with pytest.raises(PublishError, match=r"\.gitignore excludes model\.safetensors"):
        push(saved, REPO)
    assert len(commits(hub)) == 1


def test_what_a_user_wrote_into_the_card_is_kept(hub: HubServer, copy: Path) -> None:
    with (copy / "README.md").open("a") as card:
        card.write("\n## Limits\n\nDaylight only.\n")
    push(copy, REPO)
    pushed = hub.hub.read(commits(hub)[0]["files"]["README.md"]).decode()
    assert pushed.endswith("Daylight only.\n")
    assert f'MODEL = "{REPO}"' in pushed
