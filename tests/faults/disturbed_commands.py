"""Run commands whose writes fail, or that are killed, and check what they leave behind.

It is a script that imports everything once and forks a process for each command, with `failing_writes.c` preloaded:

    LD_PRELOAD=LIBRARY python tests/faults/disturbed_commands.py FOLDER --commands train --faults 10 --signals 10

It prints a line for each command that ended in another way than it must, and exits with their number.
"""

import argparse
import errno
import os
import random
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from faults.commands import COMMANDS, RESULT, Command
from faults.machine import Machine, Reference
from faults.write_faults import TIMED_OUT, Fault, Outcome, run

ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)


def serve(folder: Path) -> str:
    """Serve a Hub until this process ends, and return its URL; in another process, because threads must not fork."""
    (reading, writing), (waiting, held) = os.pipe(), os.pipe()
    if not os.fork():
        from hub.fixtures import ACCOUNTS
        from hub.server import HubServer

        os.close(held)
        with HubServer(folder, tokens=ACCOUNTS) as server:
            os.write(writing, server.url.encode())
            os.close(writing)
            os.read(waiting, 1)  # until the other end is closed
            os._exit(0)
    os.close(writing)
    with open(reading, encoding="utf-8") as pipe:
        return pipe.read()


def import_everything() -> None:
    """Import what all commands need, after the environment is set."""
    from hf_tl.run import import_libraries

    import_libraries()


def prepare(machine: Machine, words: set[str]) -> None:
    """Write the inputs that the words of commands name: images, a backbone, trained models, and one on the Hub."""

    def work() -> None:
        from backbones.checkpoints import save_transformers, tiny_resnet
        from cli.runs import COLORS, write_images

        for name, colors in (("images", COLORS), ("others", dict(list(COLORS.items())[:2]))):
            write_images(machine.inputs / name / "train", 8, colors)
            write_images(machine.inputs / name / "test", 2, colors)
        save_transformers(tiny_resnet(), machine.inputs / "backbone")

    outcome = run(work, machine.logs / "nothing", machine.logs)
    assert outcome.status == 0, outcome.errors
    is_pulled = "user/model" in words
    for name, seed in (("model", "1"), ("other", "2")):
        machine.restore()
        if f"{{inputs}}/{name}" in words or (is_pulled and name == "model"):
            machine.must_run((*COMMANDS["train"].arguments, "--seed", seed))
            (machine.disk / RESULT).rename(machine.inputs / name)
    if is_pulled:
        machine.must_run(("push", "{inputs}/model", "user/model"))


def problem_of(machine: Machine, command: Command, reference: Reference, fault: Fault, outcome: Outcome) -> str | None:
    """Describe what a disturbed command did wrong, or the same command after it; None if nothing."""
    if outcome.errors.endswith(TIMED_OUT):
        return TIMED_OUT
    try:
        result = machine.essence(command)
    except ValueError as error:
        return f"the result is damaged: {error}"
    if result not in (None, reference.before, reference.after) and not command.is_unfinished(result):
        return f"the result is neither the old nor the new one: {result!r:.300}"
    if result is None and reference.before is not None and not command.may_lose_old:
        return "the old result is lost"
    if problem := problem_of_end(machine, fault, outcome, is_new=result == reference.after):
        return problem
    is_ended = outcome.status >= 0 and fault.error != errno.EROFS
    files = {*machine.unfinished(), *machine.temporary()} - {*reference.temporary}
    if is_ended and files:
        return f"temporary files stay: {sorted(files)[:5]}"
    state = machine.state()
    if outcome.status == 0 or result == reference.after != reference.before or state in reference.completed:
        return None
    reference.completed.add(state)
    return problem_of_next(machine, command, reference.after)


def problem_of_end(machine: Machine, fault: Fault, outcome: Outcome, *, is_new: bool) -> str | None:
    """Describe what is wrong with the exit status or the message of a command."""
    if not fault.error:
        expected = {0, -fault.sent, 128 + signal.SIGTERM}
        return None if outcome.status in expected else f"status {outcome.status}: {outcome.last_errors}"
    if outcome.status == 0:
        return None if is_new else "success without the result"
    messages = [line for line in outcome.errors.splitlines() if line.startswith("hf-tl ")]
    message = messages[-1] if messages else ""
    if outcome.status != 2 or "Traceback" in outcome.errors:
        return f"status {outcome.status}: {outcome.last_errors}"
    if os.strerror(fault.error) not in message:
        return f"no cause: {message}"
    has_path = str(machine.disk) in message or re.search(rf"\b{RESULT}\b", message)
    return None if has_path else f"no path: {message}"


def problem_of_next(machine: Machine, command: Command, expected: Any) -> str | None:
    """Complete a disturbed command, and describe what went wrong; None if nothing."""
    outcome = machine.run((*command.arguments, *command.again))
    if outcome.status:
        return f"the next one ends with status {outcome.status}: {outcome.last_errors}"
    try:
        result = machine.essence(command)
    except ValueError as error:
        return f"the next result is damaged: {error}"
    if unfinished := machine.unfinished():
        return f"unfinished files stay after the next one: {unfinished[:5]}"
    return None if result == expected else f"the next result is another one: {result!r:.300}"


def disturb(machine: Machine, name: str, reference: Reference, fault: Fault) -> bool:
    """Disturb a command, and complete it; print what went wrong, and return whether nothing did."""
    command = COMMANDS[name]
    machine.restore(name)
    outcome = machine.run(command.arguments, fault)
    if problem := problem_of(machine, command, reference, fault, outcome):
        print(f"{name} ({fault}): {problem}", flush=True)
    return not problem


def faults_of(reference: Reference, options: argparse.Namespace, values: random.Random) -> Iterator[Fault]:
    """Yield the faults that a command meets."""
    first, last = options.each
    for write in range(first, min(last, reference.writes) + 1):
        yield Fault(write, errno.ENOSPC)
    for number in range(options.faults if reference.writes else 0):
        yield Fault(values.randint(1, reference.writes), ERRORS[number % len(ERRORS)])
    for number in range(options.signals):
        sent = (signal.SIGKILL, signal.SIGTERM)[number % 2]
        if number % 4 < 2 and reference.writes:
            yield Fault(values.randint(1, reference.writes), sent=sent)
        else:
            yield Fault(sent=sent, delay=values.uniform(0, reference.seconds))


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--commands", nargs="+", default=list(COMMANDS), choices=COMMANDS)
    parser.add_argument(
        "--each", type=int, nargs=2, default=(1, 0), help="disks that are full from each write of this range on"
    )
    parser.add_argument("--faults", type=int, default=0, help="disks that fail from a random write on, per command")
    parser.add_argument("--signals", type=int, default=0, help="SIGKILL and SIGTERM at random moments, per command")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    machine = Machine(options.folder.resolve())
    os.environ |= machine.environment() | {"HF_ENDPOINT": serve(options.folder / "hub"), "HF_TOKEN": "hf_test"}
    os.environ |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
    import_everything()
    prepare(machine, {word for name in options.commands for word in COMMANDS[name].words})
    values, done, failures = random.Random(options.seed), 0, 0
    for name in options.commands:
        reference = machine.refer(name, COMMANDS[name])
        print(f"{name}: {reference.writes} writes in {reference.seconds:.1f} s", flush=True)
        for fault in faults_of(reference, options, values):
            done += 1
            failures += not disturb(machine, name, reference, fault)
        print(f"{name}: completed from {len(reference.completed)} different states of the disk", flush=True)
    print(f"{done} commands disturbed, {failures} failed", flush=True)
    return failures


if __name__ == "__main__":
    sys.exit(min(main(), 100))
