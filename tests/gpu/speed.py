"""Speed beside the device's limits and beside peers, each pair in turns within one run."""

import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from pipeline.lm.config import Lora, Model
from pipeline.run.config import load
from pipeline.run.files import write_json
from pipeline.train import checkpoint
from pipeline.train.loop import Trainer, steps
from tests.benchmarks import gpu_training, hf_trainer, image_peers, quantised
from tests.benchmarks.workload import (
    PackedRows,
    Rows,
    interleaved,
    new_model,
    our_steps,
    our_trainer,
    race,
    ratio,
    recipe,
    spread,
    training,
    warm_up,
)
from tests.gpu.check import Check, Place, Said
from tests.helpers import ROOT


def seconds_of(place: Place, work: Callable[[], object], repeats: int = 5) -> float:
    """The median time of `work` with everything it queued, after one unmeasured call."""
    work()
    found = []
    for _ in range(repeats):
        place.wait()
        began = time.perf_counter()
        work()
        place.wait()
        found.append(time.perf_counter() - began)
    return sorted(found)[repeats // 2]


def mask_or_none(place: Place) -> Said:
    """sdpa forward and backward at GPT-2's shape: a dense boolean mask, as packed rows have, and no mask."""
    batch, heads, length, width = place.size((16, 12, 1024, 64), (2, 2, 64, 16))
    made = partial(torch.randn, batch, heads, length, width, device=place.device, dtype=torch.bfloat16)
    query, key, value = (made(requires_grad=True) for _ in range(3))
    mask = torch.ones(batch, 1, length, length, dtype=torch.bool, device=place.device).tril()

    def attend(**how: Any) -> None:
        F.scaled_dot_product_attention(query, key, value, **how).sum().backward()

    work = {"dense_mask": lambda: attend(attn_mask=mask), "is_causal": lambda: attend(is_causal=True)}
    warm_until = time.perf_counter() + place.size(1.0, 0.0)
    while time.perf_counter() < warm_until:  # an idle GPU runs at a fraction of its clock
        work["dense_mask"]()
        place.wait()
    found = interleaved(
        {name: partial(seconds_of, place, one) for name, one in work.items()}, place.size(5, 2)
    )
    return {
        "ratio": ratio(found, "dense_mask", "is_causal"),
        "milliseconds": {name: spread([1e3 * value for value in values]) for name, values in found.items()},
    }


def attention(place: Place) -> Said:
    """A step of a Llama on packed rows, eight documents a row on average: flash against the dense mask.

    Time and peak memory; sdpa is left out where its mask would be larger than a billion entries.
    """
    from pipeline.lm.config import Model

    figures: Said = {}
    for length in place.size((4096, 32_768), (64, 128)):
        rows = place.size(32_768, 128) // length
        width, layers, vocabulary = place.size((2048, 4, 32_000), (32, 2, 256))
        shape = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers}
        heads = {"num_attention_heads": max(2, width // 128), "num_key_value_heads": max(2, width // 256)}
        model = Model(architecture="llama", config=shape | heads | {"max_position_embeddings": length})
        settings = training(sequence_length=length, train_batch_size=rows, per_device_train_batch_size=rows)
        found, losses, peaks = {}, {}, {}
        for kind in ("flash", "sdpa") if rows * length**2 <= 1_000_000_000 else ("flash",):
            build = partial(new_model, model, vocabulary, length, kind)
            running = our_steps(
                our_trainer(settings, build, PackedRows(vocabulary, length, mean=length // 8))
            )
            if not place.rehearsal:
                torch.cuda.reset_peak_memory_stats()
            losses[kind] = [next(running), next(running)]
            found[kind] = [seconds_of(place, partial(next, running), 3) for _ in range(2)]
            peaks[kind] = 0 if place.rehearsal else torch.cuda.max_memory_allocated() / 1e9
            running.close()
        flops = 6 * (12 * layers * width**2 + vocabulary * width) * rows * length
        figures[f"T={length}"] = {
            "losses": losses,
            "seconds": found,
            "peak_gb": peaks,
            "matrix_tflops_per_second": flops / min(found["flash"]) / 1e12,
        }
    return figures


def limits(place: Place) -> Said:
    """The rates to divide by: a bf16 product and a copy."""
    side, products = place.size((8192, 30), (256, 2))
    values = place.size(1 << 30, 1 << 20)
    source = torch.empty(values, dtype=torch.uint8, device=place.device)
    target = torch.empty_like(source)
    copy = seconds_of(place, lambda: target.copy_(source))
    rate = gpu_training.matmul_rate(place.device, side, products)
    return {"matmul_tflops": rate / 1e12, "copy_gb_per_second": 2 * values / copy / 1e9}


def pretraining(name: str, place: Place) -> Said:
    """A recipe's own settings as one GPU of eight has them; see tests.benchmarks.gpu_training."""
    config, vocabulary = recipe(name), 50_304
    if place.rehearsal:
        config, vocabulary = tiny_recipe(config), 256
    steps_, repeats, side, products = place.size((3, 5, 8192, 50), (1, 2, 256, 2))
    return gpu_training.measure(config, vocabulary, steps_, repeats, side, products)


def step_variants(place: Place) -> Said:
    """Tokens a second of gpt2_124m's step: as the recipe has it, with sums in any order, in larger micro-batches."""
    config, vocabulary = recipe("gpt2_124m"), 50_304
    if place.rehearsal:
        config, vocabulary = tiny_recipe(config), 256
    settings = gpu_training.one_gpus_share(config.pretrain)
    variants: dict[str, dict[str, Any]] = {
        "recipe": {},
        "any_order": {"deterministic": False},
        "twice_the_rows": {"per_device_train_batch_size": 2 * settings.per_device_train_batch_size},
    }
    length = settings.sequence_length
    build = partial(new_model, config.model, vocabulary, length)
    rows = Rows(vocabulary, length)
    contestants = {
        name: our_steps(our_trainer(settings.model_copy(update=fields), build, rows))
        for name, fields in variants.items()
    }
    first, warm = warm_up(contestants, 3)
    found = race(contestants, settings.train_batch_size * length, place.size(3, 1), place.size(4, 2))
    return {
        "ratios": {name: ratio(found, name, "recipe") for name in variants if name != "recipe"},
        "tokens_per_second": {name: spread(values) for name, values in found.items()},
        "first_losses": first,
        "warm_up_seconds": warm,
    }


def tiny_recipe(config: Any) -> Any:
    """The recipe at a width that a CPU trains in a second, not compiled."""
    small = {
        "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 32},
        "llama": {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
        }
        | {"num_key_value_heads": 2, "max_position_embeddings": 32},
    }
    model = config.model.model_copy(update={"config": small[config.model.architecture]})
    fewer = {
        "sequence_length": 32,
        "train_batch_size": 8,
        "per_device_train_batch_size": 1,
        "torch_compile": False,
    }
    return config.model_copy(update={"model": model, "pretrain": config.pretrain.model_copy(update=fewer)})


def llama(place: Place) -> tuple[Model, int, int]:
    """A Llama of 1.2 billion parameters, its vocabulary and its rows' length; tiny in a rehearsal."""
    width, layers, vocabulary, length = place.size((2048, 20, 32_000, 1024), (32, 2, 256, 32))
    config = {
        "hidden_size": width,
        "intermediate_size": 8 * width // 3 // 64 * 64 or width,
        "num_hidden_layers": layers,
        "num_attention_heads": max(1, width // 128),
        "num_key_value_heads": max(1, width // 128),
        "max_position_embeddings": 2 * length,
        "tie_word_embeddings": True,
    }
    return Model(architecture="llama", config=config), vocabulary, length


def lora_against_trainer(place: Place) -> Said:
    """LoRA of all linear layers, bf16 autocast, the same rows: our loop and transformers' Trainer in turns."""
    from pipeline.lm.tuning.lora import add_adapters

    model, vocabulary, length = llama(place)
    rows, count = Rows(vocabulary, length), place.size(8, 2)
    settings = training(
        sequence_length=length, train_batch_size=count, per_device_train_batch_size=count, learning_rate=1e-4
    )
    lora = Lora(r=16, lora_alpha=32)
    built = lambda: add_adapters(new_model(model, vocabulary, length), lora)  # noqa: E731
    levers = {"bf16": True, "optim": "adamw_torch_fused", "logging_steps": 1000}
    job = hf_trainer.Job(
        model, rows, settings, levers, torch.get_num_threads(), 3, lora=lora, on_cpu=place.rehearsal
    )
    contestants = {
        "ours": our_steps(our_trainer(settings, built, rows)),
        "trainer": hf_trainer.contestant(job),
    }
    first, warm = warm_up(contestants, 3)
    figures = race(contestants, count * length, place.size(5, 1), place.size(5, 2))
    contestants["trainer"].close()
    return {
        "ratio": ratio(figures, "ours", "trainer"),
        "tokens_per_second": {name: spread(values) for name, values in figures.items()},
        "first_losses": first,
        "warm_up_seconds": warm,
    }


def on_codes(place: Place) -> Said:
    """LoRA on nf4 and int8 beside the plain base: tokens a second, and the peak beside the plan."""
    model, vocabulary, length = llama(place)
    steps_, repeats = place.size((5, 5), (1, 2))
    return quantised.measure(model, vocabulary, length, place.size(8, 2), steps_, repeats)


def decoding(place: Place) -> Said:
    """Greedy tokens a second of our loop and of generate(), one prompt and sixteen."""
    model, vocabulary, length = llama(place)
    net = new_model(model, vocabulary, 2 * length).to(place.device, torch.bfloat16).eval()
    return {f"batch_{rows}": _decoded(place, net, vocabulary, rows, place.size(128, 8)) for rows in (1, 16)}


def _decoded(place: Place, net: Any, vocabulary: int, rows: int, new: int) -> Said:
    from pipeline.lm.decoding import stream

    prompts = np.random.default_rng(0).integers(3, vocabulary, (rows, 16))
    ids = torch.from_numpy(prompts).to(place.device)
    options = {"do_sample": False, "max_new_tokens": new, "min_new_tokens": new, "pad_token_id": 0}

    def ours() -> None:
        found = stream(net, prompts.tolist(), new, None, 1.0, list(range(rows)), frozenset())
        assert sum(1 for _ in found) == new

    def theirs() -> None:
        net.generate(ids, attention_mask=torch.ones_like(ids), **options)

    work = {"ours": ours, "generate": theirs}
    found = interleaved({name: partial(_rate, place, rows * new, one, 1) for name, one in work.items()}, 3)
    return {
        "ratio": ratio(found, "ours", "generate"),
        "tokens_per_second": {name: spread(values) for name, values in found.items()},
    }


def _rate(place: Place, units: int, work: Callable[[], object], repeats: int) -> float:
    return units / seconds_of(place, work, repeats)


def checkpoint_stall(place: Place) -> Said:
    """How long training waits while ours is copied, until it is published, and for torch.save of the same tensors."""
    model, vocabulary, length = llama(place)
    settings = training(sequence_length=length, train_batch_size=1, per_device_train_batch_size=1)
    trainer = our_trainer(settings, lambda: new_model(model, vocabulary, length), Rows(vocabulary, length))
    running = steps(trainer)
    next(running)
    with tempfile.TemporaryDirectory() as folder:
        writer = checkpoint.Writer(Path(folder) / "ours", 1, trainer.runtime)
        writer.begin(1, trainer.tensors(), {})  # takes the pinned memory that the next ones use again
        writer.finish()
        began = time.perf_counter()
        writer.begin(2, trainer.tensors(), {})
        ours = time.perf_counter() - began
        writer.finish()
        published = time.perf_counter() - began
        held = dict(trainer.tensors())
        began = time.perf_counter()
        torch.save(held, Path(folder) / "theirs.pt")
        theirs = time.perf_counter() - began
    size = sum(tensor.nbytes for tensor in held.values())
    running.close()
    seconds = {"stall_seconds": ours, "published_after_seconds": published, "torch_save_seconds": theirs}
    return seconds | {"ratio": ours / theirs, "gb": size / 1e9}


def prepared(folder: Path, side: int, channels: int, classes: int, count: int) -> Path:
    """What stage `prepare` writes, of noise."""
    random = np.random.default_rng(0)
    for split in ("train", "held_out"):
        np.save(
            folder / f"{split}.images.npy", random.integers(0, 256, (count, side, side, channels), np.uint8)
        )
        np.save(folder / f"{split}.labels.npy", random.integers(0, classes, count))
    write_json(folder / "classes.json", [str(label) for label in range(classes)])
    return folder


def images(place: Place) -> Said:
    """Images a second of the three GPU recipes; the diffusion net also in diffusers' script, in turns."""
    from recipes.diffusion.config import DiffusionConfig
    from recipes.diffusion.diffusion import Diffusion
    from recipes.gan.config import schema_of
    from recipes.gan.gan import Gan
    from recipes.vae.config import VaeConfig
    from recipes.vae.vae import Vae

    figures: Said = {}
    families = {"diffusion": (DiffusionConfig, Diffusion), "vae": (VaeConfig, Vae), "gan": (schema_of, Gan)}
    for name, (schema, family) in families.items():
        batch = place.size(None, "train.train_batch_size=4")
        fewer = [batch, "train.per_device_train_batch_size=4", "train.torch_compile=false"] if batch else []
        config = load(schema, ROOT / "recipes" / name / "fashion_mnist_gpu.yaml", [*fewer, "train.bf16=true"])
        with tempfile.TemporaryDirectory() as folder:
            data = prepared(Path(folder), config.data.image_size, config.data.channels, 10, 512)
            ours = steps(Trainer(family(config, data), place.runtime))
            size = config.train.train_batch_size
            contestants: dict[str, Iterator[Any]] = {"ours": ours}
            if name == "diffusion":
                contestants["diffusers"] = _diffusers(place, family(config, data), size)
            for one in contestants.values():
                next(one), next(one)
            runs = {
                key: partial(_rate, place, size, partial(next, one), 3) for key, one in contestants.items()
            }
            found = interleaved(runs, place.size(5, 2))
            figures[name] = {"images_per_second": {key: spread(rates) for key, rates in found.items()}}
            if name == "diffusion":
                figures[name]["ratio"] = ratio(found, "ours", "diffusers")
            ours.close()
    return figures


def _diffusers(place: Place, recipe_: Any, size: int) -> Iterator[float]:
    """diffusers' unconditional script on the recipe's net, without classes."""
    from recipes.common.images.shape import Shape
    from recipes.diffusion.nets import build_net

    shape = Shape(recipe_.shape.image_size, recipe_.shape.channels, 0)
    net = build_net(recipe_.config.model.net, shape)
    pictures = torch.randn(512, shape.channels, shape.image_size, shape.image_size)
    return image_peers.diffusers_script(net, pictures, size, 1e-4, bf16=True, cpu=place.rehearsal)


FIRST = [
    Check("mask_or_none", "sdpa with a dense mask against is_causal at GPT-2's shape", mask_or_none),
    Check("limits", "bf16 matmul rate and copy rate", limits),
    Check(
        "gpt2_124m",
        "pretraining at the recipe's width over the matmul rate",
        partial(pretraining, "gpt2_124m"),
    ),
]
CHECKS = [
    Check("step_variants", "gpt2_124m's step, sums in any order, larger micro-batches", step_variants),
    Check(
        "quantised",
        "LoRA on nf4 and int8 beside the plain base: speed, memory, plan",
        on_codes,
        ("peft", "bitsandbytes"),
    ),
    Check("attention", "a step of long packed rows, documents one by one against the dense mask", attention),
    Check(
        "llama_1b", "pretraining at the recipe's width over the matmul rate", partial(pretraining, "llama_1b")
    ),
    Check("lora", "LoRA of a 1.2 B Llama against transformers' Trainer", lora_against_trainer, ("peft",)),
    Check("decoding", "greedy decoding against generate()", decoding),
    Check(
        "images",
        "images/s of the three GPU recipes, diffusion against diffusers' script",
        images,
        ("diffusers",),
    ),
    Check("checkpoint", "how long a checkpoint holds training up, against torch.save", checkpoint_stall),
]
