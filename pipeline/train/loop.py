"""The one training loop: a generator of optimizer steps that knows no recipe by name.

Follow a batch: a thread takes samples by global index, a step ahead (feed.py); `_turn` sums a recipe's loss over them
and its engine updates one net. `fit` (fit.py) consumes what `steps` yields: it logs, evaluates and saves.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.run.plan import Batches
from pipeline.train.ema import Ema
from pipeline.train.engine import STATE, Average, Engine, NonFinite, Runtime, build_engine
from pipeline.train.feed import ahead, collated, micro_batches, on
from pipeline.train.recipe import Acting, Batch, Clock, Recipe, Split, Sum
from pipeline.train.schedule import learning_rate_factor
from pipeline.train.seeds import derived_seed

FEW = 8  # micro-batches named where a loss is not finite
SMALLEST = 1e-9  # a count is a number of terms, or a sum of their weights


@dataclass(frozen=True)
class StepInfo:
    """What one optimizer step did; every figure but `waited` is global.

    step: updates done, this one included; samples: samples seen since the run's beginning; sums: for each
    `turn/part` of the loss its (sum, count); gradient_norms: of each turn's net, before clipping, None where the
    engine cannot know it; learning_rates: AdamW's, a turn; stop, save: a process was asked to stop, to save; waited:
    seconds that this process stood still for its batches; skipped: why turns were left out, which have no sums.
    """

    step: int
    samples: int
    sums: dict[str, Sum]
    gradient_norms: dict[str, float | None]
    learning_rates: dict[str, float]
    stop: bool
    save: bool
    waited: float
    skipped: tuple[NonFinite, ...] = ()


class Trainer:
    """The nets of a recipe on this launcher: an engine for each turn's, an EMA where asked; the rest are frozen."""

    def __init__(self, recipe: Recipe, runtime: Runtime):
        self.recipe, self.runtime, self.training = recipe, runtime, recipe.training
        self.batches = Batches.derive(recipe.training, runtime.world_size)
        self.updates = 0  # done, whoever runs the loop says so
        self.skipped: dict[str, list[int]] = {turn: [] for turn in recipe.turns}  # steps without an update
        self.alive: Callable[[int], object] = lambda step: (
            None
        )  # told after every step and batch of evaluation
        torch.manual_seed(derived_seed(self.training.seed, "weights"))
        nets = recipe.nets()
        self.engines: dict[str, Engine] = {
            turn: build_engine(nets[turn], recipe.optimizers[turn], self.training, self.batches, runtime)
            for turn in recipe.turns
        }
        self.frozen = {name: _frozen(net, runtime) for name, net in nets.items() if name not in recipe.turns}
        self.averages = {
            turn: Average(engine, recipe.optimizers[turn].adam_beta1)
            for turn, engine in self.engines.items()
            if recipe.optimizers[turn].optim == "schedule_free_adamw"
        }
        decay = self.training.ema_decay
        self.emas = {turn: Ema(self.engines[turn].masters(), decay) for turn in recipe.ema if decay}

    def nets(self, learning: str | None = None) -> dict[str, nn.Module]:
        """The nets by name; the one that learns is the module whose forward feeds its engine's gradients."""
        learnt = {turn: e.forward if turn == learning else e.module for turn, e in self.engines.items()}
        return self.frozen | learnt

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Everything a checkpoint holds, whole and by name; every process must exhaust it."""
        for turn, engine in self.engines.items():
            for key, tensor in engine.state(("weight", *STATE)):
                yield f"{turn}/{key}", tensor
            for name, buffer in engine.module.named_buffers():
                yield f"{turn}/buffer/{name}", buffer
            if turn in self.emas:
                yield from self._shadows(turn)

    def _shadows(self, turn: str) -> Iterator[tuple[str, Tensor]]:
        with self.emas[turn].swapped():
            for key, tensor in self.engines[turn].state(("weight",)):
                yield f"{turn}/ema/{key.removeprefix('weight/')}", tensor

    def _learnt(self, turn: str) -> Iterator[tuple[str, Tensor]]:
        """The weights that training found: schedule-free, their average."""
        with self.averages[turn].swapped() if turn in self.averages else nullcontext():
            yield from self.engines[turn].state(("weight",))

    def load(self, read, step: int) -> None:
        """Restore what `tensors` gave, through `read(key)`, as it was after `step` steps less those `skipped`."""
        for turn, engine in self.engines.items():
            updates = [each for each in range(step) if each not in self.skipped[turn]]
            if turn in self.emas:  # shadows first: they pass through the masters
                engine.load(lambda key, turn=turn: _shadow_or_state(read, turn, key), updates)
                self.emas[turn] = Ema(engine.masters(), self.training.ema_decay)
            engine.load(lambda key, turn=turn: read(f"{turn}/{key}"), updates)
            for name, buffer in engine.module.named_buffers():
                buffer.copy_(read(f"{turn}/buffer/{name}").to(buffer.dtype))

    @contextmanager
    def resting(self, shadows: bool = False, averages: bool = True) -> Iterator[dict[str, nn.Module]]:
        """Within, the nets do not learn: evaluation mode, no gradients.

        shadows: with the EMA's weights. averages: schedule-free, with the average that training finds.
        """
        nets = self.nets()
        modes = {name: net.training for name, net in nets.items()}
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            stack.enter_context(next(iter(self.engines.values())).precision())
            others_of = (self.averages if averages else {}) | (self.emas if shadows else {})
            for turn, others in others_of.items():
                stack.enter_context(self._swapped(turn, others))
            for net in nets.values():
                net.eval()
            yield nets
        for name, net in nets.items():
            net.train(modes[name])

    @contextmanager
    def _swapped(self, turn: str, others: Ema | Average) -> Iterator[None]:
        with others.swapped():
            self.engines[turn].refresh()
            yield
        self.engines[turn].refresh()

    def weights(self, turn: str, ema: bool = False) -> dict[str, Tensor]:
        """Whole fp32 CPU copies of the trainable weights of one net, by parameter name, on process 0 alone."""
        pairs = self._shadows(turn) if ema else self._learnt(turn)
        prefix = f"{turn}/ema/" if ema else "weight/"
        kept = {}
        for key, tensor in pairs:
            if self.runtime.is_main:
                kept[key.removeprefix(prefix)] = tensor.detach().float().cpu().clone()
        return kept


def _frozen(net: nn.Module, runtime: Runtime) -> nn.Module:
    return net.to(runtime.device).eval().requires_grad_(False)


def _shadow_or_state(read, turn: str, key: str) -> Tensor:
    name = key.removeprefix("weight/")
    return read(f"{turn}/ema/{name}") if name != key else read(f"{turn}/{key}")


def steps(
    trainer: Trainer, start: int = 0, stop_asked=lambda: False, save_asked=lambda: False
) -> Iterator[StepInfo]:
    """Train from update `start` to `max_steps`, yielding after each update.

    stop_asked, save_asked: of this process alone; what one is asked, all are told.

    Raises:
        NonFinite: on every process, before the update that would have used a loss or gradient that is not finite; where
            `skip_nonfinite_steps` allows it, that update is left out and the next step follows.
    """
    recipe, runtime, training = trainer.recipe, trainer.runtime, trainer.training
    data, size, updates = recipe.data(), training.train_batch_size, range(start, training.max_steps)
    rounds = recipe.round_steps if isinstance(recipe, Acting) else 1

    def prepare(step: int) -> list[tuple[int, Batch]]:
        return micro_batches(recipe, data, trainer.batches, runtime, step // rounds, size)

    acted: list[tuple[int, Batch]] = []
    with closing(ahead(prepare, updates, runtime.device)) as feed:
        for step in updates:
            began = time.perf_counter()
            fed = next(feed)
            waited = time.perf_counter() - began
            if isinstance(recipe, Acting):
                fed = acted = acted if step % rounds else _acted(trainer, recipe, fed, step)
            whole = (step + 1) % rounds == 0  # a round is neither stopped nor saved in its middle
            asked = (float(whole and stop_asked()), float(whole and save_asked()))
            sums, norms, rates, told, skipped = {}, {}, {}, (False, False), []
            for turn in recipe.turns:
                factor = learning_rate_factor(step, training.max_steps, recipe.optimizers[turn])
                with runtime.repeatable(training.deterministic):
                    parts, told, losses = _turn(trainer, turn, fed, step, asked)
                    try:
                        norms[turn] = _updated(trainer.engines[turn], factor, parts)
                    except NonFinite as error:
                        skipped.append(_named(error, trainer, turn, fed, step, losses))
                        if len(trainer.skipped[turn]) == training.skip_nonfinite_steps:
                            raise skipped[-1] from None
                        trainer.skipped[turn].append(step)
                        parts, norms[turn] = {}, None
                rates[turn] = recipe.optimizers[turn].learning_rate * factor
                sums |= {f"{turn}/{part}": figure for part, figure in parts.items()}
                if turn in trainer.emas and parts:
                    trainer.emas[turn].update()
            trainer.alive(step + 1)
            yield StepInfo(step + 1, (step + 1) * size, sums, norms, rates, *told, waited, tuple(skipped))


def _acted(
    trainer: Trainer, recipe: Acting, fed: list[tuple[int, Batch]], step: int
) -> list[tuple[int, Batch]]:
    """The step's micro-batches as its weights make them."""
    runtime, size, micro = trainer.runtime, trainer.training.train_batch_size, trainer.batches.micro
    with runtime.repeatable(trainer.training.deterministic), trainer.resting(averages=False) as nets:
        return [
            (number, recipe.act(nets, on(runtime.device, batch), Clock(step, step * size + number * micro)))
            for number, batch in fed
        ]


