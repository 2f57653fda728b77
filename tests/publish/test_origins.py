"""Published statements about origin and training: true for every origin and every strategy."""

import itertools
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from publish.records import HUB, make_phase, make_record, put

from hf_tl.card.card import render_card
from hf_tl.card.figures.draw import draw_figures
from hf_tl.card.metadata import card_metadata
from hf_tl.card.sections.origins import origin_lines
from hf_tl.demo.demo_story import tell_story
from hf_tl.phase import Phase
from hf_tl.record import Origin, RunRecord
from hf_tl.strategy import Strategy

NAME, COMMIT = str(HUB.name), "c" * 40
FILE = Origin("file", file="own.pth", sha256="ab" * 32, head="new")
PUBLISHED_FILE = Origin("file", file="net-579344248a.pth", sha256="579344248a", license="mit", head="new")
AT_COMMIT = Origin("hub", name=NAME, revision=COMMIT, license="apache-2.0", head="new")


@dataclass(frozen=True)
class Start:
    """Origin, and the true statements about it."""

    origin: Origin
    base_model: str | None
    license: str | None
    lines: tuple[str, ...]
    """Lines of the section about the starting weights."""
    intro: str
    story: str
    is_from_scratch: bool = False


def trained(earlier: Origin, **more: str) -> Origin:
    return Origin("trained", data="cats", strategy="auto", earlier=earlier, head="kept", **more)


BY_HF_TL = "Starting weights: a model that hf_tl trained on `cats` with the strategy `auto`, which started from "
FURTHER = "initialized from another model of hf_tl and trained further on `pets`"
STARTS = {
    "hub": Start(
        AT_COMMIT,
        NAME,
        "apache-2.0",
        (f"Base model: `{NAME}`, revision `{COMMIT}`", "License of the starting weights: apache-2.0"),
        f"initialized from `{NAME}` and trained on `pets`",
        NAME,
    ),
    "own file": Start(
        FILE,
        None,
        None,
        (
            f"Starting weights: the file `own.pth`, SHA-256 `{'ab' * 32}`",
            "License of the starting weights: not recorded",
        ),
        "initialized from a weights file and trained on `pets`",
        "a weights file",
    ),
    "file whose source states a license": Start(
        PUBLISHED_FILE,
        None,
        "mit",
        ("Starting weights: the file `net-579344248a.pth`", "License of the starting weights: mit"),
        "initialized from a weights file and trained on `pets`",
        "a weights file",
    ),
    "folder": Start(
        Origin("folder", head="new"),
        None,
        None,
        (
            "Starting weights: a local checkpoint that hf_tl did not train",
            "License of the starting weights: not recorded",
        ),
        "initialized from a local checkpoint and trained on `pets`",
        "a local checkpoint",
    ),
    "random": Start(
        Origin.random(7),
        None,
        None,
        ("Starting weights: random (seed 7); nothing was transferred",),
        "initialized randomly and trained on `pets`",
        "random weights",
        is_from_scratch=True,
    ),
    "trained on from hub": Start(
        trained(AT_COMMIT),
        NAME,
        "apache-2.0",
        (
            f"Base model: `{NAME}`, revision `{COMMIT}`",
            f"{BY_HF_TL}`{NAME}`",
            "License of the starting weights: apache-2.0",
        ),
        FURTHER,
        f"trained before by hf_tl, from {NAME}",
    ),
    "trained on from file": Start(
        trained(FILE),
        None,
        None,
        (f"{BY_HF_TL}the file `own.pth`", "License of the starting weights: not recorded"),
        FURTHER,
        "trained before by hf_tl",
    ),
    "trained on from random": Start(
        trained(Origin.random()),
        None,
        None,
        (f"{BY_HF_TL}random weights",),
        FURTHER,
        "trained before by hf_tl, from random weights",
        is_from_scratch=True,
    ),
    "trained on from a published model that began with random weights": Start(
        trained(Origin.random(), name="user/cats", license="mit"),
        "user/cats",
        "mit",
        ("Base model: `user/cats`", "a model `user/cats` that hf_tl trained", "License of the starting weights: mit"),
        FURTHER,
        "trained before by hf_tl, from random weights, from user/cats",
    ),
    "trained on twice from hub": Start(
        Origin("trained", data="dogs", strategy="transfer", earlier=trained(AT_COMMIT), head="kept"),
        NAME,
        "apache-2.0",
        (
            "Starting weights: a model that hf_tl trained on `dogs` with the strategy `transfer`, which started from a "
            f"model that hf_tl trained on `cats` with the strategy `auto`, which started from `{NAME}`",
        ),
        FURTHER,
        f"trained before by hf_tl, from {NAME}",
    ),
    "memory": Start(
        Origin("memory"),
        None,
        None,
        (
            "Starting weights: weights in memory, whose origin is not recorded",
            "License of the starting weights: not recorded",
        ),
        "initialized from weights in memory (origin unknown) and trained on `pets`",
        "weights of unknown origin",
    ),
    "changed in memory": Start(
        AT_COMMIT.changed_in_memory(),
        None,
        None,
        (
            "Starting weights: weights changed in memory, in a way that is not recorded (the model was "
            f"`{NAME}` before)",
            "License of the starting weights: not recorded",
        ),
        "initialized from weights that changed since loading (origin unknown) and trained on `pets`",
        "weights of unknown origin",
    ),
    "trained on from weights in memory": Start(
        trained(Origin("memory")),
        None,
        None,
        (f"{BY_HF_TL}weights in memory", "License of the starting weights: not recorded"),
        FURTHER,
        "trained before by hf_tl",
    ),
}


