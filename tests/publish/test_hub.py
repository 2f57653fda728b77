"""A push to a real Hub server over HTTP, and loading with the official clients."""

import ast
import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import huggingface_hub
import pytest
import timm
import torch
from hub.client import run_python
from hub.server import Fault, HubServer
from PIL import Image
from publish.pushed import REPO, commits, contents, published
from publish.records import LABELS, make_record, put

from hf_tl.card.card import render_card
from hf_tl.card.figures.training import HISTORY_FIGURE, STAGES_FIGURE
from hf_tl.errors import PublishError
from hf_tl.hub.hub import push
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


def test_a_model_that_was_not_measured_is_pushed_and_says_so(hub: HubServer, copy: Path) -> None:
    write_record(put(read_record(copy), status="trained", measured={}), copy)
    rewrite_card(copy)
    push(copy, REPO)
    card = published(hub)["README.md"].decode()
    assert "**Not evaluated.**" in card
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
    by_pipeline, by_transformers, by_timm, everything = out
    assert by_transformers.split()[0] == by_timm == ast.literal_eval(by_pipeline)[0]["label"] == best
    everything = json.loads(everything)
    assert everything["labels"] == list(LABELS)
    for library in ("transformers", "timm"):
        torch.testing.assert_close(torch.tensor(everything[library]), expected, rtol=0, atol=1e-6)


def test_the_blocker_hides_hf_tl(hub: HubServer, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="hf_tl is not installed here"):
        run_python("import hf_tl", hub.url, tmp_path)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Fault("/api/repos/create", status=403), "write permission"),
        (Fault("/preupload/", status=403), "write permission"),
        (Fault("/lfs/objects/batch", status=413), "too large"),
    ],
)
def test_the_error_of_a_refused_push_contains_the_command(hub: HubServer, copy: Path, fault: Fault, said: str) -> None:
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
    assert f'model="{REPO}"' in pushed
