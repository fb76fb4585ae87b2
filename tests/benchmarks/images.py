"""Training pictures a second on a CPU: our loop over the examples that people start from, and quality in equal time.

python -m tests.benchmarks.images [unet] [vae] [gan]      one JSON line a race; a ratio above 1: ours is faster

One process on two threads, Fashion-MNIST, each side with the same net, batch and precision:
unet: the U-Net of recipes/diffusion/fashion_mnist.yaml without classes, predicting noise on the linear schedule,
    against diffusers' unconditional training script and, where it is installed, denoising-diffusion-pytorch.
vae: the ladder of recipes/vae/fashion_mnist.yaml, against PyTorch's VAE example.
gan: the DCGAN pair of recipes/gan/fashion_mnist.yaml without classes and penalty, against PyTorch's DCGAN example; also
    compiled. The U-Net and the ladder gain nothing by it on a CPU, tens of seconds of compilation aside.
"""

import io
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tests.benchmarks import image_peers as peers
from tests.benchmarks.workload import interleaved, on_the_cpu, print_line, ratio, spread

ROOT = Path(__file__).parents[2]
THREADS, STEPS, REPEATS, WARM = 2, 10, 5, 5
BATCH, RATE, HELD_OUT = 64, 2e-4, 1000
EQUAL_SECONDS = 30


@dataclass
class Contestant:
    """steps: one optimizer step a `next`, giving its loss; nets: what has been trained so far, by name."""

    steps: Iterator[float]
    nets: Callable[[], dict[str, nn.Module]]


@dataclass(frozen=True)
class Race:
    """contestants: name -> makes a fresh one; quality: (its name, what better is, held-out figure of nets)."""

    contestants: dict[str, Callable[[], Contestant]]
    quality: tuple[str, str, Callable[[dict[str, nn.Module]], float]]


def settings(yaml: str, *overrides: str) -> Any:
    """recipes/YAML with the batch, rate and length of the race."""
    from pipeline.stage import open_recipe

    loop = {
        "max_steps": 1_000_000,
        "train_batch_size": BATCH,
        "per_device_train_batch_size": BATCH,
        "ema_decay": 0.999,
    }
    return open_recipe(ROOT / "recipes" / yaml, [*(f"train.{k}={v}" for k, v in loop.items()), *overrides])[0]


def one_rate(prefix: str) -> list[str]:
    """AdamW at a constant rate, as the peers have it."""
    chosen = {"learning_rate": RATE, "lr_scheduler_type": "constant", "warmup_steps": 0, "decay_steps": 0}
    return [f"{prefix}.{key}={value}" for key, value in chosen.items()]


def prepared(directory: Path, config: Any) -> Path:
    """The `prepare` stage's output of `config`, made in `directory`."""
    from pipeline.stage import Context, Stage
    from recipes.common import prepare

    directory.mkdir(parents=True, exist_ok=True)
    stage = Stage("prepare", "recipes.common.prepare", {})
    prepare.run(Context(config, stage, {}, directory, directory, directory, io.StringIO()))
    return directory


def ours(build: Callable[[], Any]) -> Contestant:
    """Our loop on a fresh recipe, from the weights that every contestant starts from."""
    from pipeline.engine import start_runtime
    from pipeline.loop import Trainer, steps

    trainer = Trainer(build(), start_runtime(torch.get_num_threads()))
    losses = (next(iter(info.sums.values())).mean for info in steps(trainer))
    return Contestant(losses, trainer.nets)


def fresh_nets(build: Callable[[], Any]) -> dict[str, nn.Module]:
    """The recipe's nets with the weights that the loop would give them."""
    from pipeline.recipe import derived_seed

    recipe = build()
    torch.manual_seed(derived_seed(recipe.training.seed, "weights"))
    return recipe.nets()


def peer(build: Callable[[], Any], loop: Callable[..., Iterator[float]], **given: Any) -> Contestant:
    """A peer's loop on the same nets, each passed by its place."""
    nets = fresh_nets(build)
    for net in nets.values():
        net.train()
    return Contestant(loop(*nets.values(), **given), lambda: nets)


def unet_race(directory: Path) -> Race:
    from recipes.common.dataset import PreparedImages, to_unit
    from recipes.common.shape import Shape
    from recipes.diffusion.diffusion import Diffusion

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

    data = prepared(directory, settings("diffusion/fashion_mnist.yaml"))
    pictures = to_unit(torch.from_numpy(np.array(PreparedImages.open(data, "train").images))).contiguous()
    found: dict[str, Callable[[], Contestant]] = {}
    for name, bf16 in (("fp32", False), ("bf16", True)):
        given = {"pictures": pictures, "size": BATCH, "rate": RATE, "bf16": bf16}
        build = lambda bf16=bf16: recipe(bf16)  # noqa: E731
        found[f"diffusers_{name}"] = lambda build=build, given=given: peer(
            build, peers.diffusers_script, **given
        )
        if peers.has_denoising_diffusion():
            found[f"denoising_{name}"] = lambda build=build, given=given: peer(
                build, peers.denoising_diffusion, **given
            )
        found[f"ours_{name}"] = lambda build=build: ours(build)
    quality = held_out_mean(recipe(False), "squared_error")
    return Race(found, ("held-out squared error of the noise a pixel", "lower", quality))