@dataclass(frozen=True)
class Training:
    """Executed phases, and the true statements about them."""

    phases: tuple[tuple[Phase, tuple[str, ...]], ...]
    tag: str
    what: str
    name: str = "custom"
    """Name of the strategy; nothing is derived from it."""
    head: tuple[str, ...] = ("head",)
    draws_random_weights: bool = False


ALL = ("stem", "layer1", "layer2", "layer3", "layer4", "head")
HEAD, TWO = (Phase(1, 3.0), ALL[-1:]), (Phase(2, 3.0), ALL[-2:])
TRAININGS = {
    "head": Training((HEAD,), "transfer-learning", "only the head was trained", "transfer"),
    "head, by --phases": Training((HEAD, HEAD), "transfer-learning", "only the head was trained"),
    "head, which auto kept": Training((HEAD,), "transfer-learning", "only the head was trained", "auto"),
    "fully connected layers": Training(
        ((Phase(2, 3.0), ALL[-2:]),), "transfer-learning", "only the head was trained", "transfer", ALL[-2:]
    ),
    "head with norms": Training(
        ((Phase(1, 3.0, norm="affine"), ALL[-1:]),),
        "fine-tuning",
        "the head and the norms of frozen stages were trained",
        "transfer",
    ),
    "head with norms that adapt": Training(
        ((Phase(1, 3.0, norm="adapt"), ALL[-1:]),),
        "fine-tuning",
        "the head and the norms of frozen stages were trained",
    ),
    "head, then stages": Training((HEAD, TWO), "fine-tuning", "the last 2 of 6 stages were trained", "finetune"),
    "stages by name": Training(
        ((Phase(("layer1", "head"), 3.0), ("layer1", "head")),), "fine-tuning", "2 of 6 stages were trained", "transfer"
    ),
    "all": Training(((Phase("all", 3.0), ALL),), "fine-tuning", "all stages were trained", "full"),
    "all, called scratch": Training(((Phase("all", 3.0), ALL),), "fine-tuning", "all stages were trained", "scratch"),
    "head, then all from random weights": Training(
        (HEAD, (Phase("all", 3.0, from_random_weights=True), ALL)),
        "from-scratch",
        "all stages were trained",
        "auto",
        draws_random_weights=True,
    ),
}


def record_of(start: Start, training: Training) -> RunRecord:
    return put(
        make_record(),
        origin=start.origin,
        strategy=Strategy(training.name, tuple(phase for phase, _ in training.phases)),
        phases=tuple(make_phase(phase, stages) for phase, stages in training.phases),
        model__head__stages=training.head,
        best=None,
    )


