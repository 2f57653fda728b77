"""Mutation check: change the code at random places, and count how many of the changes make a test fail.

    python scripts/check_mutants.py --sample 40 --seed 0
    python scripts/check_mutants.py --only record freezing --sample 100

mutmut makes the mutants: an operator, a number, a text or an argument of one statement is changed. A sample of each
group of modules is drawn by the seed. For each mutant the tests of the group, and the examples in the docstrings of its
modules, that run the changed lines are run, the shortest first; tests marked long, slow or gpu are left out. A mutant
is killed when a test fails, when the run breaks, or when it runs out of time. The share of killed mutants is a lower
bound, because other tests are not run. Mutants of texts of errors and log lines are left out.

The checkout is not changed: everything runs on a copy of its files.
"""

import argparse
import importlib.util
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mutation.mutants import Mutant
    from mutation.running import Trace

ROOT = Path(__file__).parents[1]
FACTOR = 5
"""Time limit of a run: this many times the measured duration of its tests, and `--wait` seconds."""


@dataclass(frozen=True)
class Group:
    """Modules that are checked together, and the tests that may kill their mutants, besides the modules' examples."""

    modules: tuple[str, ...]
    tests: tuple[str, ...]


GROUPS = {
    "record": Group(
        ("hf_tl/record/*.py",),
        ("tests/publish/test_records.py", "tests/publish/test_old_records.py", "tests/publish/test_record_fields.py",
         "tests/publish/test_inspection_record.py", "tests/publish/test_origins.py",
         "tests/publish/test_card_results.py", "tests/publish/test_card_strategy.py",
         "tests/publish/test_card_metadata.py", "tests/publish/test_rewritten_card.py", "tests/data/test_learned.py",
         "tests/data/test_drawing.py", "tests/evaluation/test_report.py", "tests/job/test_closing_summary.py"),
    ),
    "data plan": Group(
        ("hf_tl/data/layout/*.py", "hf_tl/data/splits.py", "hf_tl/data/drawing.py", "hf_tl/data/grouping/groups.py",
         "hf_tl/data/grouping/series.py"),
        ("tests/data/layout", "tests/data/grouping", "tests/data/test_drawing.py", "tests/data/test_named_splits.py",
         "tests/data/test_bad_data.py", "tests/data/test_learned.py", "tests/data/test_multi_label_data.py",
         "tests/inspection/test_exclude_list.py"),
    ),
    "evaluation": Group(
        ("hf_tl/evaluation/**/*.py",),
        ("tests/evaluation", "tests/data/test_learned.py", "tests/data/test_leakage_chains.py",
         "tests/data/grouping/test_groups_of_datasets.py", "tests/test_leakage.py", "tests/comparison/test_findings.py",
         "tests/predicting/test_evaluate.py", "tests/predicting/test_evaluate_exported.py"),
    ),
    "advisor's rules": Group(
        ("hf_tl/advisor/deciding/rules.py",), ("tests/advisor/test_rules.py", "tests/advisor/test_figure.py")
    ),
    "freezing": Group(
        ("hf_tl/backbones/stages/freezing.py",),
        ("tests/backbones/test_freezing.py", "tests/backbones/test_freezing_phases.py",
         "tests/backbones/test_unused_parameters.py", "tests/backbones/test_frozen_norms.py",
         "tests/backbones/test_frozen_digest.py", "tests/backbones/test_trainable_parameters.py",
         "tests/backbones/test_boundary.py", "tests/backbones/test_fast_prefix.py"),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Result:
    """Outcome of one mutant."""

    file: str
    line: int
    change: str
    outcome: str
    """`killed`, `out of time`, `survived`, or `not run by any test`."""
    test: str = ""
    """A test that failed."""

    @property
    def killed(self) -> bool:
        """Whether a test noticed the mutant."""
        return self.outcome in ("killed", "out of time")


def main() -> None:
    """Check all groups, print survivors and a table, and fail below the goal."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # end the running tests with this process
    options = parse_flags()
    if not importlib.util.find_spec("mutmut"):
        sys.exit("check_mutants.py makes mutants with mutmut 3.8 or later: install it with `pip install mutmut`")
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in options.only:
            root = copy_checkout(Path(folder) / name.replace(" ", "_") / "copy")
            results[name] = check(name, GROUPS[name], root, options)
            if options.output:
                text = {group: [asdict(result) for result in checked] for group, (_, checked) in results.items()}
                options.output.write_text(json.dumps(text, indent=1), encoding="utf-8")
    for name, (_, checked) in results.items():
        report(name, checked)
    print(f"\n{table(results)}")
    sys.exit(
        any(sum(result.killed for result in checked) < options.goal * len(checked) for _, checked in results.values())
    )


def parse_flags() -> argparse.Namespace:
    """Parse the flags."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--sample", type=int, default=40, help="mutants of each group (default: 40)")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the sample (default: 0)")
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=list(GROUPS), help="groups (default: all)")
    parser.add_argument("--budget", type=float, default=20, help="most seconds of tests for a mutant (default: 20)")
    parser.add_argument("--wait", type=float, default=30, help="seconds that a run may take beside (default: 30)")
    parser.add_argument("--goal", type=float, default=0.85, help="share of killed mutants to reach (default: 0.85)")
    parser.add_argument("--output", type=Path, help="JSON file for the outcome of each mutant")
    return parser.parse_args()


