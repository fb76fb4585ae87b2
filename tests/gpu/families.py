"""Every family's recipe on the GPU: its losses are the CPU's, and a resumed run is the uninterrupted one."""

import tempfile
from pathlib import Path
from typing import Any

from pipeline.train import checkpoint
from pipeline.train.engine import Runtime
from pipeline.train.loop import Trainer, steps
from tests.gpu.check import Check, Place, Said, require
from tests.recipe_cases import CASES, STEP_SAMPLES, Case, prepare_all, seq2seq
from tests.tiny_language_model import ALONE
from tests.worker import state_digests

# A GPU draws other dropout than a CPU from the same seed.
MARIAN = (f"model.config.{name}=0" for name in ("dropout", "attention_dropout", "activation_dropout"))
WITHOUT_DROPOUT = {
    "T5": seq2seq("t5", "train.label_smoothing=0", "model.config.dropout_rate=0"),
    "Marian": seq2seq("marian", *MARIAN),
    "span corruption": seq2seq("t5", "model.config.dropout_rate=0", sentinels=(27, 28, 29)),
}
SAVED = 2
NEAR = 1e-3  # relative, of a step's loss; fp32 sums in another order, four steps apart


def families(place: Place) -> Said:
    """Four steps each: against the CPU's, and the last two again from a checkpoint, bit for bit."""
    figures: Said = {}
    with tempfile.TemporaryDirectory() as folder:
        shared = Path(folder)
        prepare_all(shared)
        for name, case in CASES.items():
            case = case._replace(build=WITHOUT_DROPOUT.get(name, case.build))
            try:
                figures[name] = _seen(case, shared, shared / "checkpoints" / name, place.runtime)
            except Exception as error:  # one family that breaks must not hide what the others say
                figures[name] = {"failed": f"{type(error).__name__}: {str(error)[:200]}"}
    sound = all(found.get("resumed") and found["differs"] < NEAR for found in figures.values())
    return require(sound, "a family trains otherwise than on the CPU, or resumes otherwise", figures)


def _seen(case: Case, shared: Path, checkpoints: Path, runtime: Runtime) -> Said:
    whole = Trainer(case.build(shared, STEP_SAMPLES), runtime)
    rows = []
    for info in steps(whole):
        rows.append(_figures(info))
        if info.step == SAVED:
            checkpoint.save(checkpoints, SAVED, whole.tensors(), {}, 1, runtime)
    again = Trainer(case.build(shared, STEP_SAMPLES), runtime)
    newest, _ = checkpoint.newest(checkpoints, runtime)
    again.load(checkpoint.Reader(newest), SAVED)
    repeated = [_figures(info) for info in steps(again, SAVED)]
    resumed = repeated == rows[SAVED:] and state_digests(again) == state_digests(whole)
    there = [_figures(info) for info in steps(Trainer(case.build(shared, STEP_SAMPLES), ALONE))]
    return {"differs": _apart(rows, there), "first_differs": _apart(rows[:1], there[:1]), "resumed": resumed}


def _figures(info: Any) -> dict[str, float]:
    return {name: figure.mean for name, figure in info.sums.items() if name.endswith("loss")}


def _apart(ours: list[dict[str, float]], theirs: list[dict[str, float]]) -> float:
    """The largest relative difference of two runs' losses."""
    pairs = [(mine[name], one[name]) for mine, one in zip(ours, theirs, strict=True) for name in one]
    return max(abs(a - b) / max(abs(b), 1e-3) for a, b in pairs)


CHECKS = [Check("families", "every family's recipe against the CPU, and resumed, bit for bit", families)]
