"""What a run's artifacts hold for people: scores, samples, ledgers, images and training logs, whatever the family."""

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipeline.run.artifact import Artifact
from pipeline.run.errors import UserError
from pipeline.run.units import interval_decimals, significant_decimals

Points = list[tuple[int, float]]  # (step, value); a value may be NaN or infinite


@dataclass(frozen=True)
class Score:
    """A figure on held-out data: one line of an evaluation.json, whatever the family.

    name: what is measured; model: of which model, or which baseline stands in its place; interval: 95 %, or None where
    nothing was sampled; count: units behind the value, which the protocol names; protocol: all that another
    implementation needs to get the same figure; better: `lower` or `higher`.
    """

    name: str
    model: str
    value: float
    interval: tuple[float, float] | None
    unit: str
    count: int | None
    protocol: str
    better: str

    @property
    def key(self) -> str:
        """The score's name among the metrics of an artifact."""
        return f"{self.name.replace(' ', '_')}/{self.model}"

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Log:
    """A stage's metrics.jsonl: series name -> points in order of step, and the lines that could not be read.

    drawings: (step, PNG) of the samples that were drawn while it trained.
    """

    series: dict[str, Points]
    unreadable: int
    drawings: list[tuple[int, Path]] = field(default_factory=list)


def scores_of(artifacts: Iterable[Artifact]) -> dict[str, list[Score]]:
    """The scores of every evaluation.json by name, in the order of the files."""
    groups: dict[str, list[Score]] = {}
    for made in artifacts:
        for found in _json(made, "evaluation.json", {}).get("scores", []):
            score = _score(found)
            groups.setdefault(score.name, []).append(score)
    return groups


def missing_of(artifacts: Iterable[Artifact]) -> dict[str, str]:
    """What an evaluation.json says was not measured, or less than asked, and why."""
    found = [_json(made, "evaluation.json", {}).get("missing", {}) for made in artifacts]
    return {name: why for missing in found for name, why in missing.items()}


def _score(found: dict[str, Any]) -> Score:
    given = found.get("interval")
    interval = (float(given[0]), float(given[1])) if given else None
    value = math.nan if found["value"] is None else found["value"]
    texts = {key: str(found.get(key) or "") for key in ("model", "unit", "protocol", "better")}
    return Score(name=found["name"], value=value, interval=interval, count=found.get("count"), **texts)


def decimals_of(group: list[Score]) -> int:
    """Decimals for one group of scores, so that they align: what the widest interval supports, or four digits."""
    if all(isinstance(score.value, int) for score in group):
        return 0
    wide = [interval_decimals(*score.interval) for score in group if score.interval]
    values = [abs(score.value) for score in group if math.isfinite(score.value) and score.value]
    return min(wide) if wide else significant_decimals(max(values, default=0.0))


def samples_of(artifacts: Iterable[Artifact]) -> list[dict[str, Any]]:
    """The entries of every samples.json."""
    return [sample for made in artifacts for sample in _json(made, "samples.json", [])]


def prompt_of(sample: dict[str, Any]) -> str:
    """A sample's prompt as text; a list of messages is written one under the other."""
    prompt = sample.get("prompt") or ""
    if isinstance(prompt, str):
        return prompt
    return "\n".join(str(part["content"]) if isinstance(part, dict) else str(part) for part in prompt)


def ledgers_of(artifacts: Iterable[Artifact]) -> dict[str, Any]:
    """Stage -> its ledger.json."""
    found = {made.stage: _json(made, "ledger.json", None) for made in artifacts}
    return {stage: ledger for stage, ledger in found.items() if ledger}


def supervision_of(artifacts: Iterable[Artifact]) -> dict[str, Any]:
    """What a supervision.json says that the conversations teach, by split; nothing where none are taught."""
    return next((found for made in artifacts if (found := _json(made, "supervision.json", None))), {})


def filtered_of(artifacts: Iterable[Artifact]) -> dict[str, list[dict[str, Any]]]:
    """Reason -> the examples that filtered.jsonl keeps of documents that filters took."""
    found: dict[str, list[dict[str, Any]]] = {}
    for made in artifacts:
        if "filtered.jsonl" in made.files:
            for line in (made.path / "filtered.jsonl").read_text(encoding="utf-8").splitlines():
                found.setdefault((row := json.loads(line))["reason"], []).append(row)
    return found


def images_of(artifacts: Iterable[Artifact]) -> dict[str, list[str]]:
    """Stage -> the PNG files it published."""
    found = {made.stage: [name for name in made.files if name.lower().endswith(".png")] for made in artifacts}
    return {stage: names for stage, names in found.items() if names}


def sounds_of(artifacts: Iterable[Artifact]) -> list[dict[str, Any]]:
    """The entries of every sounds.json, {"kind", "caption", "file"}, each with the `path` of its WAV file."""
    return [
        {**sound, "path": made.path / sound["file"]}
        for made in artifacts
        for sound in _json(made, "sounds.json", [])
        if sound.get("file") in made.files
    ]


def model_directory(artifacts: Iterable[Artifact]) -> str | None:
    """Where the last artifact that holds a language model with its tokenizer has it; None: nobody to talk to.

    An encoder-decoder is none: it answers a source, not a conversation.
    """
    found = [
        f"{made.stage}/{Path(name).parent.as_posix()}"
        for made in artifacts
        for name in made.files
        if name.endswith("tokenizer_config.json")
        and (settings := _json(made, Path(name).with_name("config.json").as_posix(), None)) is not None
        and not settings.get("is_encoder_decoder")
    ]
    return found[-1] if found else None


def read_log(path: Path) -> Log:
    """The numeric series of a metrics.jsonl; where a step was written twice, the later line holds.

    A line torn by a crash is counted, not hidden.
    """
    samples = path.with_name(path.name.replace(".metrics.jsonl", ".samples"))
    drawings = [
        (step_of(drawing), png) for drawing in steps_of(samples) for png in sorted(drawing.glob("*.png"))
    ]
    values: dict[str, dict[int, float]] = {}
    unreadable = 0
    for line in path.read_text().splitlines():
        try:
            entry = json.loads(line)
            step = entry["step"]
        except (ValueError, KeyError, TypeError):
            unreadable += 1
            continue
        for key, value in entry.items():
            if isinstance(value, int | float) and not isinstance(value, bool) and key != "step":
                values.setdefault(key, {})[step] = float(value)
    return Log({key: sorted(points.items()) for key, points in values.items()}, unreadable, drawings)


def _json(made: Artifact, name: str, otherwise: Any) -> Any:
    """The content of an optional file of an artifact."""
    if name not in made.files:
        return otherwise
    try:
        return json.loads((made.path / name).read_text())
    except ValueError as error:
        raise UserError(f"{made.path / name} is no JSON: {error}") from None


def steps_of(directory: Path) -> list[Path]:
    """The drawings in a `STAGE.samples` directory, oldest first."""
    return sorted(directory.glob("step-*"))


def step_of(drawing: Path) -> int:
    return int(drawing.name.removeprefix("step-"))
