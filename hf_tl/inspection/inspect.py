"""Inspect a dataset before training."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_tl import __version__
from hf_tl.backbones.candidates import Backbone, candidates, is_demo
from hf_tl.config import ModelConfig
from hf_tl.errors import ConfigError
from hf_tl.inspection.analysis.findings import analyze
from hf_tl.inspection.counts import count_findings, digest_data
from hf_tl.inspection.embedding import Embedder
from hf_tl.inspection.exclusions import Exclusion, suggest_exclusions
from hf_tl.inspection.opening import open_images
from hf_tl.inspection.page import render_page, shown_rows
from hf_tl.inspection.reading import Facts, read_images
from hf_tl.inspection.result import Inspection
from hf_tl.inspection.summary import image_of, summarize
from hf_tl.inspection.thumbnails import contact_sheet, thumbnails
from hf_tl.record.codec import encode
from hf_tl.renamed import OLD_SOURCE, renamed
from hf_tl.storage.folders import make_folder
from hf_tl.storage.writing import temporary_folder

if TYPE_CHECKING:
    from hf_tl.data.image_data import AnyDataset


@renamed(**OLD_SOURCE)
def inspect(
    dataset: "AnyDataset",
    model: str | Backbone | None = None,
    *,
    weights: str | None = None,
    output_dir: str | Path | None = None,
    seed: int = 0,
    **reading: Any,
) -> Inspection:
    """Inspect the images and labels of a dataset: files, classes, copies, leakage, and with a model also label errors.

    Each image is decoded once. Nothing is trained but a linear probe, and no file is changed.

    Args:
        dataset: A name, a folder, a table, `datasets.Dataset`, `DatasetDict`, or the result of `hf_tl.load_data`.
        model: Pretrained backbone whose embeddings find label errors, outliers and more near-duplicates: a value of
            `--model`, or `"demo"`; none by default.
        weights: Local weights file, for `timm:ARCH`.
        output_dir: Folder for `inspection.html`, `inspection.json` and `exclusions.csv`.
        seed: Random seed of the contact sheet and of the folds of the linear probe.
        reading: Arguments of `hf_tl.load_data` about the source and how to read it, such as `label_column` and
            `exclude_list`.

    Raises:
        DataError: The dataset cannot be opened, or has no labels.
        ModelError: The model cannot be loaded.

    >>> import hf_tl
    >>> inspection = hf_tl.inspect("photos")
    >>> inspection.images, inspection.leaks, len(inspection.exclusions)
    (40, 0, 0)
    """
    from accelerate import PartialState

    if output_dir is not None:
        make_folder(output_dir)  # fail before minutes of computation
    backbone = _backbone(model, weights)
    images = open_images(dataset, **reading)
    embedder = None if backbone is None else Embedder(backbone, PartialState().device)
    with temporary_folder("small versions of the images") as folder:
        facts = read_images(images, folder, embedder)
        findings = analyze(images, facts, seed)
        facts.close()
    suggested = suggest_exclusions(images, facts, findings)
    exclusions, name = tuple(suggested.values()), None if backbone is None else backbone.name
    record = {
        **summarize(images, facts, findings),
        "counts": encode(count_findings(images, facts, findings, name)),
        "data": digest_data(images, facts, suggested),
        "training_images": _count_training_images(backbone, facts),
        "exclusions": {"images": len(exclusions), "reasons": _count_reasons(exclusions)},
        "settings": {"model": name, "seed": seed, "version": __version__},
    }
    sheet = contact_sheet(images, facts, seed)
    pictures = thumbnails(images, shown_rows(record, sheet))
    named = {name: [image_of(images, row) for row in rows] for name, rows in sheet.items()}
    inspection = Inspection(record, exclusions, render_page(record, named, pictures))
    if output_dir is not None:
        inspection.save(output_dir)
    return inspection


def _backbone(model: str | Backbone | None, weights: str | None) -> Backbone | None:
    """Return the backbone that `--model` and `--weights` name."""
    if isinstance(model, Backbone):
        return model
    if model is None:
        if weights is not None:
            raise ConfigError(f"--weights {weights} needs the --model that it is for")
        return None
    if is_demo(model):
        return candidates(ModelConfig())[0]
    return Backbone(model, weights)


def _count_training_images(backbone: Backbone | None, facts: Facts) -> int:
    """Count the images that hf_tl trained the backbone on; label errors among them are hard to find with it."""
    if backbone is None or not (learned := backbone.learned()).digests:
        return 0
    return int(learned.mask([digest.tobytes() for digest in facts.digests]).sum())


def _count_reasons(exclusions: Sequence[Exclusion]) -> dict[str, int]:
    return dict(Counter(exclusion.reason for exclusion in exclusions).most_common())
