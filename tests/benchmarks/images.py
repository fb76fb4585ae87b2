"""Training pictures a second on a CPU: our loop over the examples that people start from, and quality in equal time.

python -m tests.benchmarks.images [unet] [vae] [gan]      one JSON line a race; a ratio above 1: ours is faster

Two cores, Fashion-MNIST, each side with the same net and batch; one process on two threads, or where its name ends in
`two_processes` the two of launch/ddp.yaml, as our recipes are launched. Each contestant has a process of its own, for
what a loop sets in its process (allocator, accelerate's precision) would reach the others.
unet: the U-Net of recipes/diffusion/fashion_mnist.yaml without classes, predicting noise on the linear schedule,
    against diffusers' unconditional training script and, where it and torchvision are installed,
    denoising-diffusion-pytorch.
vae: the ladder of recipes/vae/fashion_mnist.yaml, against PyTorch's VAE example.
gan: the DCGAN pair of recipes/gan/fashion_mnist.yaml without classes and penalty, against PyTorch's DCGAN example.
Nothing is compiled: on a CPU none of these nets gains by it.
"""

import io
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tests.benchmarks import image_peers as peers
from tests.benchmarks.workload import interleaved, on_the_cpu, print_line, ratio, spread
from tests.helpers import free_port

ROOT = Path(__file__).parents[2]
CORES = 2
STEPS, REPEATS, WARM = 10, 20, 3  # many short turns: a shared machine's speed changes by the second
BATCH, RATE, HELD_OUT = 64, 2e-4, 1000
EQUAL_SECONDS = 30


@dataclass
class Contestant:
    """steps: one optimizer step a `next`, giving its loss; nets: what has been trained so far, by name."""

    steps: Iterator[float]
    nets: Callable[[], dict[str, nn.Module]]


@dataclass(frozen=True)
class Entrant:
    """make: builds the contestant, in each of its processes."""

    make: Callable[[], Contestant]
    processes: int = 1


@dataclass(frozen=True)
class Race:
    """entrants: by name; quality: (its name, what better is, held-out figure of nets)."""

    entrants: dict[str, Entrant]
    quality: tuple[str, str, Callable[[dict[str, nn.Module]], float]]


class Runner:
    """An entrant at work in processes of its own."""

    def __init__(self, pipes: list[Connection]):
        self.pipes = pipes

    def _ask(self, question: str, number: int = 0) -> Any:
        for pipe in self.pipes:
            pipe.send((question, number))
        return [pipe.recv() for pipe in self.pipes][0]

    def train(self, steps: int) -> tuple[float, list[float]]:
        """(seconds, losses) of that many steps."""
        return self._ask("train", steps)

    def quality(self) -> float:
        return self._ask("quality")


