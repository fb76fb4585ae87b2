"""The recipes that tests/test_recipes.py holds to the contract: each small, each from the settings of its own YAML."""

import io
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from pipeline.config import Training
from pipeline.data.packing import PackedDocuments
from pipeline.data.shards import Shard
from pipeline.lm import LanguageModel
from pipeline.recipe import Recipe
from pipeline.stage import Context, Stage, open_recipe
from recipes.common import prepare
from recipes.common.config import Images
from recipes.diffusion.diffusion import Diffusion
from recipes.gan.gan import Gan
from recipes.vae.vae import Vae
from tests.helpers import ROOT
from tests.tiny_language_model import random_documents, shard_of, tiny_model

STEP_SAMPLES = 8
STEPS = 4
LOOP = {"max_steps": STEPS, "train_batch_size": STEP_SAMPLES, "ema_decay": 0.5, "bf16": False}
DIT = "{kind: dit, patch_size: 2, hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 2}"
NO_WARMUP = "train.warmup_steps=0"


class Case(NamedTuple):
    """build: (directory with the prepared data, samples a micro-batch) -> a fresh recipe."""

    build: Callable[[Path, int], Recipe]


def prepare_all(shared: Path) -> None:
    """The data of every case: packed documents, and digits."""
    (shared / "documents").mkdir()
    shard_of(shared / "documents", random_documents(*[20 + 7 * (i % 9) for i in range(40)]))
    data = Images(source="digits", image_size=8, channels=1, max_images=60)
    out = shared / "digits"
    out.mkdir(parents=True)
    stage = Stage("prepare", "recipes.common.prepare", {})
    prepare.run(Context(SimpleNamespace(data=data), stage, {}, out, out, out, io.StringIO()))


def _language_model(shared: Path, micro: int) -> Recipe:
    training = Training(learning_rate=1e-2, per_device_train_batch_size=micro, **LOOP)
    shard = Shard.open(shared / "documents", "documents")
    held = PackedDocuments(shard, 16, None)
    return LanguageModel(training, lambda: tiny_model("llama", 16), PackedDocuments(shard, 16, 0), held, 16)


def _ring(shared: Path, micro: int) -> Recipe:
    return Gan(_config("gan/ring.yaml", micro, "evaluate.samples=30"))


def _of_digits(make: Callable[..., Recipe], yaml: str, *overrides: str) -> Case:
    """A recipe that is made of its config and the directory of its pictures."""
    return Case(lambda shared, micro: make(_config(yaml, micro, *overrides), shared / "digits"))


def _config(yaml: str, micro: int, *overrides: str) -> Any:
    loop = {**LOOP, "per_device_train_batch_size": micro}
    settings = [f"train.{key}={value}" for key, value in loop.items()]
    return open_recipe(ROOT / "recipes" / yaml, [*settings, *overrides])[0]


CASES: dict[str, Case] = {
    "language model": Case(_language_model),
    "ring GAN": Case(_ring),
    "VAE": _of_digits(Vae, "vae/digits.yaml", NO_WARMUP),
    "VQ-VAE": _of_digits(Vae, "vae/digits.yaml", "model.kind=vq", "model.groups=[[4, 8]]", NO_WARMUP),
    "U-Net": _of_digits(Diffusion, "diffusion/digits.yaml", NO_WARMUP),
    "DiT": _of_digits(Diffusion, "diffusion/digits.yaml", NO_WARMUP, f"model.net={DIT}"),
    "GAN": _of_digits(Gan, "gan/digits.yaml"),
}