def _turn(
    trainer: Trainer, turn: str, fed: list[tuple[int, Batch]], step: int, asked: tuple[float, float]
) -> tuple[dict[str, Sum], tuple[bool, bool], list[Tensor]]:
    """Accumulate the gradient of sum / count, the count taken over the whole step and all processes.

    asked: to stop and to save, of this process; what is returned, of any, with this process's losses.
    """
    recipe, runtime, engine = trainer.recipe, trainer.runtime, trainer.engines[turn]
    for name, other in trainer.engines.items():
        other.learns(name == turn)
    nets = trainer.nets(turn)
    counted = sum(recipe.count(turn, batch) for _, batch in fed)
    # Sums travel while nets work: the count during the first forward, losses and flags during the last backward.
    count = runtime.begin_sum(torch.tensor(float(counted), device=runtime.device))
    flags = torch.tensor(asked, device=runtime.device)
    totals: dict[str, Tensor] = {}
    losses: list[Tensor] = []
    for number, batch in fed:
        clock = Clock(step, step * trainer.training.train_batch_size + number * trainer.batches.micro)
        # Dropout draws from torch's own generators: a function of (seed, turn, step, micro-batch) alone.
        stretch = (runtime.sequence_rank,) if runtime.sequence_size > 1 else ()
        _seed(derived_seed(trainer.training.seed, turn, step, number, *stretch), runtime.device)
        batch = on(runtime.device, batch)
        last = number == fed[-1][0]
        engine.opens(last)
        with engine.precision():
            loss = recipe.loss(turn, nets, batch, clock)
        losses.append(loss.total.detach())
        counts = {f"{part}/count": number for part, number in loss.counts.items()}
        for part, value in {"loss": loss.total.detach(), **loss.parts, **counts}.items():
            totals[part] = totals.get(part, 0) + value.float()
        if last:
            sums = runtime.begin_sum(torch.stack([*totals.values(), *flags]))
        # A step of which nothing counts, of answers that were all cut off, teaches nothing: 0, not 0 / 0.
        engine.backward(loss.total * (runtime.world_size / count().clamp(min=SMALLEST)), last)
    *values, stops, saves = sums().tolist()  # the only wait for the device before the update
    whole, figures = float(count().clamp(min=SMALLEST)), dict(zip(totals, values, strict=True))
    parts = [part for part in figures if not part.endswith("/count")]
    sums = {part: Sum(figures[part], figures.get(f"{part}/count", whole)) for part in parts}
    return sums, (bool(stops), bool(saves)), losses


