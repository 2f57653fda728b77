"""A Space beside a pushed model, over HTTP: one commit of an app that needs only the hf_tl files of the Space."""

import importlib.util
import json
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import huggingface_hub
import pytest

if importlib.util.find_spec("gradio") is None:
    pytest.skip("needs gradio", allow_module_level=True)

from hub.client import READ_TOKEN
from hub.server import Fault, HubServer
from publish.pushed import REPO, commits, published

from hf_tl.cli import main
from hf_tl.demo.space import push_with_space, space_files
from hf_tl.errors import PublishError

SPACE = "user/pet-page"
OWN = {"app.py", "requirements.txt", "README.md"}
ENDPOINTS = {
    "card": Fault("/validate-yaml"),
    "creation": Fault("/repos/create"),
    "state": Fault("/api/spaces/user/pet-page$"),
    "preupload": Fault("/api/spaces/.*/preupload/"),
    "commit": Fault("/api/spaces/.*/commit/"),
}


def space(hub: HubServer, name: str = SPACE) -> dict[str, bytes]:
    return published(hub, repo_id=name, kind="spaces")


def space_commits(hub: HubServer) -> int:
    return len(commits(hub, repo_id=SPACE, kind="spaces"))


def test_a_space_is_one_commit_beside_the_model(hub: HubServer, saved: Path) -> None:
    commit, address = push_with_space(saved, REPO, SPACE)
    (model,) = commits(hub)
    assert commit.endswith(model["id"])
    assert address == f"{hub.url}/spaces/{SPACE}"
    assert space_commits(hub) == 1
    files = space(hub)
    assert all(name in OWN or name.startswith("hf_tl/") for name in files)
    assert f'launch("{REPO}", revision="{model["id"]}")' in files["app.py"].decode()
    card = huggingface_hub.SpaceCard(files["README.md"].decode()).data
    assert (card.sdk, card.sdk_version, card.app_file) == ("gradio", version("gradio"), "app.py")
    assert card.models == [REPO]
    assert f"gradio=={version('gradio')}" in files["requirements.txt"].decode().split()
    assert {"hf_tl/record/__init__.py", "hf_tl/record/migrate.py"} < set(files)
    assert not [name for name in files if "learned_from" in name]
    assert not re.search("/root|/home|/tmp|hf_test", "".join(content.decode() for content in files.values()))


