"""`headwater runs` and `headwater clean`: the runs below a folder, and what of one can be made again."""

import fcntl
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.run import artifact
from pipeline.run.errors import UserError
from pipeline.run.results import scores_of
from pipeline.run.units import duration, size

SHOWN = 3  # scores of a run


@dataclass(frozen=True)
class Seen:
    """A run. done, stages: published and in all; busy: the stage that a process is making now; bytes: on the disk;
    changed: seconds since something was published; scores: the most telling ones."""

    path: Path
    recipe: str
    done: int
    stages: int
    busy: str | None
    bytes: int
    changed: float
    scores: str


def runs_below(folder: Path) -> list[Seen]:
    """Every run at or below `folder`, the one that was made last first.

    Raises:
        UserError: there is no such folder, or no run in it.
    """
    if not folder.is_dir():
        raise UserError(f"no folder {folder}\nway out: headwater runs FOLDER")
    found = [seen(path.parent) for path in sorted({*folder.glob("config.yaml"), *folder.glob("*/config.yaml")})]
    if not found:
        raise UserError(f"no run in {folder}\nexpected: output directories of runs, such as runs/quickstart")
    return sorted(found, key=lambda run: run.changed)


def seen(run: Path) -> Seen:
    """What a run has; of one that cannot be read, why."""
    held = sum(path.lstat().st_size for path in run.rglob("*") if path.is_file())
    manifests = [path.stat().st_mtime for path in run.glob(f"*/{artifact.MANIFEST}")]
    since = time.time() - max([*manifests, (run / "config.yaml").stat().st_mtime])
    try:
        config, stages = _open(run)
        made = {stage.name: published for stage in stages if (published := artifact.read(run / stage.name))}
    except UserError as error:
        return Seen(run, "?", len(manifests), len(manifests), busy(run), held, since, str(error).split("\n")[0])
    return Seen(run, config.recipe, len(made), len(stages), busy(run), held, since, _scores(config, made))


def _open(run: Path) -> tuple[Any, tuple]:
    from pipeline.run.stage import open_recipe

    return open_recipe(run / "config.yaml", [f"run.output_dir={run}"])


def busy(run: Path) -> str | None:
    """The stage whose lock a process holds."""
    for lock in sorted((run / ".partial").glob("*.lock")):
        with open(lock) as held:
            try:
                fcntl.flock(held, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return lock.stem
    return None


def _scores(config: Any, made: dict[str, Any]) -> str:
    from pipeline.run.stage import headline_of

    groups = scores_of(made.values())
    telling = [score for name in headline_of(config) for score in groups.get(name, ())]
    return ", ".join(f"{score.key} {score.value:.3g}" for score in telling[:SHOWN])


def render(found: list[Seen]) -> str:
    rows = [["run", "recipe", "stages", "size", "last", "scores"]]
    for run in found:
        state = f"{run.done}/{run.stages}{f' {run.busy} runs' if run.busy else ''}"
        rows.append([str(run.path), run.recipe, state, size(run.bytes), f"{duration(run.changed)} ago", run.scores])
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = [[*map(str.ljust, row[:5], widths), row[5]] for row in rows]
    return "\n".join("  ".join(line).rstrip() for line in lines)


def removable(run: Path) -> list[tuple[Path, str]]:
    """(path, why it can go): what finished stages trained on from, and what was never published. No artifact is made
    from any of it.

    Raises:
        UserError: no run, or one that a process is making.
    """
    if not (run / "config.yaml").is_file():
        raise UserError(f"no run at {run}: config.yaml is not there\nexpected: a run's output directory")
    if stage := busy(run):
        raise UserError(f"{run}: {stage} is being made by another process\nway out: wait for it, or stop it")
    _, stages = _open(run)
    found = []
    for stage in stages:
        checkpoints = run / "checkpoints" / stage.name
        if checkpoints.is_dir() and artifact.read(run / stage.name):
            found.append((checkpoints, f"{stage.name} is finished; `headwater prove` needs them"))
    partial = [path for path in sorted((run / ".partial").glob("*")) if path.suffix != ".lock"]
    return found + [(path, "was never published") for path in partial]


def clean(run: Path, sure: bool) -> str:
    """Remove it where `sure`, else only say what would go. Raises as `removable`."""
    found = removable(run)
    if not found:
        return f"{run}: nothing to remove"
    sizes = [sum(file.lstat().st_size for file in [path, *path.rglob("*")] if file.is_file()) for path, _ in found]
    lines = [f"{size(held):>10}  {path}  ({why})" for (path, why), held in zip(found, sizes, strict=True)]
    if sure:
        for path, _ in found:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    last = f"{size(sum(sizes))} removed" if sure else f"{size(sum(sizes))} would go; --yes removes it"
    return "\n".join([*lines, last])
