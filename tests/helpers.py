"""What tests of the core share: a launcher, and a small recipe that has every awkward part of a model."""

import hashlib
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.run.config import Training, load
from pipeline.run.errors import UserError
from pipeline.train.recipe import Batch, Clock, Loss, Sum, stacked
from recipes.gan.config import RingConfig
from recipes.gan.gan import Gan

ROOT = Path(__file__).parent.parent


def launch(
    launch_file: str | None,
    module: str,
    *arguments: str,
    num_processes: int | None = None,
    seconds: int = 240,
) -> Any:
    """Run `python -m module OUT *arguments` on every process of launch/LAUNCH_FILE.yaml, and return the JSON in OUT.

    launch_file: None runs one plain process. seconds: a hang is an error.
    """
    command = [sys.executable]
    if launch_file is not None:
        port = ["--main_process_port", str(free_port())]
        processes = ["--num_processes", str(num_processes)] if num_processes else []
        file = str(ROOT / "launch" / f"{launch_file}.yaml")
        command += ["-m", "accelerate.commands.launch", "--config_file", file, *port, *processes]
    offline = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "out.json"
        done = finished([*command, "-m", module, str(out), *arguments], seconds, **offline)
        assert done.returncode == 0, f"{' '.join(done.args)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        return json.loads(out.read_text())


def finished(command: list[str], seconds: int, **environment: str) -> subprocess.CompletedProcess[str]:
    """`command` at its end, from the checkout, in our environment and `environment`."""
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    out, err = outputs(process, seconds)
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def outputs(process: subprocess.Popen[str], seconds: int) -> tuple[str, str]:
    """What `process` printed, once it has ended; a hang is an error, and all that it started dies with it."""
    try:
        return process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        # torchrun gives each worker a session of its own: the process group would miss them.
        for each in [*psutil.Process(process.pid).children(recursive=True), process]:
            each.kill()
        out, err = process.communicate()
        raise AssertionError(f"no end after {seconds} s: {process.args}\n{out}\n{err}") from None


def once(make: Callable[..., Any]) -> Callable[..., Any]:
    """`make`, run once for the same arguments; an error is kept too, so that a hang costs its time once."""
    outcomes: dict[tuple, tuple[Any, AssertionError | None]] = {}

    def made(*arguments: Any) -> Any:
        if arguments not in outcomes:
            try:
                outcomes[arguments] = make(*arguments), None
            except AssertionError as error:
                outcomes[arguments] = None, error
        found, error = outcomes[arguments]
        if error:
            raise error
        return found

    return made


def refusal(check: Callable[..., Any], *arguments: Any) -> str | None:
    """What `check` says as it refuses, in at most five lines; None where it takes what it is given."""
    try:
        check(*arguments)
    except UserError as error:
        assert len(str(error).splitlines()) <= 5
        return str(error)
    return None


