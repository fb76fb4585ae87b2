"""Figures for people and for metrics.jsonl: rates over the steps since the last line, means from sums and counts."""

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from pipeline.run.units import duration
from pipeline.train.engine import Runtime, open_trackers
from pipeline.train.loop import StepInfo
from pipeline.train.recipe import Recipe, Sum

LINE_SECONDS = 60.0  # between two lines of progress where there is no terminal


class Meter:
    """Sums what steps yield between two log lines, and the time that training alone took."""

    def __init__(self, recipe: Recipe, world_size: int):
        self.recipe, self.world_size = recipe, world_size
        # Counting them may take a second: here, before the clock runs.
        self.flops_per_sample = recipe.flops_per_sample
        self.sums: dict[str, Sum] = {}
        self.steps = self.all_steps = 0
        self.seconds = self.all_seconds = 0.0
        self.first_step_seconds = self.waited = 0.0
        self.since = time.perf_counter()

    def add(self, info: StepInfo) -> None:
        now = time.perf_counter()
        spent, self.since = now - self.since, now
        if not self.all_steps and not self.first_step_seconds:
            self.first_step_seconds = spent  # compilation and first touches, kept out of the summary's rate
        else:
            self.all_steps += 1
            self.all_seconds += spent
            self.waited += info.waited
        self.steps += 1
        self.seconds += spent
        for name, figure in info.sums.items():
            self.sums[name] = self.sums.get(name, Sum(0.0, 0.0)) + figure

    def pause(self) -> None:
        """Leave what happened since the last step (a save, an evaluation) out of the rates."""
        self.since = time.perf_counter()

    def take(self, info: StepInfo) -> dict[str, float]:
        """The figures since the last call. With one turn its name is left out of the keys."""
        prefix = f"{self.recipe.turns[0]}/" if len(self.recipe.turns) == 1 else ""
        figures = {name.removeprefix(prefix): figure.mean for name, figure in self.sums.items()}
        for turn in self.recipe.turns:
            start = "" if prefix else f"{turn}/"
            if (norm := info.gradient_norms[turn]) is not None:
                figures[f"{start}gradient_norm"] = norm
            figures[f"{start}learning_rate"] = info.learning_rates[turn]
        figures |= {"samples": info.samples, **self._rates(self.steps, self.seconds)}
        self.sums, self.steps, self.seconds = {}, 0, 0.0
        return figures

    def summary(self) -> dict[str, float]:
        """Rates over all steps but the first, whose time is given apart, and the share of waiting for data."""
        share = {"data_wait_share": round(self.waited / self.all_seconds, 4)} if self.all_steps else {}
        return {
            **self._rates(self.all_steps, self.all_seconds),
            **share,
            "first_step_seconds": round(self.first_step_seconds, 2),
        }

    def _rates(self, steps: int, seconds: float) -> dict[str, float]:
        if not steps:
            return {}
        samples = steps * self.recipe.training.train_batch_size / seconds
        rates = {f"{self.recipe.unit}_per_second": samples * self.recipe.units_per_sample}
        if self.flops_per_sample:
            rates["flops_per_second"] = samples * self.flops_per_sample
        return {name: float(f"{rate:.4g}") for name, rate in rates.items()}


@dataclass
class Log:
    """metrics.jsonl on process 0, and the trackers that were asked for."""

    file: TextIO | None
    trackers: list[Any] = field(default_factory=list)

    @classmethod
    def open(
        cls, logs: Path, name: str, start: int, trackers: tuple[str, ...], config: Any, runtime: Runtime
    ) -> "Log":
        """Append to NAME.metrics.jsonl after dropping lines beyond step `start`, which will be written again."""
        if not runtime.is_main:
            return cls(None)
        path = logs / f"{name}.metrics.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text().splitlines() if path.exists() else []
        kept = [line for line in lines if json.loads(line)["step"] <= start and start]
        path.write_text("".join(line + "\n" for line in kept))
        return cls(
            open(path, "a", buffering=1),
            open_trackers(trackers, name, logs, json.loads(config.model_dump_json())),
        )

    def write(self, step: int, figures: dict[str, float]) -> None:
        if self.file is None or not figures:
            return
        self.file.write(json.dumps({"step": step, **figures}) + "\n")
        for tracker in self.trackers:
            tracker.log(figures, step=step)

    def close(self) -> None:
        if self.file is not None:
            self.file.close()
        for tracker in self.trackers:
            tracker.finish()


class Bar:
    """A progress bar on process 0 with loss, rate, FLOP/s and time left; a line a minute where there is no terminal."""

    def __init__(self, context: Any, recipe: Recipe, start: int):
        self.unit, self.terminal, self.start = recipe.unit, context.terminal, start
        self.name, self.total = context.stage.name, recipe.training.max_steps
        self.began = self.said = time.monotonic()
        self.tqdm = tqdm(
            total=self.total,
            initial=start,
            desc=self.name,
            file=context.terminal,
            disable=not context.terminal.isatty(),
            unit="step",
            bar_format="{desc} {percentage:3.0f}% |{bar:20}| {n_fmt}/{total_fmt} {postfix} [{elapsed} < {remaining}]",
        )

    def show(self, step: int, figures: dict[str, float]) -> None:
        losses = [f"{name} {value:.3f}" for name, value in figures.items() if name.endswith("loss")]
        rate = figures.get(f"{self.unit}_per_second", 0.0)
        flops = figures.get("flops_per_second", 0.0)
        shown = [*losses, f"{rate:,.0f} {self.unit}/s", *([f"{flops / 1e9:,.0f} GFLOP/s"] if flops else [])]
        self.tqdm.set_postfix_str(", ".join(shown), refresh=False)
        self.tqdm.update(step - self.tqdm.n)
        now = time.monotonic()
        if self.tqdm.disable and now - self.said >= LINE_SECONDS:
            self.said = now
            left = duration((now - self.began) / (step - self.start) * (self.total - step))
            head = f"{self.name}: step {step:,} of {self.total:,}"
            self.terminal.write(f"{head}, {', '.join(shown)}, {left} left\n")

    def close(self) -> None:
        self.tqdm.close()
