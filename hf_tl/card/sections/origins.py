"""Origin of a model's weights in the words of its card, derived from `Origin` and the phases alone."""

from markupsafe import Markup

from hf_tl.backbones.weights.license import PERMISSIVE
from hf_tl.record import Origin, RunRecord
from hf_tl.reporting.markdown import code, escape
from hf_tl.reporting.numbers import counted, percent

LINKS_SHOWN = 3
"""Number of earlier trainings that a card names; the rest of a chain is counted."""
STARTS = {
    "random": "initialized randomly",
    "file": "initialized from a weights file",
    "folder": "initialized from a local checkpoint",
    "trained": "initialized from another model of hf_tl",
    "memory": "initialized from weights in memory (origin unknown)",
}


def strategy_tag(record: RunRecord) -> str:
    """Return the tag for the stages trained since the starting weights."""
    if record.start.is_random and record.start.base_model is None:
        return "from-scratch"
    return "transfer-learning" if record.trains_head_alone else "fine-tuning"


def name_start(origin: Origin) -> Markup:
    """Name the starting weights for the first sentence of a card.

    >>> str(name_start(Origin("hub", name="timm/resnet50.a1_in1k"))), str(name_start(Origin.random()))
    ('initialized from `timm/resnet50.a1_in1k`', 'initialized randomly')
    """
    if origin.kind == "hub":
        return Markup(f"initialized from {code(origin.name or 'a model of the Hub')}")
    if origin.kind == "memory" and origin.earlier is not None:
        return Markup("initialized from weights that changed since loading (origin unknown)")
    return Markup(STARTS[origin.kind])


def describe_start(origin: Origin) -> Markup:
    """Describe starting weights and earlier trainings, as a phrase of Markdown.

    >>> str(describe_start(Origin("trained", strategy="scratch", data="pets", earlier=Origin.random())))
    'a model that hf_tl trained on `pets` with the strategy `scratch`, which started from random weights'
    """
    links = [origin]
    while links[-1].kind == "trained" and links[-1].earlier is not None:
        links.append(links[-1].earlier)
    if (skipped := len(links) - 1 - LINKS_SHOWN) > 0:
        links = [*links[:LINKS_SHOWN], links[-1]]
    *trained, first = map(_describe, links)
    if skipped > 0:
        trained.append(Markup(counted(skipped, "earlier training")))
    return Markup(", which started from ").join([*trained, first])


def origin_lines(origin: Origin) -> list[Markup]:
    """Return the starting weights and their license, one line of Markdown each."""
    if origin.kind == "random":
        seed = "" if origin.seed is None else f" (seed {origin.seed})"
        return [Markup(f"Starting weights: random{seed}; nothing was transferred")]
    lines = []
    if origin.base_model is not None:
        revision = "" if origin.base_revision is None else f", revision {code(origin.base_revision)}"
        lines.append(Markup(f"Base model: {code(origin.base_model)}{revision}"))
    if origin.kind != "hub":
        lines.append(Markup(f"Starting weights: {describe_start(origin)}"))
    if not origin.is_random:
        lines.append(Markup(f"Pretraining: {escape(origin.base_pretraining or 'unknown')}"))
    if not origin.is_random or origin.base_license is not None:
        lines.append(Markup(f"License of the starting weights: {_describe_license(origin.base_license)}"))
    return lines


def teacher_line(record: RunRecord) -> Markup | None:
    """Return the teacher of a training, and how much it taught, as a line of Markdown; None without a teacher."""
    teacher = record.teacher
    if teacher is None:
        return None
    revision = "" if teacher.revision is None else f", revision {code(teacher.revision)}"
    shares = dict.fromkeys(
        f"{percent(phase.recipe.distillation_weight)} of the loss at temperature "
        f"{phase.recipe.distillation_temperature:g}"
        for phase in record.phases
        if phase.recipe.distillation_weight
    )
    _, height, width = teacher.input_size
    return Markup(
        f"Teacher: {code(teacher.name)}{revision} ({code(teacher.architecture)}, weights "
        f"{code(teacher.weights_digest)}, license {escape(teacher.license or 'not recorded')}); its predictions on the "
        f"same views, at {height} × {width} pixels, had {' and '.join(shares) or 'no share of the loss'}"
    )


def _describe_license(name: str | None) -> Markup:
    if name is None:
        return Markup("not recorded")
    terms = "" if name in PERMISSIVE else "; its terms apply to this model too"
    return Markup(f"{escape(name)}{terms}")


def _describe(origin: Origin) -> Markup:
    """Describe one link of a chain."""
    match origin.kind:
        case "random":
            return Markup("random weights")
        case "hub":
            return code(origin.name or "a model of the Hub")
        case "file":
            name = f"the file {code(origin.file)}" if origin.file else "a weights file"
            return Markup(name + ("" if origin.sha256 is None else f", SHA-256 {code(origin.sha256)}"))
        case "folder":
            return Markup("a local checkpoint that hf_tl did not train")
        case "trained":
            place = "" if origin.name is None else f" {code(origin.name)}"
            data = "" if origin.data is None else f" on {code(origin.data)}"
            strategy = "" if origin.strategy is None else f" with the strategy {code(origin.strategy)}"
            return Markup(f"a model{place} that hf_tl trained{data}{strategy}")
        case "memory":
            return _describe_memory(origin)


def _describe_memory(origin: Origin) -> Markup:
    if origin.earlier is None:
        return Markup("weights in memory, whose origin is not recorded")
    before = _describe(origin.earlier)
    return Markup(f"weights changed in memory, in a way that is not recorded (the model was {before} before)")