@pytest.mark.parametrize(("origin", "training"), itertools.product(STARTS, TRAININGS))
def test_all_that_is_published_of_origin_and_training_is_true(origin: str, training: str) -> None:
    done = TRAININGS[training]
    record = record_of(STARTS[origin], done)
    start = STARTS["random"] if done.draws_random_weights else STARTS[origin]
    metadata = card_metadata(record)
    assert metadata.base_model == start.base_model
    assert metadata.base_model_relation == (None if start.base_model is None else "finetune")
    assert metadata.license == start.license
    tag = "from-scratch" if start.is_from_scratch else done.tag
    assert [name for name in metadata.tags or () if name not in ("hf_tl", "timm")] == [tag]

    card = render_card(record)
    assert ModelCard(card).data.to_dict() == metadata.to_dict()
    intro, _, rest = ModelCard(card).text.partition("## How to use")
    assert start.intro in intro
    assert done.what in intro
    strategy = rest.partition("## Strategy")[2].partition("## Data")[0]
    for line in start.lines:
        assert (line.replace(" (seed 7)", "") if record.start.seed is None else line) in strategy
    for kind in ("Base model", "License of the starting weights", "Starting weights: random"):
        stated = any(line.startswith(kind) for line in start.lines)
        assert (f"- {kind}" in strategy) == stated or origin == "trained on twice from hub"

    story = " ".join(str(tell_story(record, None).striptags()).split()).replace("\u200b", "")
    assert f"starting weights: {start.story}" in story
    assert done.what in story


def test_the_figure_of_the_stages_counts_what_was_trained(tmp_path: Path) -> None:
    """The same for every origin: the figure does not depend on it."""
    pictures = set()
    for number, start in enumerate((STARTS["hub"], STARTS["random"], STARTS["memory"])):
        (tmp_path / str(number)).mkdir()
        record = put(record_of(start, TRAININGS["head"]), history=())
        (picture,) = draw_figures(record, tmp_path / str(number))
        pictures.add(picture.read_bytes())
    assert len(pictures) == 1


def test_a_long_chain_is_cut() -> None:
    origin = AT_COMMIT
    for number in range(40):
        origin = Origin("trained", data=f"data {number}", earlier=origin)
    card = render_card(put(make_record(), origin=origin))
    (line,) = [line for line in card.splitlines() if line.startswith("- Starting weights:")]
    assert line.count("a model that hf_tl trained") == 3
    assert line.endswith(f", which started from 37 earlier trainings, which started from `{NAME}`")


@pytest.mark.parametrize("kind", ["head", "new", "kept", None])
def test_the_head_is_what_the_origin_states(kind: str) -> None:
    record = make_record()
    if kind == "head":
        record = put(record, phases__0__recipe=Phase("all", 3.0, from_random_weights=True), origin__head="kept")
    else:
        record = put(record, origin__head=kind)
    state = {
        "head": ", randomly initialized",
        "new": ", randomly initialized",
        "kept": ", kept from the starting weights",
    }
    assert f"- Head: fc (3 × 256){state.get(kind, '')}\n" in render_card(record)


def test_pretraining_and_terms_are_those_of_the_first_weights() -> None:
    dinov3 = Origin("hub", name="timm/net", license="dinov3-license", pretraining="self-supervised (DINOv3)")
    for origin in (dinov3, trained(trained(dinov3))):
        lines = list(map(str, origin_lines(origin)))
        assert "Pretraining: self-supervised (DINOv3)" in lines
        assert "License of the starting weights: dinov3-license; its terms apply to this model too" in lines


def test_unknown_pretraining_is_said_and_random_weights_have_none() -> None:
    assert "Pretraining: unknown" in list(map(str, origin_lines(FILE)))
    assert not any("Pretraining" in line for line in origin_lines(Origin.random()))
    assert AT_COMMIT.changed_in_memory().base_pretraining is None
    assert replace(AT_COMMIT, pretraining="supervised").changed_in_memory().base_pretraining is None
