"""Checks that a folder holds one complete saved model, before a push or after a pull."""

import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard
from yaml import YAMLError

from hf_tl.abstention.detector import FILE as ABSTENTION_FILE
from hf_tl.backbones.weights.saved_model import INDEX_FILE, read_json, weight_names, weights_digest
from hf_tl.errors import PublishError, name_some
from hf_tl.record import RECORD_FILE, RunRecord, read_record

CARD_FILE = "README.md"
REQUIRED = ("config.json", CARD_FILE, RECORD_FILE)
WEIGHTS = ("model.safetensors", "model-*-of-*.safetensors", INDEX_FILE)
PUBLISHED = (*REQUIRED, *WEIGHTS, "preprocessor_config.json", ABSTENTION_FILE, "*.png")
"""Published files. Checkpoints, logs, and digests of training images (`hf_tl.record.learned`) stay on the machine."""


def is_among(name: str, patterns: Iterable[str]) -> bool:
    """Return whether `name`, of a file at the top level, matches one of `patterns`."""
    return "/" not in name and any(fnmatch(name, pattern) for pattern in patterns)


def check_folder(folder: Path) -> list[Path]:
    """Check that a folder is one complete saved model, and return the files to publish.

    A trained model without results may be published: its card says so. Weights of an unfinished training may not.

    Raises:
        PublishError: A file is missing, damaged, or of another run; or the training is unfinished.
    """
    if not folder.is_dir():
        raise PublishError(f"{folder} is not a folder; name the --output_dir of a finished training")
    names = {path.name for path in folder.iterdir() if path.is_file()}
    record = read_record(folder) if RECORD_FILE in names else None
    if record is not None and record.status == "training":
        raise PublishError(
            f"{folder} holds the weights of an unfinished training: finish it with the same command and "
            f"--output_dir {folder} --resume_from_checkpoint auto"
        )
    weights = weight_names(folder, names)
    of_card = {CARD_FILE, *_figures_of_card(folder / CARD_FILE)}
    missing = {*REQUIRED, *weights, *of_card} - names
    if record is None or missing:
        raise PublishError(
            f"{folder} is not a complete saved model: {name_some(sorted(missing))} missing; "
            + (
                f"write the card again: hf-tl card {folder}"
                if missing <= of_card
                else "name the --output_dir of a finished training, or train again"
            )
        )
    _check_card(folder / CARD_FILE)
    _check_match(folder, record, read_json(folder / "config.json"), weights)
    return [folder / name for name in sorted(names) if is_among(name, PUBLISHED)]


def _figures_of_card(card: Path) -> set[str]:
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    return set(re.findall(r"!\[[^]]*\]\(([^)/]+\.png)\)", text))


def _check_card(card: Path) -> None:
    try:
        ModelCard.load(card)
    except (ValueError, TypeError, YAMLError) as error:
        reason = " ".join(str(error).split())
        raise PublishError(
            f"the metadata of {card} cannot be read: {reason}; correct it, or write it again: hf-tl card {card.parent}"
        ) from error


def _check_match(folder: Path, record: RunRecord, config: Mapping[str, Any], weights: set[str]) -> None:
    """Check that config and weights belong to the record."""
    expected = list(record.data.labels)
    labels = config.get("label_names") or _in_order(config.get("id2label"))
    if labels != expected:
        shown = name_some(labels if isinstance(labels, list) else [labels])
        raise PublishError(
            f"{folder} mixes two runs: config.json has the classes {shown}, and the record "
            f"{name_some(expected)}; train or save again"
        )
    if record.weights_digest not in (None, weights_digest(folder, weights)):
        raise PublishError(
            f"the weights in {folder} are not those of {RECORD_FILE}: they were changed or replaced after the run was "
            "saved; train or save again"
        )


def _in_order(names: Any) -> list[Any]:
    """Return the values of `id2label` in the order of the logits."""
    known = names if isinstance(names, dict) else {}
    return [known[index] for index in sorted(known, key=lambda index: int(index) if index.isdecimal() else -1)]
