"""`hf-tl stages`: the table of a backbone's stages, and the forms of --trainable_stages."""

from pathlib import Path

import pytest
import timm
import torch
from backbones.checkpoints import save_timm, save_transformers, timm_network, tiny_vit
from hypothesis import given
from hypothesis import strategies as st

from hf_tl.backbones.describe import build_skeleton, describe_stages
from hf_tl.cli import ERROR_STATUS, main
from hf_tl.config import StrategyConfig
from hf_tl.errors import ModelError, StageError
from hf_tl.ranges import domains

parse = domains(StrategyConfig)["trainable_stages"].parse

RESNET18 = """\
     stage      parameters   share  state
  6  stem            9,536    0.1%  frozen
  5  layer1        147,968    1.3%  frozen
  4  layer2        525,568    4.5%  frozen
  3  layer3      2,099,712   18.0%  frozen
  2  layer4      8,393,728   71.8%  trained
  1  head          513,000    4.4%  trained

8,906,728 of 11,689,512 parameters are trained; --trainable_stages N trains the stages numbered 1 to N"""


def test_the_table_of_a_resnet() -> None:
    """Sums computed by hand: layer4 has 2 blocks of 512 channels; torchvision counts 11,689,512 parameters, too."""
    assert describe_stages("timm:resnet18", 2) == RESNET18


@pytest.mark.parametrize(
    ("stages", "trained"),
    [
        ("1", ["head"]),
        ("3", ["layer3", "layer4", "head"]),
        ("6", ["stem", "layer1", "layer2", "layer3", "layer4", "head"]),
        ("all", ["stem", "layer1", "layer2", "layer3", "layer4", "head"]),
        ("layer3", ["layer3", "layer4", "head"]),
        ("layer1, layer3", ["layer1", "layer3", "head"]),
        (r"re:layer2\.0\.conv\d", ["layer2", "head"]),
        ("re:layer1,|layer2", ["layer2", "head"]),
    ],
)
def test_forms_of_trainable_stages(stages: str, trained: list[str]) -> None:
    rows = [line.split() for line in describe_stages("timm:test_resnet", parse(stages)).splitlines()[1:7]]
    assert [row[1] for row in rows if row[-1] == "trained"] == trained


@pytest.mark.parametrize(
    ("stages", "text"),
    [
        ("--3", "there is no stage --3"),
        ("²", "there is no stage ²"),
        ("7", "expected 1 to 6 trainable stages .* found 7; the stages are stem, layer1"),
        ("layer9", "there is no stage layer9"),
        ("layer1,,layer2", "there is no stage"),
        ("layer1,x,y", r"there is no stage x, y \(trainable_stages\)"),
        ("re:nothing", "no parameter of the backbone matches 'nothing'"),
        ("re:(", "is not a regular expression"),
        ("1.5", "there is no stage 1.5"),
    ],
)
def test_unknown_stages_are_named_in_the_error(stages: str, text: str) -> None:
    with pytest.raises(StageError, match=text):
        describe_stages("timm:test_resnet", parse(stages))


@pytest.mark.parametrize("words", [["0"], ["-3"], [""]])
def test_a_wrong_number_of_stages_is_an_error(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["stages", "timm:test_resnet", "--trainable_stages", *words])
    assert end.value.code == ERROR_STATUS
    assert "--trainable_stages takes a number of stages (at least 1), all, or names" in capsys.readouterr().err


@given(text=st.text(max_size=8))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        stages = parse(text)
    except ValueError:
        return
    assert stages >= 1 if isinstance(stages, int) else isinstance(stages, str | tuple)


@given(number=st.integers(1, 10**6))
def test_numbers_are_read_as_numbers(number: int) -> None:
    assert parse(str(number)) == number


def test_skeletons_have_no_memory(tmp_path: Path) -> None:
    names = [
        "timm:resnet50",
        str(save_transformers(tiny_vit(), tmp_path / "vit")),
        str(save_timm(timm_network(), tmp_path)),
    ]
    for name in names:
        assert {tensor.device for tensor in build_skeleton(name).state_dict().values()} == {torch.device("meta")}


@pytest.mark.parametrize("form", ["timm", "transformers", "classic"])
def test_a_folder_is_described_without_its_weights(form: str, tmp_path: Path) -> None:
    model = tiny_vit() if form == "transformers" else timm_network("googlenet" if form == "classic" else "test_resnet")
    folder = save_transformers(model, tmp_path) if form == "transformers" else save_timm(model, tmp_path)
    (folder / "model.safetensors").unlink()
    total = sum(parameter.numel() for parameter in model.parameters())
    assert f" of {total:,} parameters are trained" in describe_stages(str(folder))


@pytest.mark.parametrize("name", ["timm:restnet50", "./no_folder"])
def test_an_unknown_model_is_an_error(name: str) -> None:
    with pytest.raises(ModelError, match=r"resnet50|no_folder"):
        describe_stages(name)


def test_the_command_prints_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    main(["stages", "timm:resnet18", "--trainable_stages", "2"])
    assert capsys.readouterr().out.strip("\n") == RESNET18


def test_parameters_sum_to_timm_s_count() -> None:
    model = timm.create_model("test_vit")
    counts = [int(line.split()[-3].replace(",", "")) for line in describe_stages("timm:test_vit").splitlines()[1:-2]]
    assert sum(counts) == sum(parameter.numel() for parameter in model.parameters())
