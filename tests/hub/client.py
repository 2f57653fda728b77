"""Processes that use the test Hub with the official clients and an empty cache, with or without hf_tl."""

import os
import subprocess
import sys
from pathlib import Path

TOKEN = "hf_test"
READ_TOKEN = "hf_read"
OTHER_TOKEN = "hf_other"
WITH_HF_TL = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r})\n"
WITHOUT_HF_TL = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "hf_tl":
            raise ModuleNotFoundError("hf_tl is not installed here", name=name)

sys.meta_path.insert(0, Blocker())
"""


def environment(url: str, home: Path, token: str | None = TOKEN, *, xet: bool = False) -> dict[str, str]:
    """Return the environment of huggingface_hub for the Hub at `url`, with its cache in `home`, by LFS or xet."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    hub = {
        "HF_ENDPOINT": url,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": str(int(not xet)),
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    return kept | hub | ({"HF_TOKEN": token} if token else {}) | {"OMP_NUM_THREADS": "1"}


def run_python(
    code: str, url: str, folder: Path, *, token: str | None = TOKEN, has_hf_tl: bool = False, xet: bool = False
) -> str:
    """Run a program in `folder` and return its output.

    Raises:
        AssertionError: The program failed; the message contains its output.
    """
    # the hf_tl of this checkout, not an installed one
    program = (WITH_HF_TL if has_hf_tl else WITHOUT_HF_TL) + code
    done = subprocess.run(
        [sys.executable, "-I", "-c", program],
        cwd=folder,
        env=environment(url, folder / "hf_home", token, xet=xet),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout
