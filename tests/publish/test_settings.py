"""Settings of a run in publishable form."""

from pathlib import Path

import pytest
import yaml

from hf_tl.card.settings import describe_command, settings_of
from hf_tl.flags import parse_run_config


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        ([], ""),
        (["--dataset", "{home}/pets"], "--dataset pets"),
        (["--dataset", "{home}/gone/pets.parquet"], "--dataset pets.parquet"),
        (["--dataset", "{home}/pets/*.parquet"], "--dataset '*.parquet'"),
        (["--dataset", "{home}/a.parquet, {home}/b.parquet"], "--dataset a.parquet,b.parquet"),
        (
            ["--dataset", "user/pets", "--model", "timm/resnet50.a1_in1k"],
            "--model timm/resnet50.a1_in1k --dataset user/pets",
        ),
        (["--model", "{home}/model"], "--model model"),
        (["--model", "C:\\Users\\somebody\\model"], "--model model"),
        (["--model", "timm:resnet50.a1_in1k"], "--model timm:resnet50.a1_in1k"),
        (
            ["--weights", "{home}/w.safetensors", "--model", "timm:resnet50"],
            "--model timm:resnet50 --weights w.safetensors",
        ),
        (["--phases", "{home}/phases.yaml"], "--phases phases.yaml"),
        (["--recommendation", "{home}/advice"], "--recommendation advice"),
        (["--model", "{home}/a,timm/b, {home}/c/d", "--strategy", "auto"], "--model a,timm/b,d --strategy auto"),
        (
            ["--weights", "{home}/a.pt,{home}/b.pt", "--model", "timm:a,timm:b"],
            "--model timm:a,timm:b --weights a.pt,b.pt",
        ),
        (["--phases", "[{{trainable_stages: 1, steps: 5}}]"], "--phases '[{trainable_stages: 1, steps: 5}]'"),
        (["--feature_cache_dir", "{home}/cache", "--output_dir", "{home}/out", "--seed", "3"], "--seed 3"),
        (["--push_to_hub", "somebody/pets", "--hub_private"], ""),
        (["--card_limits", "not for $HOME; rm"], "--card_limits 'not for $HOME; rm'"),
    ],
)
def test_the_command_holds_no_path_and_no_account(flags: list[str], text: str, tmp_path: Path) -> None:
    home = tmp_path / "somebody"
    (home / "pets").mkdir(parents=True)
    command = describe_command(parse_run_config([flag.format(home=home) for flag in flags]))
    assert command == f"hf-tl train {text}".rstrip()


def test_the_settings_are_a_file_for_config(tmp_path: Path) -> None:
    """A run with the published settings has the same settings, except for those of the machine."""
    flags = ["--dataset", "user/pets", "--strategy", "finetune", "--learning_rate", "2e-3", "--card_images"]
    flags += ["--max_grad_norm", "none", "--trainable_stages", "layer2,layer3"]
    config = parse_run_config([*flags, "--card_limits", "a: b\n# c", "--output_dir", str(tmp_path)])
    settings = settings_of(config)
    assert not {"output_dir", "push_to_hub", "feature_cache_dir", "resume_from_checkpoint"} & settings.keys()
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({k: v for k, v in settings.items() if v is not None}))
    assert settings_of(parse_run_config(["--config", str(tmp_path / "run.yaml")])) == settings
