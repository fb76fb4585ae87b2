"""Running one stage: decide, verify its inputs, run it, publish. A chain of idempotent stages needs no engine."""

import importlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn, TextIO

from pipeline.run import artifact, outside, provenance
from pipeline.run.artifact import Artifact, Decision
from pipeline.run.config import load, read_yaml
from pipeline.run.errors import UserError, nearest
from pipeline.run.files import check_name, check_writable, write_json
from pipeline.run.resolve import resolved
from pipeline.run.shipped import RECIPES, find_recipe
from pipeline.run.supervise import claim, follow_parent
from pipeline.run.terminal import divert, report_error

MICRO_BATCH = "micro_batch.json"  # beside the checkpoints: how their steps were cut; no part of what they are


@dataclass(frozen=True)
class Stage:
    """One step of a recipe.

    module: holds `check(config)` and `run(context) -> metrics`; identity: the settings that decide its output;
    inputs: upstream stages; launched: trains on all processes, through `accelerate launch`; view: only shows its
    inputs, so that it is made again, and nobody is asked, where they are others; reads: the files from outside the run
    that it is made from, listed when asked.
    """

    name: str
    module: str
    identity: dict[str, Any]
    inputs: tuple[str, ...] = ()
    launched: bool = False
    view: bool = False
    reads: Callable[[], outside.Files] = field(default=dict, compare=False, repr=False)


@dataclass(frozen=True)
class Context:
    """What a stage's `run` is given.

    inputs: upstream stage -> its published, verified directory; out: an empty directory, published by rename when
    `run` returns; checkpoints: a directory that survives an interruption; logs: for metrics.jsonl and log files;
    terminal: for progress; made: facts on how it was made (speeds, memory), which no digest covers.
    """

    config: Any
    stage: Stage
    inputs: dict[str, Path]
    out: Path
    checkpoints: Path
    logs: Path
    terminal: TextIO
    made: dict[str, Any] = field(default_factory=dict)


def open_recipe(path: Path, overrides: list[str]) -> tuple[Any, tuple[Stage, ...]]:
    """The validated config at `path`, or of the shipped recipe of that name, and its stages in order.

    The family is the YAML's `recipe`.

    Raises:
        UserError: no such recipe or family, or whatever pipeline.run.config.load refuses.
    """
    path = find_recipe(path)
    family = family_of(path)
    config = load(family.CONFIG, path, overrides)
    check_name(config.run.output_dir)
    config = resolved(config, family.stages)
    if hasattr(family, "fitted"):
        config = family.fitted(config)
    return config, family.stages(config)


def family_of(path: Path) -> ModuleType:
    _, tree = read_yaml(path)
    name = tree.get("recipe")
    families = sorted({child.parent.name for child in RECIPES.glob("*/*.yaml")})
    if name not in families:
        raise UserError(f"recipe: {name!r} in {path} names no family\n{nearest(str(name), families)}")
    return importlib.import_module(f"recipes.{name}")


def headline_of(config: Any) -> tuple[str, ...]:
    """The scores that the config's family is judged by, most telling first; those that were measured are shown."""
    return importlib.import_module(f"recipes.{config.recipe}").HEADLINE


def first_recipe_of(family: str) -> Callable[[str], str] | None:
    """What writes a first recipe of a family for a user's data; None: there is no such family.

    Raises:
        UserError: the family is begun with a model, or writes none.
    """
    if not family.isidentifier() or not any(RECIPES.glob(f"{family}/*.yaml")):  # a model's path is no pattern
        return None
    found = getattr(importlib.import_module(f"recipes.{family}"), "first_recipe", None)
    if found is None:
        raise UserError(
            f"headwater init has no first recipe for {family}\n"
            f"way out: a copy of a file of recipes/{family}/, or headwater init MODEL DATA for a decoder"
        )
    return found


def use_of(config: Any, name: str) -> Callable[..., Any] | None:
    """What the config's family does for a verb such as `headwater translate`; None: nothing."""
    return getattr(importlib.import_module(f"recipes.{config.recipe}"), name, None)


def uses_of(config: Any) -> tuple[str, ...]:
    """A line for each verb that the config's family does something for, with {run} for the run's directory."""
    return getattr(importlib.import_module(f"recipes.{config.recipe}"), "USES", ())