def write_no_tensors(directory: Path) -> None:
    """A file of weights that holds none: what a plan asks of a model whose weights nobody reads."""
    (directory / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def digest(tensors: list[Tensor]) -> str:
    """The sha256 of values, whatever their precision."""
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


VOCABULARY, LENGTH, WIDTH = 16, 8, 24


class ToyNet(nn.Module):
    """Tied embedding and head, a layer called twice, a frozen layer, vectors and matrices. (B, T) -> (B, T, V)."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.blocks = nn.ModuleList([nn.Linear(WIDTH, WIDTH) for _ in range(3)])
        self.frozen = nn.Linear(WIDTH, WIDTH).requires_grad_(False)
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens_BT: Tensor) -> Tensor:
        x_BTD = self.embedding(tokens_BT)
        for block in self.blocks:
            x_BTD = x_BTD + self.dropout(torch.tanh(block(x_BTD)))
        x_BTD = x_BTD + self.frozen(self.blocks[0](x_BTD))
        return self.head(self.norm(x_BTD))


@dataclass(frozen=True)
class ToyTokens:
    """Random tokens, and a weight that makes every sample count differently."""

    length: int = 50
    poisoned: int = -1  # the one sample that the recipe makes not finite

    def item(self, index: int) -> dict[str, np.ndarray]:
        random = np.random.default_rng(index % self.length)
        tokens = random.integers(VOCABULARY, size=LENGTH)
        return {
            "tokens": tokens,
            "weight": np.int64(random.integers(1, 5)),
            "poison": np.bool_(index == self.poisoned),
        }


def toy_training(**fields: Any) -> Training:
    """Settings under which six steps change every weight; fp32 unless `fields` say otherwise."""
    chosen = {
        "learning_rate": 1e-2,
        "max_steps": 6,
        "train_batch_size": 16,
        "bf16": False,
        "weight_decay": 0.1,
    }
    return Training(**(chosen | {"warmup_steps": 2, "max_grad_norm": 0.0} | fields))


@dataclass
class Toy:
    """Implements pipeline.train.recipe.Recipe. poison: `loss` or `gradient`, which sample `poisoned` makes NaN."""

    training: Training
    poison: str = "none"
    poisoned: int = -1
    dropout: float = 0.0
    optimizers: dict[str, Training] = field(init=False)

    turns = ema = ("model",)
    zero_stages = (1, 2, 3)
    flops_per_sample = 0.0
    unit = "samples"
    units_per_sample = 1

    def __post_init__(self) -> None:
        self.optimizers = {"model": self.training}

    def data(self) -> ToyTokens:
        return ToyTokens(poisoned=self.poisoned)

    def held_out(self) -> ToyTokens:
        return ToyTokens(length=37)

    collate = staticmethod(stacked)

    def nets(self) -> dict[str, nn.Module]:
        return {"model": ToyNet(self.dropout)}

    def count(self, turn: str, batch: Batch) -> int:
        return int(batch["weight"].sum()) * (LENGTH - 1)

    def loss(self, turn: str, nets: dict[str, nn.Module], batch: Batch, clock: Clock) -> Loss:
        logits = nets[turn](batch["tokens"][:, :-1]).float()
        total = _weighted(logits, batch)
        if batch["poison"].any() and self.poison == "loss":
            total = total * torch.nan
        if batch["poison"].any() and self.poison == "gradient":
            total = total + (logits - logits).sum().sqrt()  # 0, whose slope is 0 / 0
        return Loss(total, {"weight": batch["weight"].sum().detach()})

    def evaluate(self, nets: dict[str, nn.Module], batch: Batch, clock: Clock) -> dict[str, Sum]:
        logits = nets["model"](batch["tokens"][:, :-1]).float()
        return {"loss": Sum(float(_weighted(logits, batch)), self.count("model", batch))}

    def sample(self, nets: dict[str, nn.Module], seeds: list[int], out: Path) -> dict[str, float]:
        """One row of logits a seed, in `out/logits.npy`; an alarm where there are many seeds."""
        tokens = np.stack([ToyTokens().item(seed)["tokens"] for seed in seeds])
        device = next(nets["model"].parameters()).device
        logits = nets["model"](torch.from_numpy(tokens).to(device)).float().cpu().numpy()
        np.save(out / "logits.npy", logits)
        alarm = float(len(seeds) > 3)
        return {"spread": float(logits.std()), "alarm_too_many": alarm, "alarm_never": 0.0}


def _weighted(logits_BTV: Tensor, batch: Batch) -> Tensor:
    targets_BT = batch["tokens"][:, 1:]
    losses_BT = F.cross_entropy(logits_BTV.transpose(1, 2), targets_BT, reduction="none")
    return (losses_BT * batch["weight"][:, None]).sum()


RING = ROOT / "recipes" / "gan" / "ring.yaml"


def gan_config(*overrides: str) -> RingConfig:
    return load(RingConfig, RING, list(overrides))


def small_gan(processes: int = 1, accumulation: int = 2) -> Gan:
    """Four steps of the ring with 32 samples each."""
    micro = 32 // processes // accumulation
    sizes = ["train.train_batch_size=32", f"train.per_device_train_batch_size={micro}"]
    return Gan(gan_config("train.max_steps=4", *sizes))