@contextmanager
def at_work(race: Callable[[Path], Race], name: str, data: Path) -> Iterator[Runner]:
    """Entrant `name` of `race`, in the processes that it asks for.

    Raises:
        EOFError: one of them died; its traceback is on stderr.
    """
    context, count = multiprocessing.get_context("spawn"), race(data).entrants[name].processes
    port, pipes, processes = str(free_port()), [], []
    for rank in range(count):
        ours, theirs = context.Pipe()
        peers_of_it = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
        environment = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, **peers_of_it} if count > 1 else {}
        process = context.Process(
            target=_work, args=(theirs, race, name, data, CORES // count, environment), daemon=True
        )
        process.start()
        theirs.close()  # the child's copy alone keeps the pipe open, so that its death is seen
        pipes.append(ours)
        processes.append(process)
    try:
        yield Runner(pipes)
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()


def _work(
    asked: Connection,
    race: Callable[[Path], Race],
    name: str,
    data: Path,
    threads: int,
    environment: dict[str, Any],
) -> None:
    os.environ.update({key: str(value) for key, value in environment.items()})
    on_the_cpu(threads)
    entered = race(data)
    contestant = entered.entrants[name].make()
    while True:
        question, number = asked.recv()
        if question == "quality":
            asked.send(entered.quality[2](contestant.nets()))
            continue
        started = time.perf_counter()
        losses = [next(contestant.steps) for _ in range(number)]
        asked.send((time.perf_counter() - started, losses))


def settings(yaml: str, *overrides: str) -> Any:
    """recipes/YAML with the batch, rate and length of the race."""
    from pipeline.run.stage import open_recipe

    loop = {
        "max_steps": 1_000_000,
        "train_batch_size": BATCH,
        "per_device_train_batch_size": BATCH // int(os.environ.get("WORLD_SIZE", "1")),
        "ema_decay": 0.999,
    }
    return open_recipe(ROOT / "recipes" / yaml, [*(f"train.{k}={v}" for k, v in loop.items()), *overrides])[0]


def one_rate(prefix: str) -> list[str]:
    """AdamW at a constant rate, as the peers have it."""
    chosen = {"learning_rate": RATE, "lr_scheduler_type": "constant", "warmup_steps": 0, "decay_steps": 0}
    return [f"{prefix}.{key}={value}" for key, value in chosen.items()]


def prepared(directory: Path) -> Path:
    """The pictures of every race, as stage `prepare` leaves them, made in `directory`."""
    from pipeline.run.stage import Context, Stage
    from recipes.common.images import prepare

    config = settings("gan/fashion_mnist.yaml")
    stage = Stage("prepare", "recipes.common.images.prepare", {})
    prepare.run(Context(config, stage, {}, directory, directory, directory, io.StringIO()))
    return directory


def ours(build: Callable[[], Any]) -> Contestant:
    """Our loop on a fresh recipe, from the weights that every contestant starts from."""
    from pipeline.train.engine import start_runtime
    from pipeline.train.loop import Trainer, steps

    trainer = Trainer(build(), start_runtime(torch.get_num_threads()))
    losses = (next(iter(info.sums.values())).mean for info in steps(trainer))
    return Contestant(losses, trainer.nets)


def peer(
    recipe: Any,
    loop: Callable[..., Iterator[float]],
    build: Callable[[], dict[str, nn.Module]] | None = None,
    **given: Any,
) -> Contestant:
    """A peer's loop on the nets of `recipe`, with the weights that ours begins with, each passed by its place.

    build: makes them in place of `recipe.nets`, which may have set them up for our loop.
    """
    from pipeline.train.seeds import derived_seed

    torch.manual_seed(derived_seed(recipe.training.seed, "weights"))
    nets = (build or recipe.nets)()
    for net in nets.values():
        net.train()
    return Contestant(loop(*nets.values(), **given), lambda: nets)


def in_every_way(recipe: Callable[[bool], Any]) -> dict[str, Entrant]:
    """Our loop in fp32 and in bf16, in one process and in two, as the recipes are launched. recipe: of bf16 or not."""
    return {
        f"ours_{precision}{launched}": Entrant(lambda bf16=bf16: ours(lambda: recipe(bf16)), processes)
        for precision, bf16 in (("fp32", False), ("bf16", True))
        for launched, processes in (("", 1), ("_two_processes", 2))
    }


def unet_race(data: Path) -> Race:
    from recipes.common.images.shape import Shape
    from recipes.diffusion.diffusion import Diffusion
    from recipes.diffusion.nets import build_net

    noise = [
        "model.prediction=epsilon",
        "model.schedule=linear",
        "train.min_snr_gamma=null",
        "sampler.guidance=1",
    ]
    rates = [*one_rate("train"), "train.adam_beta1=0.95", "train.adam_beta2=0.999"]

    def recipe(bf16: bool) -> Diffusion:
        config = settings("diffusion/fashion_mnist.yaml", *noise, *rates, f"train.bf16={bf16}")
        return Diffusion(config, data, Shape(28, 1, 0))

    def theirs(loop: Callable[..., Iterator[float]], bf16: bool) -> Contestant:
        alike = recipe(False)
        as_published = lambda: {"model": build_net(alike.config.model.net, alike.shape)}  # noqa: E731
        given = {"pictures": pictures_of(data), "size": BATCH, "rate": RATE, "bf16": bf16}
        return peer(alike, loop, as_published, **given)

    loops = {"diffusers": peers.diffusers_script}
    if peers.has_denoising_diffusion():
        loops["denoising"] = peers.denoising_diffusion
    found = {
        f"{name}_{precision}": Entrant(lambda loop=loop, bf16=bf16: theirs(loop, bf16))
        for precision, bf16 in (("fp32", False), ("bf16", True))
        for name, loop in loops.items()
    }
    quality = held_out_mean(recipe(False), "squared_error")
    return Race(
        found | in_every_way(recipe), ("held-out squared error of the noise a pixel", "lower", quality)
    )


def vae_race(data: Path) -> Race:
    from recipes.common.images.dataset import PreparedImages
    from recipes.vae.vae import Vae

    def recipe(bf16: bool) -> Vae:
        how = [f"train.bf16={bf16}", "train.max_grad_norm=0"]
        rates = [*one_rate("train"), "train.adam_beta2=0.999"]
        return Vae(settings("vae/fashion_mnist.yaml", *rates, *how), data)

    def example() -> Contestant:
        train, alike = PreparedImages.open(data, "train"), recipe(False)
        pictures, labels = torch.from_numpy(np.array(train.images)), torch.from_numpy(train.labels)
        given = {"pictures": pictures, "labels": labels, "latents": alike.latents}
        return peer(alike, peers.pytorch_vae, size=BATCH, rate=RATE, **given)

    quality = held_out_mean(recipe(False), "bits_per_dim")
    return Race(
        {"example_fp32": Entrant(example)} | in_every_way(recipe),
        ("held-out bound, bits a dimension", "lower", quality),
    )


def gan_race(data: Path) -> Race:
    from recipes.common.images.dataset import PreparedImages
    from recipes.gan.gan import Gan

    def recipe(bf16: bool) -> Gan:
        game = ["train.adversarial=non_saturating", "train.r1=0", "train.r2=0", "train.flip=false"]
        rates = [f"train.{net}.{beta}" for net in NETS for beta in ("adam_beta1=0.5", "adam_beta2=0.999")]
        rates += [setting for net in NETS for setting in one_rate(f"train.{net}")]
        how = [f"train.bf16={bf16}", "model.conditional=false"]
        return Gan(settings("gan/fashion_mnist.yaml", *game, *rates, *how), data)

    def example() -> Contestant:
        alike, given = recipe(False), {"pictures": pictures_of(data), "size": BATCH, "rate": RATE}
        return peer(alike, peers.pytorch_dcgan, latents=alike.config.model.latent_size, **given)

    quality = frechet_of_pixels(PreparedImages.open(data, "held_out").images[:HELD_OUT])
    return Race(
        {"example_fp32": Entrant(example)} | in_every_way(recipe),
        ("Frechet distance of 7 x 7 means of pixels", "lower", quality),
    )


def pictures_of(data: Path) -> torch.Tensor:
    """Every training picture, decoded and scaled: fp32 (N, C, H, W) in [-1, 1]."""
    from recipes.common.images.dataset import PreparedImages
    from recipes.common.images.pixels import to_unit

    return to_unit(torch.from_numpy(np.array(PreparedImages.open(data, "train").images))).contiguous()


NETS = ("critic", "generator")
RACES = {"unet": unet_race, "vae": vae_race, "gan": gan_race}


def held_out_mean(recipe: Any, figure: str) -> Callable[[dict[str, nn.Module]], float]:
    """A figure of `recipe.evaluate` over HELD_OUT pictures, in fp32, the same noise for every net."""
    from pipeline.train.recipe import Clock

    split = recipe.held_out()

    @torch.no_grad()
    def mean(nets: dict[str, nn.Module]) -> float:
        found = []
        for first in range(0, HELD_OUT, 100):
            batch = recipe.collate([split.item(index) for index in range(first, first + 100)])
            found.append(recipe.evaluate(nets, batch, Clock(0, first))[figure])
        return sum(one.total for one in found) / sum(one.count for one in found)

    return mean


def frechet_of_pixels(real: np.ndarray) -> Callable[[dict[str, nn.Module]], float]:
    """Of as many pictures of a generator as there are real ones, both as means over 4 x 4 pixels."""
    from recipes.common.scores.distances import frechet_distance
    from recipes.gan.drawing import drawn

    def means(pictures: np.ndarray) -> np.ndarray:
        small = pictures.reshape(len(pictures), 7, 4, 7, 4).mean(axis=(2, 4))
        return small.reshape(len(pictures), 49) / 255

    def distance(nets: dict[str, nn.Module]) -> float:
        generated = drawn(nets["generator"], list(range(len(real))), [0] * len(real))
        return frechet_distance(means(real), means(generated))

    return distance


def pictures_a_second(runners: dict[str, Runner]) -> dict[str, list[float]]:
    """In turns A B A B ..., REPEATS samples of STEPS steps each, after WARM that find the caches of another's turn."""

    def sample(runner: Runner) -> float:
        runner.train(WARM)
        return STEPS * BATCH / runner.train(STEPS)[0]

    return interleaved({name: lambda r=runner: sample(r) for name, runner in runners.items()}, REPEATS)


def after_equal_time(race: Callable[[Path], Race], names: list[str], data: Path) -> dict[str, float]:
    """The held-out figure of each entrant, trained afresh for EQUAL_SECONDS after its first steps, in turns too."""
    with ExitStack() as stack:
        runners = {name: stack.enter_context(at_work(race, name, data)) for name in names}
        seconds = dict.fromkeys(runners, 0.0)
        for runner in runners.values():
            runner.train(WARM)
        while waiting := [name for name in names if seconds[name] < EQUAL_SECONDS]:
            for name in waiting:
                seconds[name] += runners[name].train(STEPS)[0]
        return {name: float(f"{runner.quality():.4g}") for name, runner in runners.items()}


def run(name: str, data: Path) -> None:
    race = RACES[name](data)
    with ExitStack() as stack:
        runners = {each: stack.enter_context(at_work(RACES[name], each, data)) for each in race.entrants}
        first = {each: runner.train(WARM)[1] for each, runner in runners.items()}
        figures = pictures_a_second(runners)
    pairs = [(mine, theirs) for mine in figures for theirs in figures if _compared(mine, theirs)]
    quality = after_equal_time(RACES[name], list(race.entrants), data)
    print_line(
        f"images/{name}",
        ratios={f"{mine} / {theirs}": ratio(figures, mine, theirs) for mine, theirs in pairs},
        pictures_per_second={each: spread(values) for each, values in figures.items()},
        after_equal_time={race.quality[0]: quality, "better": race.quality[1]},
        first_losses={each: [round(loss, 4) for loss in losses] for each, losses in first.items()},
        protocol=f"batch {BATCH}, {STEPS} steps a sample after {WARM}, {REPEATS} turns; quality at {EQUAL_SECONDS} s",
    )


def _compared(mine: str, theirs: str) -> bool:
    """Ours with a peer in the same precision, and our bf16, which is our default, with a peer's fp32, which is its."""
    ours_alone = mine.startswith("ours") and not theirs.startswith("ours")
    return ours_alone and (mine.split("_")[1], theirs.split("_")[1]) != ("fp32", "bf16")


def main(names: list[str]) -> None:
    on_the_cpu(CORES)
    with tempfile.TemporaryDirectory() as directory:
        data = prepared(Path(directory))
        for name in names or RACES:
            run(name, data)


if __name__ == "__main__":
    main(sys.argv[1:])