def directory_of(config: Any, stage: str) -> Path:
    return Path(config.run.output_dir) / stage


def checkpoints_of(config: Any, stage: str) -> Path:
    return Path(config.run.output_dir) / "checkpoints" / stage


def decisions(
    config: Any, stages: tuple[Stage, ...], discarded: frozenset[str] = frozenset()
) -> dict[str, Decision]:
    """What running each stage would do now; a stage behind one that is still to be made is decided again then.

    discarded: stages taken as not there.
    """
    digests: dict[str, str | None] = {}
    found: dict[str, Decision] = {}
    for stage in stages:
        if stage.name in discarded:
            found[stage.name], digests[stage.name] = Decision("run", "discarded by --replace"), None
            continue
        made = directory_of(config, stage.name)
        inputs = {name: digests[name] for name in stage.inputs}
        decision = artifact.decide(made, checkpoints_of(config, stage.name), stage.identity, inputs)
        if stage.view and decision.action == "conflict":
            decision = Decision("run", f"to be shown anew: {decision.reason}")
        if decision.action == "up to date":
            record = outside.record_of(Path(config.run.output_dir), stage.name)
            decision = outside.judge(record, stage.reads)
        found[stage.name] = _behind_conflict(stage, decision, stages, found)
        published = artifact.read(made)
        digests[stage.name] = (
            published.digest if published and found[stage.name].action == "up to date" else None
        )
    return found


def _behind_conflict(
    stage: Stage, decision: Decision, stages: tuple[Stage, ...], found: dict[str, Decision]
) -> Decision:
    """`decision`, its reason naming the conflict whose way out makes this stage again too."""
    origins = [name for name in sorted(upstream(stages, stage.name)) if found[name].action == "conflict"]
    if decision.action == "conflict" or not origins:
        return decision
    again = f"made from {' and '.join(origins)}, in conflict: --replace makes it again too"
    return Decision(decision.action, f"{decision.reason}; {again}" if decision.reason else again)


def upstream(stages: tuple[Stage, ...], name: str) -> set[str]:
    """The stages that `name` is made from, directly or not."""
    inputs = {stage.name: stage.inputs for stage in stages}
    return set(inputs[name]).union(*(upstream(stages, each) for each in inputs[name]))


def refuse_to_make(name: str, stages: tuple[Stage, ...], found: dict[str, Decision]) -> None:
    """Refuse a stage that conflicts; and to make one from what conflicts, which would mix two sets of data.

    Raises:
        UserError: with the way out.
    """
    made = found[name].action != "up to date"
    refuse_conflicts(
        {each: found[each] for each in found if each == name or made and each in upstream(stages, name)}
    )


def check_all(config: Any, stages: tuple[Stage, ...], found: dict[str, Decision]) -> None:
    """Everything that can be refused, refused before any stage runs: conflicts, permissions, each stage's own check."""
    refuse_conflicts(found)
    check_writable(Path(config.run.output_dir))
    for stage in stages:
        if found[stage.name].action != "up to date":
            importlib.import_module(stage.module).check(config)


def refuse_conflicts(found: dict[str, Decision]) -> None:
    for name, decision in found.items():
        if decision.action == "conflict":
            raise UserError(
                f"{name} is there but differs: {decision.reason[:600]}\n"
                f"way out: another run.output_dir, or `--replace {name}` to discard it and what was made from it"
            )


def execute(config: Any, stages: tuple[Stage, ...], stage: Stage, terminal: TextIO) -> Artifact | None:
    """Run one stage on this process and publish it; None on the processes beside process 0.

    Raises:
        UserError: an upstream artifact is missing or damaged, the stage's own check refuses, or another process
            is making it.
    """
    is_main = int(os.environ.get("RANK", "0")) == 0
    made = directory_of(config, stage.name)
    with claim(made.parent / ".partial" / f"{stage.name}.lock", str(made)) if is_main else nullcontext():
        if is_main:  # what an earlier attempt ended with
            (made.parent / "logs" / f"{stage.name}.error").unlink(missing_ok=True)
        description = _make(config, stage, terminal, is_main)
        if stage.view and is_main:
            artifact.discard(made)
        return artifact.publish(made.parent / ".partial" / stage.name, made, description) if is_main else None


