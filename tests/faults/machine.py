"""Folder with inputs and a disk whose writes fail, and the commands that run there in forked processes."""

import contextlib
import gc
import importlib
import json
import os
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faults.commands import REPOSITORY, Command
from faults.write_faults import UNDISTURBED, Fault, Outcome, run

LIBRARIES, TEMPORARY, CACHE = "home", "tmp", "cache"
"""Folders on the disk: caches of other libraries, whose interrupted downloads stay; `TMPDIR`; the cache of hf_tl."""
PREFIXES = (".partial", ".replaced")
"""Beginnings of the names of files and folders that hf_tl is writing."""

SIZED = (".safetensors", ".bin", ".pt", ".npz", ".arrow")


@dataclass(frozen=True)
class Reference:
    """A command that nothing disturbs."""

    before: Any
    """Essence of the earlier result."""
    after: Any
    """Essence of the result."""
    writes: int
    seconds: float
    temporary: tuple[str, ...]
    """Files that libraries keep in `TMPDIR`."""
    completed: set[frozenset[tuple[str, int]]] = field(default_factory=set)
    """States of the disk from which a disturbed command was completed."""


class Machine:
    """Inputs, a disk, and what the commands print.

    Args:
        root: Empty folder for all of it.
    """

    def __init__(self, root: Path) -> None:
        self.inputs, self.disk, self.logs, self.kept = (root / name for name in ("inputs", "disk", "logs", "kept"))
        for folder in (self.inputs, self.disk, self.logs, self.kept):
            folder.mkdir(parents=True, exist_ok=True)
        self.restored = 0

    def environment(self) -> dict[str, str]:
        """Return the environment in which libraries keep everything on the disk."""
        folders = {"HF_HOME": LIBRARIES, "TMPDIR": TEMPORARY, "HF_TL_CACHE": CACHE}
        return {name: str(self.disk / folder) for name, folder in folders.items()}

    def keep(self, name: str) -> None:
        """Keep the content of the disk under a name."""
        shutil.copytree(self.disk, self.kept / name, symlinks=True)

    def restore(self, name: str | None = None) -> None:
        """Restore the content that was kept under a name, by default none."""
        shutil.rmtree(self.disk)
        self.disk.mkdir()
        if name is not None:
            shutil.copytree(self.kept / name, self.disk, symlinks=True, dirs_exist_ok=True)
        for folder in (LIBRARIES, TEMPORARY, CACHE):
            (self.disk / folder).mkdir(exist_ok=True)
        self.restored += 1
        os.environ[REPOSITORY] = f"user/pushed-{self.restored}"

    def run(self, words: tuple[str, ...], fault: Fault = UNDISTURBED) -> Outcome:
        """Run a command."""
        places = {"{inputs}": str(self.inputs), "{repository}": os.environ[REPOSITORY]}
        for place, value in places.items():
            words = tuple(word.replace(place, value) for word in words)

        def work() -> None:
            from hf_tl.cli import main

            os.chdir(self.disk)
            try:
                main(words)
            finally:
                (self.logs / "modules").write_text("\n".join(sorted(sys.modules)))

        return run(work, self.disk, self.logs, fault)

    def must_run(self, words: tuple[str, ...]) -> Outcome:
        """Run a command that must succeed, and import here what it imported, so that the next ones need not."""
        outcome = self.run(words)
        assert outcome.status == 0, f"{words} ended with {outcome.status}\n{outcome.printed}\n{outcome.errors}"
        for name in (self.logs / "modules").read_text().split():
            with contextlib.suppress(Exception):  # modules that are not files
                importlib.import_module(name)
        return outcome

    def essence(self, command: Command) -> Any:
        """Return the essence of the result, None without a result.

        Raises:
            ValueError: The result is damaged.
        """

        def work() -> None:
            print(f"\n{json.dumps(command.essence(self.disk))}", flush=True)

        outcome = run(work, self.logs / "nothing", self.logs)
        if outcome.status:
            raise ValueError(outcome.last_errors)
        return json.loads(outcome.printed.splitlines()[-1])

    def unfinished(self) -> list[str]:
        """List the files and folders on the disk that hf_tl has not finished, except in `TMPDIR`."""
        return [str(path.relative_to(self.disk)) for path in self.disk.rglob("*") if path.name.startswith(PREFIXES)]

    def state(self) -> frozenset[tuple[str, int]]:
        """Return the names of all files on the disk, with the size of those whose size is the same in every run."""
        files = [path for path in self.disk.rglob("*") if path.is_file()]
        return frozenset(
            (str(file.relative_to(self.disk)), file.stat().st_size if file.suffix in SIZED else 0) for file in files
        )

    def temporary(self) -> list[str]:
        """List the files and folders in `TMPDIR`."""
        return [str(path.relative_to(self.disk)) for path in (self.disk / TEMPORARY).iterdir()]

    def refer(self, name: str, command: Command) -> Reference:
        """Run a command after the one that made its earlier result, which is kept, and return how it went."""
        self.restore()
        if command.old:
            self.must_run(command.old)
        self.keep(name)
        before = self.essence(command)
        self.must_run(command.arguments)
        self.restore(name)
        outcome = self.must_run(command.arguments)  # in the time that it takes once everything is imported
        temporary = tuple(self.temporary())
        gc.freeze()  # forked processes copy fewer pages
        return Reference(before, self.essence(command), outcome.writes, outcome.seconds, temporary)