def copy_checkout(root: Path) -> Path:
    """Copy the files that git tracks or would track, and compile them so that changed files are compiled again."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(command, check=True, capture_output=True, text=True).stdout.split("\0"):
        if name and (ROOT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, root / name)
    compiling = [sys.executable, "-m", "compileall", "-q", "--invalidation-mode", "checked-hash", str(root)]
    subprocess.run(compiling, check=True)
    return root


def check(name: str, group: Group, root: Path, options: argparse.Namespace) -> tuple[int, list[Result]]:
    """Check a sample of the mutants of a group.

    Returns:
        The number of all mutants of the group, and the results of the sample.
    """
    from mutation.mutants import sample

    files = sorted({str(path.relative_to(root)) for pattern in group.modules for path in root.glob(pattern)})
    mutants, total = sample(root, files, options.sample, options.seed)
    say(f"{name}: {len(mutants)} of {total} mutants of {len(files)} files; tracing the tests")
    trace = traced(root, files, (*group.tests, *files))
    chosen = [choose(mutant, trace, options.budget) for mutant in mutants]
    sound = reliable(root, trace, chosen, options.wait)
    results = []
    for number, (mutant, tests) in enumerate(zip(mutants, chosen, strict=True), 1):
        start = time.perf_counter()
        results.append(judge(root, mutant, [test for test in tests if test in sound], trace, options.wait))
        about = f"{results[-1].outcome} {results[-1].test}".strip()
        say(f"{name} {number}/{len(mutants)} {mutant.file}:{mutant.line} {about} ({time.perf_counter() - start:.1f} s)")
    return total, results


def traced(root: Path, files: Sequence[str], paths: Sequence[str]) -> "Trace":
    """Run the tests of a group on the code as it is."""
    from mutation.running import in_process, trace_tests

    log = root.parent / "log"
    status, trace, seconds = in_process("spawn", trace_tests, (root, log, files, paths), None)
    if trace is None or not trace.tests:
        sys.exit(f"the tests could not be traced (exit status {status}):\n{log.read_text(errors='replace')[-4000:]}")
    failed = f"; left out, because they fail without mutants: {trace.failed}" if trace.failed else ""
    say(f"  {len(trace.seconds)} tests in {seconds:.0f} s{failed}")
    return trace


def choose(mutant: "Mutant", trace: "Trace", budget: float) -> list[str]:
    """Return the tests that run a mutant, the shortest first, within the budget in seconds.

    A statement outside of functions runs once, when the first test imports the module. Any test may depend on it; those
    that run functions of the file come first.
    """
    lines = trace.tests.get(mutant.file, {})
    own = set[str]().union(*(lines.get(line, ()) for line in (mutant.lines if mutant.in_function else lines)))
    others = () if mutant.in_function else trace.seconds.keys() - own
    total, chosen = 0.0, list[str]()
    for test in [*sorted(own, key=trace.seconds.__getitem__), *sorted(others, key=trace.seconds.__getitem__)]:
        total += trace.seconds[test]
        if chosen and total > budget:
            break
        chosen.append(test)
    return chosen


def reliable(root: Path, trace: "Trace", chosen: Sequence[Sequence[str]], wait: float) -> set[str]:
    """Return the tests that pass on the code as it is, in the order and the way in which mutants are tested."""
    from mutation.running import run

    tests = sorted(set().union(*chosen), key=lambda test: trace.seconds[test])
    outcome = run(root, tests, wait + FACTOR * duration(tests, trace), stop=False)
    if outcome.status is None or outcome.failed:
        say(f"  left out, because they fail in this order without mutants: {outcome.failed or 'all (out of time)'}")
    return set() if outcome.status is None else set(tests) - set(outcome.failed)


def duration(tests: Sequence[str], trace: "Trace") -> float:
    """Return the measured duration of some tests in seconds."""
    return sum(trace.seconds[test] for test in tests)


def judge(root: Path, mutant: "Mutant", tests: Sequence[str], trace: "Trace", wait: float) -> Result:
    """Run the tests on a mutant, and restore the file."""
    from mutation.running import run

    if not tests:
        return Result(mutant.file, mutant.line, mutant.change, "not run by any test")
    original = (root / mutant.file).read_text(encoding="utf-8")
    (root / mutant.file).write_text(mutant.source, encoding="utf-8")
    try:
        outcome = run(root, tests, wait + FACTOR * duration(tests, trace))
    finally:
        (root / mutant.file).write_text(original, encoding="utf-8")
    what = "out of time" if outcome.status is None else "killed" if outcome.killed else "survived"
    return Result(mutant.file, mutant.line, mutant.change, what, *outcome.failed[:1])


def report(name: str, results: Sequence[Result]) -> None:
    """Print the mutants of a group that no test noticed."""
    survivors = [result for result in results if not result.killed]
    if survivors:
        print(f"\n{name}: survivors")
    for result in survivors:
        print(f"{result.file}:{result.line} ({result.outcome})")
        print("".join(f"    {line}\n" for line in result.change.splitlines()), end="")


def table(results: dict[str, tuple[int, list[Result]]]) -> str:
    """Return the shares of killed mutants as a table in Markdown, with 95% intervals."""
    from hf_tl.evaluation.intervals import wilson_interval

    rows = [
        "| modules | mutants | sample | killed | of these out of time | share (95% interval) |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for name, (total, checked) in results.items():
        killed, late = (
            sum(result.killed for result in checked),
            sum(result.outcome == "out of time" for result in checked),
        )
        low, high = wilson_interval(killed, len(checked))
        share = f"{killed / len(checked):.0%} ({low:.0%}–{high:.0%})"
        rows.append(f"| {name} | {total:,} | {len(checked)} | {killed} | {late} | {share} |")
    return "\n".join(rows)


def say(text: str) -> None:
    """Print a line of progress."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