def _make(config: Any, stage: Stage, terminal: TextIO, is_main: bool) -> dict[str, Any]:
    """Fill the staged directory; returns what the manifest will say."""
    inputs = {name: _verified(config, name, stage) for name in stage.inputs}
    module = importlib.import_module(stage.module)
    module.check(config)
    output = Path(config.run.output_dir)
    staged, checkpoints = output / ".partial" / stage.name, checkpoints_of(config, stage.name)
    begun = {}
    if stage.launched:
        from pipeline.run.microbatch import record, with_micro_batch

        config = with_micro_batch(config, stage, checkpoints)
        begun = record(config, stage)
    if is_main:
        _reserve(staged, checkpoints, stage, inputs, begun)
    directories = {name: made.path for name, made in inputs.items()}
    context = Context(config, stage, directories, staged, checkpoints, output / "logs", terminal)
    started, facts = time.time(), provenance.facts()
    read = outside.snapshot(stage.reads()) if is_main else {}
    metrics = module.run(context)
    if is_main:
        outside.keep(outside.record_of(output, stage.name), read)
    return {
        "stage": stage.name,
        "identity": stage.identity,
        "inputs": {name: {"path": f"../{name}", "digest": made.digest} for name, made in inputs.items()},
        "metrics": metrics,
        "config": json.loads(config.model_dump_json()),
        "made": {**facts, **provenance.spent(started), **context.made},
    }


def _verified(config: Any, name: str, stage: Stage) -> Artifact:
    directory = directory_of(config, name)
    made = artifact.read(directory)
    if made is None:
        raise UserError(
            f"{stage.name} needs {name}, and {directory} is not there\nway out: `headwater run` makes it first"
        )
    wrong = artifact.damage(made)
    if wrong:
        raise UserError(f"{wrong}\nway out: `headwater run RECIPE --replace {name}`")
    return made


def _reserve(
    staged: Path, checkpoints: Path, stage: Stage, inputs: dict[str, Artifact], begun: dict[str, Any]
) -> None:
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    if stage.launched:
        checkpoints.mkdir(parents=True, exist_ok=True)
        started = {"identity": stage.identity, "inputs": {name: made.digest for name, made in inputs.items()}}
        write_json(checkpoints / "identity.json", started)
        write_json(checkpoints / MICRO_BATCH, begun)


def main(name: str) -> None:
    """`python -m MODULE recipe.yaml [section.key=value ...]`: one stage alone, on any launcher. Exits 0, 1, 2 or 3."""
    leave(run_alone(name, sys.argv[1:]))


def leave(code: int) -> NoReturn:
    """End this process with `code`; a launched one without the interpreter's teardown.

    A thread of Gloo may still hold the tensors of the last collective. Where it lets go of them while the interpreter
    ends, the process aborts and the launcher stops the others, though all are done: seen at 3 ends of 16 on a busy
    machine (torch 2.13), and at none of 24 since. It can go with Python 3.14, which keeps such a thread waiting.
    """
    if "RANK" not in os.environ:
        sys.exit(code)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def run_alone(name: str, arguments: list[str]) -> int:
    if not arguments or arguments[0].startswith("-"):
        print(f"usage: python -m MODULE recipe.yaml [section.key=value ...]  (stage {name})", file=sys.stderr)
        return 2
    logs, errors = None, os.dup(2)
    if "RANK" in os.environ:
        follow_parent()
    try:
        config, stages = open_recipe(Path(arguments[0]), arguments[1:])
        stage = next((stage for stage in stages if stage.name == name), None)
        if stage is None:
            raise UserError(
                f"{arguments[0]} has no stage {name}\nit has: {', '.join(s.name for s in stages)}"
            )
        found = decisions(config, stages)
        refuse_to_make(name, stages, found)
        check_writable(Path(config.run.output_dir))
        if found[name].action == "up to date":
            if int(os.environ.get("RANK", "0")) == 0:
                print(f"{name}: up to date")
            return 0
        logs = Path(config.run.output_dir) / "logs"
        terminal = divert(logs / f"{name}.log")
        execute(config, stages, stage, terminal)
        return 0
    except Exception as error:
        os.dup2(errors, 2)  # back from the log to where whoever ran this looks
        return report_error(error, logs, name)