def _updated(engine: Engine, factor: float, sums: dict[str, Sum]) -> float | None:
    """The gradient's norm; raises NonFinite, with the gradients cleared, where the step teaches nothing true."""
    if not all(math.isfinite(figure) for each in sums.values() for figure in each):
        engine.discard()
        raise NonFinite(f"the sums are { {part: figure.total for part, figure in sums.items()} }")
    return engine.update(factor)


def _named(
    error: NonFinite,
    trainer: Trainer,
    turn: str,
    fed: list[tuple[int, Batch]],
    step: int,
    losses: list[Tensor],
) -> NonFinite:
    """The error, with the samples that it came from: those of micro-batches whose own loss is not finite, where there
    are any; else the whole step's. Every process is here, and names those of all."""
    runtime, micro, size = trainer.runtime, trainer.batches.micro, trainer.training.train_batch_size
    bad = torch.zeros(size // micro, device=runtime.device)
    for (number, _), loss in zip(fed, losses, strict=False):
        bad[number] = float(not torch.isfinite(loss))
    numbers = runtime.sum(bad).nonzero().flatten().tolist() or list(range(size // micro))
    rounds = trainer.recipe.round_steps if isinstance(trainer.recipe, Acting) else 1
    first = step // rounds * size
    spans = [f"{first + number * micro} to {first + number * micro + micro - 1}" for number in numbers]
    few = spans[:FEW] if len(numbers) < size // micro else [f"{first} to {first + size - 1}, the whole step"]
    return NonFinite(
        f"step {step + 1}: {turn}: {error}\nits samples: {', '.join(few)}",
        step + 1,
        [(number, batch) for number, batch in fed if number in numbers],
    )


def _seed(seed: int, device: torch.device) -> None:
    """What `torch.manual_seed` does for the generators in use; it asks after every kind of device, 0.2 ms a call."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


def evaluate(trainer: Trainer, split: Split, step: int = 0) -> dict[str, Sum]:
    """The recipe's held-out figures over the whole split, the same at any batch size and number of processes."""
    recipe, runtime, size = trainer.recipe, trainer.runtime, trainer.training.per_device_eval_batch_size
    figures: dict[str, Sum] = {}
    rounds = range(math.ceil(split.length / (size * runtime.data_size)))

    def indices(number: int) -> range:
        first = (number * runtime.data_size + runtime.data_rank) * size
        return range(first, min(first + size, split.length))

    def prepare(number: int) -> Batch:
        # Under ZeRO-3 a forward gathers weights: a process with nothing left still takes part, and is not counted.
        return collated(recipe, split, indices(number) or range(1), runtime.device)

    with trainer.resting() as nets, closing(ahead(prepare, rounds, runtime.device)) as feed:
        for number, batch in zip(rounds, feed, strict=True):
            clock = Clock(step, indices(number).start)
            for name, figure in recipe.evaluate(nets, on(runtime.device, batch), clock).items():
                counted = figure if indices(number) else Sum(0.0, 0.0)
                figures[name] = figures.get(name, Sum(0.0, 0.0)) + counted
            trainer.alive(trainer.updates)
    return _reduced(figures, runtime)


def _reduced(figures: dict[str, Sum], runtime: Runtime) -> dict[str, Sum]:
    flat = torch.tensor(
        [[f.total, f.count] for f in figures.values()], dtype=torch.float64, device=runtime.device
    )
    pairs = runtime.sum(flat).tolist()
    return {name: Sum(*pair) for name, pair in zip(figures, pairs, strict=True)}