def vae_race(directory: Path) -> Race:
    from recipes.common.dataset import PreparedImages
    from recipes.vae.vae import Vae

    def recipe(bf16: bool) -> Vae:
        how = [f"train.bf16={bf16}", "train.max_grad_norm=0"]
        rates = [*one_rate("train"), "train.adam_beta2=0.999"]
        return Vae(settings("vae/fashion_mnist.yaml", *rates, *how), data)

    data = prepared(directory, settings("vae/fashion_mnist.yaml"))
    train = PreparedImages.open(data, "train")
    pictures = {
        "pictures": torch.from_numpy(np.array(train.images)),
        "labels": torch.from_numpy(train.labels),
    }
    given = {**pictures, "size": BATCH, "rate": RATE, "latents": recipe(False).latents}
    found = {
        "example_fp32": lambda: peer(lambda: recipe(False), peers.pytorch_vae, **given),
        "ours_fp32": lambda: ours(lambda: recipe(False)),
        "ours_bf16": lambda: ours(lambda: recipe(True)),
    }
    return Race(
        found, ("held-out bound, bits a dimension", "lower", held_out_mean(recipe(False), "bits_per_dim"))
    )


def gan_race(directory: Path) -> Race:
    from recipes.common.dataset import PreparedImages, to_unit
    from recipes.gan.gan import Gan

    def recipe(bf16: bool, compiled: bool = False) -> Gan:
        game = ["train.adversarial=non_saturating", "train.r1=0", "train.r2=0", "train.flip=false"]
        rates = [f"train.{net}.{beta}" for net in NETS for beta in ("adam_beta1=0.5", "adam_beta2=0.999")]
        rates += [setting for net in NETS for setting in one_rate(f"train.{net}")]
        how = [f"train.bf16={bf16}", f"train.torch_compile={compiled}", "model.conditional=false"]
        return Gan(settings("gan/fashion_mnist.yaml", *game, *rates, *how), data)

    data = prepared(directory, settings("gan/fashion_mnist.yaml"))
    pictures = to_unit(torch.from_numpy(np.array(PreparedImages.open(data, "train").images))).contiguous()
    given = {
        "pictures": pictures,
        "size": BATCH,
        "rate": RATE,
        "latents": recipe(False).config.model.latent_size,
    }
    found = {
        "example_fp32": lambda: peer(lambda: recipe(False), peers.pytorch_dcgan, **given),
        "ours_fp32": lambda: ours(lambda: recipe(False)),
        "ours_bf16": lambda: ours(lambda: recipe(True)),
        "ours_fp32_compiled": lambda: ours(lambda: recipe(False, compiled=True)),
    }
    quality = frechet_of_pixels(PreparedImages.open(data, "held_out").images[:HELD_OUT])
    return Race(found, ("Frechet distance of 7 x 7 means of pixels", "lower", quality))


NETS = ("critic", "generator")
RACES = {"unet": unet_race, "vae": vae_race, "gan": gan_race}


def held_out_mean(recipe: Any, figure: str) -> Callable[[dict[str, nn.Module]], float]:
    """A figure of `recipe.evaluate` over HELD_OUT pictures, in fp32, the same noise for every net."""
    from pipeline.recipe import Clock

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
    from recipes.common.distances import frechet_distance
    from recipes.gan.drawing import drawn

    def means(pictures: np.ndarray) -> np.ndarray:
        small = pictures.reshape(len(pictures), 7, 4, 7, 4).mean(axis=(2, 4))
        return small.reshape(len(pictures), 49) / 255

    def distance(nets: dict[str, nn.Module]) -> float:
        generated = drawn(nets["generator"], list(range(len(real))), [0] * len(real))
        return frechet_distance(means(real), means(generated))

    return distance


def pictures_a_second(contestants: dict[str, Contestant]) -> dict[str, list[float]]:
    """In turns A B A B ..., REPEATS samples of STEPS steps each."""

    def sample(contestant: Contestant) -> float:
        started = time.perf_counter()
        for _ in range(STEPS):
            next(contestant.steps)
        return STEPS * BATCH / (time.perf_counter() - started)

    return interleaved({name: lambda c=c: sample(c) for name, c in contestants.items()}, REPEATS)


def after_equal_time(race: Race) -> dict[str, float]:
    """The held-out figure of each contestant, trained afresh for EQUAL_SECONDS after its first steps."""
    found = {}
    for name, make in race.contestants.items():
        contestant = make()
        for _ in range(WARM):
            next(contestant.steps)
        started = time.perf_counter()
        while time.perf_counter() - started < EQUAL_SECONDS:
            next(contestant.steps)
        found[name] = float(f"{race.quality[2](contestant.nets()):.4g}")
    return found


def run(name: str, race: Race) -> None:
    contestants = {each: make() for each, make in race.contestants.items()}
    first = {each: [next(c.steps) for _ in range(WARM)] for each, c in contestants.items()}
    figures = pictures_a_second(contestants)
    pairs = [(mine, theirs) for mine in figures for theirs in figures if _compared(mine, theirs)]
    print_line(
        f"images/{name}",
        ratios={f"{mine} / {theirs}": ratio(figures, mine, theirs) for mine, theirs in pairs},
        pictures_per_second={each: spread(values) for each, values in figures.items()},
        after_equal_time={race.quality[0]: after_equal_time(race), "better": race.quality[1]},
        first_losses={each: [round(loss, 4) for loss in losses] for each, losses in first.items()},
        protocol=f"batch {BATCH}, {STEPS} steps a sample, {REPEATS} turns, {EQUAL_SECONDS} s each for the quality",
    )


def _compared(mine: str, theirs: str) -> bool:
    """Ours with a peer in the same precision; with a peer that has one alone, ours in any."""
    return (
        mine.startswith("ours")
        and not theirs.startswith("ours")
        and (theirs.startswith("example") or mine.split("_")[1] == theirs.split("_")[1])
    )


def main(names: list[str]) -> None:
    on_the_cpu(THREADS)
    for name in names or RACES:
        with tempfile.TemporaryDirectory() as directory:
            run(name, RACES[name](Path(directory) / "prepare"))


if __name__ == "__main__":
    main(sys.argv[1:])
