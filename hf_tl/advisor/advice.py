"""Recommendation for a run: computed by `--strategy auto`, or read from a folder of `hf-tl recommend`."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_tl.advisor.measuring.data import split_digests
from hf_tl.advisor.recommendation import RECORD, SCHEMA_VERSION
from hf_tl.card.sections.reasons import published_advice
from hf_tl.checkpoints.checkpoint import FOLDER
from hf_tl.config import RunConfig
from hf_tl.errors import ConfigError, DataError, name_some, unreadable
from hf_tl.processes.together import on_main_process
from hf_tl.record.codec import encode
from hf_tl.record.migrate import rename_keys
from hf_tl.reporting.console import say
from hf_tl.storage.documents import read_json
from hf_tl.storage.text import replace_text
from hf_tl.storage.writing import writing
from hf_tl.tuning import LoRA

if TYPE_CHECKING:
    from accelerate import Accelerator

    from hf_tl.backbones.candidates import Backbone
    from hf_tl.data.datasets import ImageData


ADVICE = "advice.json"
"""File beside the checkpoints of a run of `--strategy auto`."""


@dataclass(frozen=True)
class Advice:
    """Recommendation that a run follows; empty for a run with a strategy of its own."""

    record: dict[str, Any] | None = None
    """Recommendation in the form that the card shows."""
    candidate: "Backbone | None" = None
    """Recommended backbone."""
    climb: Mapping[str, Any] | None = None
    """Stage depths of the climb, for `Strategy.auto`."""
    rung_seconds: Sequence[float] = ()
    """Expected training time of each stage depth, in seconds."""


def take_advice(
    accelerator: "Accelerator", data: "ImageData", backbones: "Sequence[Backbone]", config: RunConfig, output_dir: str
) -> Advice:
    """Compute or read the recommendation, if the run asks for one.

    Args:
        accelerator: Its main process computes the recommendation; the others receive it.
        data: Training data.
        backbones: Candidates.
        config: Configuration of the run.
        output_dir: Folder of the run, which keeps the recommendation of `--strategy auto` until the run is complete:
            measured again, it might differ from that of the checkpoints.

    Raises:
        ConfigError: The recommendation cannot be read, or belongs to other data or another model.
        DataError: The advisor recommends no training.
    """
    if config.strategy.recommendation is not None:
        return _read(Path(config.strategy.recommendation), data, backbones)
    if config.strategy.strategy != "auto":
        return Advice()
    file = Path(output_dir, FOLDER, ADVICE)

    def compute() -> Advice:
        if config.training.resume_from_checkpoint is not None and file.exists():
            return _reread(file, data, backbones)
        advice = _compute(data, backbones, config)
        _keep(advice, file, data, backbones)
        return advice

    return on_main_process(accelerator, compute)


def _keep(advice: Advice, file: Path, data: "ImageData", backbones: "Sequence[Backbone]") -> None:
    """Write the advice beside the checkpoints of a run."""
    assert advice.candidate is not None
    content = {
        "splits": split_digests(data),
        "record": advice.record,
        "candidate": [backbones.index(advice.candidate), advice.candidate.name],
        "climb": {name: encode(value) for name, value in (advice.climb or {}).items()},
        "rung_seconds": list(advice.rung_seconds),
    }
    with writing(file, ConfigError):
        file.parent.mkdir(parents=True, exist_ok=True)
        replace_text(file, json.dumps(content))


def _reread(file: Path, data: "ImageData", backbones: "Sequence[Backbone]") -> Advice:
    """Read the advice of an interrupted run."""
    try:
        content = read_json(file)
        if content["splits"] != split_digests(data):
            raise ValueError("a recommendation for other images or splits")
        place, name = content["candidate"]
        if backbones[place].name != name:
            raise ValueError("a recommendation for other models")
        climb = dict(content["climb"])
        if "tuning" in climb:
            climb["tuning"] = LoRA.from_record(climb["tuning"])
        advice = Advice(content["record"], backbones[place], climb, tuple(content["rung_seconds"]))
        text = content["record"]["advice"]
    except (OSError, ValueError, LookupError, TypeError, ConfigError) as error:
        raise ConfigError(
            f"{file}: expected the recommendation of the run to resume, found {unreadable(error)}; start again with "
            "--overwrite_output_dir"
        ) from error
    say(None, f"Following the recommendation of the interrupted run: {text}")
    return advice


def _read(folder: Path, data: "ImageData", backbones: "Sequence[Backbone]") -> Advice:
    try:
        record = rename_keys(read_json(folder / RECORD))
        if record["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"expected schema version {SCHEMA_VERSION}, found {record['schema_version']!r:.80}")
        published, name, measured = published_advice(record), record["backbone"], record["data"]
        path = Path(name).resolve()
        is_of_data, dataset = measured["fingerprint"] == data.fingerprint, f"{measured['name']!s:.80}"
        is_of_split = dict(measured["splits"]) == split_digests(data)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"--recommendation {folder}: expected a folder with the {RECORD} of hf-tl recommend --output_dir, found "
            f"{unreadable(error)}; write it again"
        ) from error
    if not is_of_data:
        raise ConfigError(
            f"--recommendation {folder} is for other images ({dataset}) than those of --dataset; run hf-tl recommend "
            "on these"
        )
    if not is_of_split:
        raise ConfigError(
            f"--recommendation {folder} is for other splits of {dataset}, and may have used test images of these; use "
            "the --seed, --validation_fraction and --test_fraction of hf-tl recommend, or run it again"
        )
    recommended = [backbone for backbone in backbones if Path(backbone.name).resolve() == path]
    if not recommended:
        names = name_some(backbone.name for backbone in backbones)
        raise ConfigError(
            f"--recommendation {folder} is for another model than {names}; "
            f"use --model {name:.300}, with the same --weights as with hf-tl recommend"
        )
    return Advice(published, recommended[0])


def _compute(data: "ImageData", backbones: "Sequence[Backbone]", config: RunConfig) -> Advice:
    from accelerate import PartialState

    from hf_tl.advisor.deciding.cost import estimate_cost
    from hf_tl.advisor.recommend import recommend
    from hf_tl.features.feature_store import open_store

    say(None, f"Measuring {len(backbones)} {'backbone' if len(backbones) == 1 else 'backbones'} on {data.name}")
    training, chosen = config.training, config.strategy
    recommendation = recommend(
        data,
        backbones,
        trial_budget=chosen.trial_budget,
        prefer=chosen.prefer,
        horizontal_flip=config.data.horizontal_flip,
        seed=training.seed,
        include_training_images=config.data.include_training_images,
        feature_cache=training.feature_cache,
        feature_cache_dir=training.feature_cache_dir,
        feature_cache_gb=training.feature_cache_gb,
    )
    say(None, str(recommendation))
    if recommendation.strategy is None or recommendation.candidate is None:
        raise DataError(f"--strategy auto recommends no training ({recommendation.rule}). {recommendation.reason}")
    seconds: Sequence[float] = ()
    if config.training.time_budget is not None:
        images = len(data.splits["train"])
        strategy = config.strategy.build(images=images, climb=recommendation.climb)
        is_off = training.feature_cache == "off"
        store = None if is_off else open_store(training.feature_cache_dir, training.feature_cache_gb)
        device = PartialState().device
        seconds = estimate_cost(recommendation.candidate, data, strategy, device, store).phase_seconds
    record = published_advice(recommendation.to_record())
    return Advice(record, recommendation.candidate, recommendation.climb, seconds)
