"""`hf-tl train --push_to_hub`: the published model, and pushes that are refused or fail."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cli.runs import COLORS, REPOSITORY, TINY, fails
from hub.client import environment, run_python
from hub.server import Fault, HubServer

import hf_tl
from hf_tl.cli import ERROR_STATUS, main
from hf_tl.errors import HfTlError


def test_a_pushed_model_loads_where_hf_tl_is_not(
    hub: HubServer, colors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"
    flags = ["--num_train_epochs", "2", "--output_dir", str(folder), "--push_to_hub", "user/colors"]
    main(["train", *TINY, "--dataset", str(colors), *flags])
    assert "Published" in capsys.readouterr().out
    from hf_tl import load

    model, _ = load(folder)
    pixels = torch.linspace(-1, 1, 3 * 32 * 32).reshape(1, 3, 32, 32)
    with torch.inference_mode():
        expected = model(pixel_values=pixels).logits[0].tolist()
    image = colors / "test" / "red" / "0.png"
    code = f"""
import json, timm, torch
from transformers import AutoModelForImageClassification, pipeline
pixels = torch.linspace(-1, 1, 3 * 32 * 32).reshape(1, 3, 32, 32)
model = AutoModelForImageClassification.from_pretrained("user/colors").eval()
network = timm.create_model("hf-hub:user/colors", pretrained=True).eval()
with torch.inference_mode():
    logits = [model(pixel_values=pixels).logits[0].tolist(), network(pixels)[0].tolist()]
ranking = pipeline("image-classification", model="user/colors")({str(image)!r})
print(json.dumps([logits, model.config.id2label[0], network.pretrained_cfg["label_names"], ranking]))
"""
    logits, first, names, ranking = json.loads(run_python(code, hub.url, tmp_path).splitlines()[-1])
    assert logits == [pytest.approx(expected, abs=1e-6)] * 2
    assert first == "blue"
    assert names == ["blue", "green", "red"]
    assert {entry["label"] for entry in ranking} == set(COLORS)
    commits = [call for call in hub.hub.log if "/commit/" in call[1]]
    assert len(commits) == 1


def test_a_push_that_is_not_allowed_is_refused_before_training(
    hub: HubServer, colors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--output_dir", str(tmp_path / "out"), "--push_to_hub", "somebody-else/colors"]
    message = fails(["train", *TINY, "--dataset", str(colors), *flags], capsys)
    assert "may not write to 'somebody-else'" in message
    assert not (tmp_path / "out").exists()


def test_a_push_that_fails_leaves_the_model_and_the_command_to_push_it_later(
    hub: HubServer, colors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"
    refused = Fault("/repos/create", status=403, times=99)
    hub.hub.faults.append(refused)
    flags = ["--num_train_epochs", "1", "--output_dir", str(folder), "--push_to_hub", "user/colors"]
    with pytest.raises(SystemExit) as end:
        main(["train", *TINY, "--dataset", str(colors), *flags, "--hub_private"])
    assert end.value.code == ERROR_STATUS
    output = capsys.readouterr()
    assert "Test accuracy" in output.out
    assert "use one with write permission" in output.err
    command = output.err.strip().rpartition("push it later: ")[2]
    assert command == f"hf-tl push {folder} user/colors --private"
    refused.times = 0
    main(command.split()[1:])
    main(["pull", "user/colors", str(tmp_path / "pulled")])
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "pulled")
    assert hub.hub.repos["models", "user/colors"]["private"]
    assert (tmp_path / "pulled" / "run.json").read_bytes() == (folder / "run.json").read_bytes()


def test_training_from_python_checks_a_push_before_training(hub: HubServer, colors: Path, tmp_path: Path) -> None:
    strategy = hf_tl.Strategy.transfer(epochs=1)
    model, _ = hf_tl.load_backbone("timm:test_resnet", sorted(COLORS), strategy, pretrained=False, image_size=32)
    with pytest.raises(HfTlError, match="may not write to 'somebody-else'"):
        hf_tl.train(model, str(colors), strategy, push_to_hub="somebody-else/colors", output_dir=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_each_process_ends_where_a_push_is_not_allowed(hub: HubServer, colors: Path, tmp_path: Path) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    flags = ["--output_dir", str(tmp_path / "out"), "--push_to_hub", "somebody-else/colors"]
    done = subprocess.run(
        [*launcher, "-m", "hf_tl", "train", *TINY, "--dataset", str(colors), *flags],
        env={**environment(hub.url, tmp_path / "home"), "ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.stderr.count("may not write to 'somebody-else'") == 1
    assert f"exitcode  : {ERROR_STATUS}" in done.stderr
    assert not (tmp_path / "out").exists()
