"""Space beside a published model: the page of `hf-tl demo`, hosted by the Hub (https://huggingface.co/docs/hub/spaces).

The Space does not need hf_tl installed: it holds the required files of hf_tl, and plain transformers loads the model.
It shows the revision of the model that was pushed with it, even after later pushes to the model's repository.
"""

import ast
import os
import platform
import shlex
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, SpaceCard, SpaceCardData
from huggingface_hub.errors import RepositoryNotFoundError

from hf_tl.demo.demo import STYLE, check_gradio
from hf_tl.errors import PublishError
from hf_tl.hub.hub import check_card, check_push_access, push
from hf_tl.hub.hub_commit import Branch
from hf_tl.hub.hub_requests import explained
from hf_tl.publish.checks import CARD_FILE

PACKAGE = Path(__file__).parents[1]
ROOTS = ("hf_tl.demo.demo", "hf_tl.demo.demo_page", "hf_tl.demo.guard", "hf_tl.classics")
"""Modules of hf_tl that a Space imports."""
LIBRARIES = ("torch", "torchvision", "timm", "transformers", "pillow", "numpy", "gradio")
"""Libraries that these modules import."""
APP_FILE, TAG = "app.py", "hf_tl"
COMMIT_MESSAGE = "Show the model on a page"
APP = '''"""Web page of a model that hf_tl trained. Its modules are in hf_tl/."""

from hf_tl.demo.demo import launch

launch("{model}", revision="{revision}")
'''
TEXT = """
# {title}

Predictions of [{model}](https://huggingface.co/{model}) for an image, with activation maps, and how the model was
trained.

The page runs the model with plain transformers, at the revision `{revision}`. The files in `hf_tl/` are a part of hf_tl
(Apache-2.0), which created this Space. To update it: `hf-tl push FOLDER {model} --space`.
"""


def push_with_space(
    output_dir: str | os.PathLike[str],
    repo_id: str,
    space_id: str | None = None,
    *,
    private: bool | None = None,
    revision: str | None = None,
    token: str | None = None,
) -> tuple[str, str]:
    """Publish a saved model as `push` does, then a Space that shows it, each in one commit.

    Args:
        output_dir: Folder of a model that hf_tl saved.
        repo_id: Repository `USER/NAME` of the model.
        space_id: `USER/NAME` of the Space; that of the model by default. It is created if it does not exist.
        private: As in `push`, for model and Space. A private Space needs a secret `HF_TOKEN` to read a private model.
        revision: Branch of the model, as in `push`.
        token: As in `push`.

    Returns:
        URL of the model's commit and URL of the Space.

    Raises:
        ConfigError: gradio is not installed; its version determines that of the Space.
        PublishError: As in `push`; or a Space of this name exists that hf_tl did not create.
    """
    check_gradio()
    space_id = space_id or repo_id
    api = HfApi(token=token, library_name="hf_tl")
    branch = Branch(api, space_id, COMMIT_MESSAGE, lambda name: name.startswith("hf_tl/"), repo_type="space")
    check_push_access(space_id, token)
    with explained(f"create the Space {space_id}"):
        _check_space(branch, private)
    url = push(output_dir, repo_id, private=private, revision=revision, token=token)
    try:
        with explained(f"create the Space {space_id}"):
            _push_space(branch, repo_id, url.rpartition("/")[2], private)
    except PublishError as error:
        command = ["hf-tl", "push", os.fspath(output_dir), repo_id, "--space_name", space_id]
        command += [*(["--private"] if private else []), *(["--revision", revision] if revision else [])]
        raise PublishError(
            f"{error}\nThe model is published ({url}); create its Space later: {shlex.join(command)}"
        ) from error
    return url, branch.url


def space_files(space_id: str, model: str, revision: str) -> dict[str, bytes]:
    """Return the files of a Space.

    Args:
        space_id: `USER/NAME` of the Space.
        model: `USER/NAME` of the model.
        revision: Commit of the model that the Space shows.
    """
    title = space_id.rpartition("/")[2]
    data = SpaceCardData(
        title=title,
        emoji="🔎",
        colorFrom="blue",
        colorTo="yellow",
        sdk="gradio",
        sdk_version=version("gradio"),
        python_version=".".join(platform.python_version_tuple()[:2]),
        app_file=APP_FILE,
        license="apache-2.0",
        models=[model],
        tags=[TAG, "image-classification"],
        short_description="Classifies an image and shows where the model looked",
    )
    card = f"---\n{data.to_yaml()}\n---\n{TEXT.format(title=title, model=model, revision=revision)}"
    # package indexes do not know the "+cpu" of a build
    pins = "".join(f"{name}=={version(name).partition('+')[0]}\n" for name in LIBRARIES)
    written = {CARD_FILE: card, APP_FILE: APP.format(model=model, revision=revision), "requirements.txt": pins}
    return {name: text.encode() for name, text in written.items()} | {
        path.relative_to(PACKAGE.parent).as_posix(): path.read_bytes() for path in (*_modules(), STYLE)
    }


def _modules() -> list[Path]:
    """Return the paths of all modules of hf_tl that a Space imports, directly or indirectly at import time."""
    modules: set[Path] = set()
    queue = [_path(name) for name in ROOTS]
    while queue:
        if (path := queue.pop()) not in modules:
            modules.add(path)
            queue += _imports(path)
    packages = {folder / "__init__.py" for path in modules for folder in path.parents if folder.is_relative_to(PACKAGE)}
    return sorted(modules | packages)


def _imports(path: Path) -> Iterator[Path]:
    for statement in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.ImportFrom) and (statement.module or "").startswith("hf_tl."):
            yield _path(str(statement.module))


def _path(name: str) -> Path:
    path = PACKAGE.joinpath(*name.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _push_space(branch: Branch, model: str, revision: str, private: bool | None) -> None:
    files = space_files(branch.repo_id, model, revision)
    check_card(SpaceCard(files[CARD_FILE].decode()))
    branch.create(private)
    branch.commit([CommitOperationAdd(name, content) for name, content in sorted(files.items())], branch.head())


def _check_space(branch: Branch, private: bool | None) -> None:
    """Check, before the model is pushed, that hf_tl created the Space of this name, if there is one."""
    try:
        head = branch.head()
    except RepositoryNotFoundError:
        return
    has_app = APP_FILE in {sibling.rfilename for sibling in head.siblings or ()}
    if has_app and TAG not in ((head.card_data and head.card_data.tags) or ()):
        raise PublishError(
            f"the Space {branch.repo_id} holds an app that hf_tl did not create and would replace; name another "
            "Space (--space_name USER/NAME)"
        )
    branch.check_private(private, head)