def test_the_space_imports_nothing_but_what_it_holds_and_requires(tmp_path: Path) -> None:
    files = space_files(SPACE, REPO, "0" * 40)
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    program = "import sys; sys.path.insert(0, '.'); "
    program += "import hf_tl.classics, hf_tl.demo.demo_page, hf_tl.demo.guard, json; "
    program += "assert not {'datasets', 'evaluate'} & set(sys.modules), 'a Space does not install them'; "
    program += "print(json.dumps([[name, module.__file__] for name, module in sys.modules.items() if 'hf_tl' in name]))"
    done = subprocess.run(
        [sys.executable, "-I", "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    modules = json.loads(done.stdout.splitlines()[-1])
    assert len(modules) > 20
    assert all(Path(file).resolve().is_relative_to(tmp_path.resolve()) for _, file in modules)


def test_a_second_push_makes_no_commit_and_a_new_model_makes_one(hub: HubServer, copy: Path) -> None:
    first = push_with_space(copy, REPO, SPACE)
    assert push_with_space(copy, REPO, SPACE) == first
    assert space_commits(hub) == 1
    with (copy / "README.md").open("a") as card:
        card.write("\nDaylight only.\n")
    push_with_space(copy, REPO, SPACE)
    assert space_commits(hub) == 2


def test_files_of_an_older_hf_tl_are_removed_from_the_space(hub: HubServer, saved: Path) -> None:
    push_with_space(saved, REPO, SPACE)
    api = huggingface_hub.HfApi()
    for name in ("hf_tl/old.py", "notes.md"):
        api.upload_file(path_or_fileobj=b"1", path_in_repo=name, repo_id=SPACE, repo_type="space")
    push_with_space(saved, REPO, SPACE)
    assert "hf_tl/old.py" not in space(hub)
    assert "notes.md" in space(hub)


def test_the_app_of_somebody_else_stays(hub: HubServer, saved: Path) -> None:
    api = huggingface_hub.HfApi()
    api.create_repo(SPACE, repo_type="space", space_sdk="gradio")
    api.upload_file(path_or_fileobj=b"1", path_in_repo="app.py", repo_id=SPACE, repo_type="space")
    with pytest.raises(PublishError, match=r"holds an app that hf_tl did not create.*space_name"):
        push_with_space(saved, REPO, SPACE)
    assert ("models", REPO) not in hub.hub.repos, "nothing is pushed"
    assert space(hub)["app.py"] == b"1"


def test_a_private_space(hub: HubServer, saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["push", str(saved), REPO, "--space", "--private"])
    assert hub.hub.repos["spaces", REPO]["private"]
    assert hub.hub.repos["models", REPO]["private"]
    assert "secret HF_TOKEN" in capsys.readouterr().out


def test_a_private_push_to_a_public_space_is_refused_before_anything_is_sent(hub: HubServer, saved: Path) -> None:
    huggingface_hub.HfApi().create_repo(SPACE, repo_type="space", space_sdk="gradio")
    with pytest.raises(PublishError, match="is public"):
        push_with_space(saved, REPO, SPACE, private=True)
    assert ("models", REPO) not in hub.hub.repos


@pytest.mark.parametrize(
    ("name", "token", "said"),
    [("pets", None, "without a user"), ("someone/pets", None, "may write to"), (SPACE, READ_TOKEN, "reading only")],
)
def test_a_space_that_may_not_be_made(hub: HubServer, saved: Path, name: str, token: str | None, said: str) -> None:
    with pytest.raises(PublishError, match=said):
        push_with_space(saved, REPO, name, token=token)
    assert not hub.hub.repos


def test_a_proposed_model_has_no_space(hub: HubServer, saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["push", str(saved), REPO, "--space", "--create_pr"])
    assert "leave one out" in capsys.readouterr().err
    assert not hub.hub.log


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_a_fault_that_passes(hub: HubServer, saved: Path, endpoint: str) -> None:
    hub.hub.faults.append(replace(ENDPOINTS[endpoint], status=503, headers={"Retry-After": "0"}))
    push_with_space(saved, REPO, SPACE)
    assert not hub.hub.faults[0].times, "the fault was met"
    assert space_commits(hub) == 1


def test_a_space_that_cannot_be_made_leaves_the_model_published(hub: HubServer, saved: Path) -> None:
    hub.hub.faults.append(replace(ENDPOINTS["commit"], status=402, message="a subscription is needed", times=99))
    with pytest.raises(PublishError, match=r"plan does not cover it(?s:.*)The model is published") as caught:
        push_with_space(saved, REPO, SPACE)
    assert len(commits(hub)) == 1
    assert f"hf-tl push {saved} {REPO} --space_name {SPACE}" in str(caught.value)


def test_a_change_by_somebody_else_during_the_push_is_reported(hub: HubServer, saved: Path) -> None:
    overtaken = replace(ENDPOINTS["commit"], until=lambda: space_commits(hub) == 1)
    hub.hub.faults.append(overtaken)
    with ThreadPoolExecutor() as pool:
        first = pool.submit(push_with_space, saved, REPO, SPACE)
        while overtaken.times and not first.done():
            time.sleep(0.01)
        huggingface_hub.HfApi().upload_file(
            path_or_fileobj=b"1", path_in_repo="notes.md", repo_id=SPACE, repo_type="space"
        )
        with pytest.raises(PublishError, match=r"another commit changed .* during the push.*push again"):
            first.result()
    assert space_commits(hub) == 1
    assert "app.py" not in space(hub)
