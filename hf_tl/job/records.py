"""Record of a run so far: what was trained, from which weights, on which images."""

import dataclasses
import time
from typing import TYPE_CHECKING

from hf_tl.checkpoints.state import Outcome
from hf_tl.job.job import Job
from hf_tl.job.zero_shot import describe_text_head
from hf_tl.record import LearnedFrom, Origin, RefitRecord, RunRecord, Seconds

if TYPE_CHECKING:
    from hf_tl.checkpoints.state import TrainingLog
    from hf_tl.record.run import Status


def build_record(job: Job, outcome: Outcome, log: "TrainingLog", status: "Status") -> RunRecord:
    """Build the record of a run so far.

    Args:
        job: Inputs of the run.
        outcome: Outcome of the training that produced the weights.
        log: Log of the training with model selection: the same training, or the one before a refit.
        status: Status of the run.
    """
    from hf_tl.publish import record as parts

    done, notes = outcome.log, job.notes
    is_refitted = done is not log
    carried_out = outcome.strategy if status == "training" else outcome.carried_out
    phases = tuple(done.kept_phases)
    transforms = job.transforms_of(carried_out.phases[-1])
    refit = RefitRecord(outcome.images, learned_splits(job, outcome), done.seconds)
    return RunRecord(
        status=status,
        origin=Origin.random(job.config.seed) if outcome.is_from_random else job.provenance.origin,
        model=parts.describe_model(job.model, job.preprocessing, phases, job.head_stages),
        strategy=dataclasses.replace(carried_out, refit=is_refitted),
        stages=parts.describe_stages(job.model),
        phases=phases,
        data=job.data.to_record(),
        learned_from=learned_images(job, outcome).splits,
        rungs=tuple(log.rungs),
        stopped=log.stopped,
        text_head=describe_text_head(job.text_head, log.zero_shot),
        teacher=None if job.teacher is None else job.teacher.to_record(),
        recommendation=notes.recommendation,
        transforms={"train": transforms.train.describe(), "eval": transforms.eval.describe()},
        hyperparameters={
            **parts.hyperparameters(
                carried_out, job.config, job.accelerator, phases, horizontal_flip=job.flips_in_presets
            ),
            **notes.choices,
        },
        history=tuple(log.history),
        best=log.best,
        selection=outcome.selection,
        interpolation=done.interpolation,
        refit=refit if is_refitted else None,
        seconds=Seconds(time.perf_counter() - job.start, log.seconds + (done.seconds if is_refitted else 0.0)),
        command=notes.command,
        settings=notes.settings,
        card=parts.card_texts(job.hub),
        **parts.environment(job.accelerator),
    )


def learned_images(job: Job, outcome: Outcome) -> LearnedFrom:
    """Return the images that the trained weights learned from, with those of the starting weights and the teacher."""
    from hf_tl.data.learned import learn

    learned = (LearnedFrom() if outcome.is_from_random else job.learned_before).union(job.learned_by_teacher)
    for split in learned_splits(job, outcome):
        learned = learn(learned, job.data, split)
    return learned


def learned_splits(job: Job, outcome: Outcome) -> tuple[str, ...]:
    """Return the splits whose images a training learns from."""
    return ("train",) if outcome.images == len(job.data.splits["train"]) else ("train", "validation")
