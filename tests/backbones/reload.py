"""A process that loads saved folders one after another, with transformers and timm alone."""

import json
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from hub.client import WITHOUT_HF_TL, environment

PROGRAM = """
import copy, json, sys, timm, torch, traceback
from transformers import AutoModelForImageClassification

def load(folder):
    inputs = torch.load(f"{folder}/inputs.pt")
    # a copy, whose weights are aligned in memory: where they lie in the file's, kernels may differ in the last bit
    model = copy.deepcopy(AutoModelForImageClassification.from_pretrained(folder)).eval()
    contents = {"labels": [model.config.id2label[index] for index in range(model.config.num_labels)]}
    with torch.no_grad():
        logits = {"transformers": model(**inputs)[0]}
        if model.config.model_type == "timm_wrapper":
            network = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
            logits["timm"] = network(inputs["pixel_values"])
            contents["timm_labels"] = network.pretrained_cfg["label_names"]
    torch.save(logits, f"{folder}/logits.pt")
    return contents | {"hf_tl": sorted(name for name in sys.modules if name.startswith("hf_tl"))}

torch.set_num_threads(int(sys.argv[1]))
answers, sys.stdout = sys.stdout, sys.stderr
for line in sys.stdin:
    try:
        contents = load(json.loads(line))
    except Exception:
        contents = {"error": traceback.format_exc()}
    print(json.dumps(contents), file=answers, flush=True)
"""


class Reloader:
    """Process that loads checkpoints without hf_tl installed, or with only the classics imported."""

    def __init__(self, folder: Path, *, has_classics: bool = False) -> None:
        self.has_classics = has_classics
        program = ("import hf_tl.classics" if has_classics else WITHOUT_HF_TL) + PROGRAM
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-c", program, str(torch.get_num_threads())],
            cwd=folder,
            env=environment("http://127.0.0.1:9", folder / "hf_home", token=None),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.process.communicate()

    def load(self, folder: Path, inputs: dict[str, torch.Tensor]) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """Load `folder`, and return its labels and each library's logits for `inputs`."""
        torch.save(inputs, folder / "inputs.pt")
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(str(folder)) + "\n")
        self.process.stdin.flush()
        contents = json.loads(self.process.stdout.readline())
        assert "error" not in contents, contents["error"]
        return contents, torch.load(folder / "logits.pt")
