"""The same training on the GPU as on the CPU, resumed as uninterrupted, under ZeRO as without, compiled as not."""

import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch

from pipeline.data.packing import PackedDocuments, collate
from pipeline.lm.recipe import LanguageModel, TokenLoss
from pipeline.run.config import Training
from pipeline.run.launch import find_launch_file
from pipeline.train import checkpoint
from pipeline.train.loop import Trainer, steps
from tests.gpu.check import Check, Place, Said, require
from tests.helpers import free_port
from tests.tiny_language_model import (
    ALONE,
    ARCHITECTURES,
    loss_and_logits,
    random_documents,
    shard_of,
    tiny_model,
)

LENGTH, STEPS = 32, 6
# A GPU draws other dropout than a CPU from the same seed.
SAME_NET = {"gpt2": {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}}
RESUMED = {
    "fp32": {},
    "bf16": {"bf16": True},
    "muon": {"optim": "muon", "max_grad_norm": 0.0},
    "compiled": {"bf16": True, "torch_compile": True},
    "flash": {"bf16": True, "attention": "flash"},
    "flex": {"bf16": True, "attention": "flex", "torch_compile": True},
}
KERNELS = ("MATH", "EFFICIENT_ATTENTION", "FLASH_ATTENTION", "CUDNN_ATTENTION")


def tiny(
    directory: Path, runtime: Any, architecture: str = "llama", attention: str = "sdpa", **training: Any
) -> Trainer:
    """A trainer of a tiny decoder on packed rows, fp32 unless told otherwise."""
    chosen = {"learning_rate": 1e-2, "max_steps": STEPS, "train_batch_size": 8, "bf16": False} | training
    if not (directory / "documents.json").exists():
        shard_of(directory, random_documents(*[20 + 7 * (i % 9) for i in range(40)]))
    from pipeline.data.shards import Shard

    split = PackedDocuments(Shard.open(directory, "documents"), LENGTH, 0)
    build = lambda: tiny_model(architecture, LENGTH, attention, **SAME_NET.get(architecture, {}))  # noqa: E731
    return Trainer(LanguageModel(Training(**chosen), build, split, None, LENGTH), runtime)


def losses(trainer: Trainer, start: int = 0) -> list[float]:
    return [info.sums["model/loss"].mean for info in steps(trainer, start)]


def largest(ours: list[float], theirs: list[float]) -> float:
    """The largest relative difference of two runs' losses."""
    return max(abs(a - b) / abs(b) for a, b in zip(ours, theirs, strict=True))


def device_against_cpu(place: Place) -> Said:
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in ARCHITECTURES:
            found = [losses(tiny(Path(folder), runtime, name)) for runtime in (place.runtime, ALONE)]
            figures[name] = largest(*found)
    return require(max(figures.values()) < 1e-4, "losses in fp32 differ from the CPU's", figures)


def resume(place: Place) -> Said:
    """Six steps, and three with a checkpoint behind them and three more from it: every tensor equal."""
    figures: Said = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, fields in RESUMED.items():
            if name == "flex" and place.rehearsal:  # torch has no backward of it on a CPU
                continue
            data, saved = Path(folder) / "data", Path(folder) / name
            data.mkdir(exist_ok=True)
            whole = tiny(data, place.runtime, ema_decay=0.5, **fields)
            seen = []
            for info in steps(whole):
                seen.append(info.sums["model/loss"].mean)
                if info.step == STEPS // 2:
                    checkpoint.save(saved, info.step, whole.tensors(), {}, 1, place.runtime)
            again = tiny(data, place.runtime, ema_decay=0.5, **fields)
            newest, _ = checkpoint.newest(saved, place.runtime)
            again.load(checkpoint.Reader(newest), STEPS // 2)
            equal = losses(again, STEPS // 2) == seen[STEPS // 2 :]
            pairs = zip(whole.tensors(), again.tensors(), strict=True)
            figures[name] = equal and all(torch.equal(a.cpu(), b.cpu()) for (_, a), (_, b) in pairs)
    return require(all(figures.values()), "a resumed run is not the uninterrupted one", figures)


def zero(place: Place) -> Said:
    """ZeRO-1, 2 and 3 on one process, each in a launcher of its own, against no ZeRO."""
    with tempfile.TemporaryDirectory() as folder:
        plain = losses(tiny(Path(folder), place.runtime))
        with ThreadPoolExecutor(3) as threads:  # most of a launch is imports
            found = list(threads.map(partial(_launched, place), (f"zero{stage}" for stage in (1, 2, 3))))
        figures = {f"zero{stage}": largest(seen, plain) for stage, seen in enumerate(found, 1)}
    return require(max(figures.values()) < 1e-4, "losses under ZeRO differ from those without", figures)


def _launched(place: Place, launcher: str) -> list[float]:
    start = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        str(find_launch_file(Path(launcher))),
    ]
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if place.rehearsal else {}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "losses.json"
        command = [*start, "--num_processes", "1", "--main_process_port", str(free_port())]
        done = subprocess.run(
            [*command, "-m", "tests.gpu.correctness", str(out)],
            env=os.environ | hidden,
            capture_output=True,
            text=True,
            timeout=120,
        )
        if done.returncode:
            raise RuntimeError(f"{launcher}: {done.stderr[-600:]}")
        return json.loads(out.read_text())


def compiled(place: Place) -> Said:
    with tempfile.TemporaryDirectory() as folder:
        pair = [losses(tiny(Path(folder), place.runtime, torch_compile=on)) for on in (True, False)]
    figures = {"fp32": largest(*pair)}
    return require(figures["fp32"] < 1e-4, "compiled layers train otherwise", figures)


def isolation(place: Place) -> Said:
    """Each attention backend against plain products; and a row's second document, whatever the first one is.

    The variable-length kernel computes in bf16, as plain products then do beside it.
    """
    figures: Said = {"flash": _beside_plain(place, "flash")}
    with tempfile.TemporaryDirectory() as folder:
        split = PackedDocuments(shard_of(Path(folder), random_documents(12, 20)), LENGTH, None)
        batch = {name: value.to(place.device) for name, value in collate([split.item(0)]).items()}
    first = batch["document_ids"] == 0
    changed = batch | {"input_ids": torch.where(first, (batch["input_ids"] + 1) % 30 + 3, batch["input_ids"])}
    expected = None
    for name in ("eager", *KERNELS):
        try:
            with torch.no_grad(), _kernel(name):
                net = TokenLoss(
                    tiny_model("llama", LENGTH, "eager" if name == "eager" else "sdpa").to(place.device)
                )
                (_, before), (_, after) = (loss_and_logits(net, rows) for rows in (batch, changed))
        except RuntimeError as error:
            figures[name] = {"refused": str(error).split("\n")[0][:80]}  # a kernel that takes no mask says so
            continue
        expected = before if expected is None else expected
        figures[name] = {
            "logits_differ_by": float((before - expected).abs().max()),
            "isolated": torch.equal(before[~first], after[~first]),
            "sees_its_own": not torch.equal(before[first], after[first]),
        }
    ran = [found for found in figures.values() if "isolated" in found]
    sound = all(found["isolated"] and found["sees_its_own"] for found in ran)
    close = all(
        found["logits_differ_by"] < (0.1 if name == "flash" else 1e-3)
        for name, found in figures.items()
        if found in ran
    )
    return require(
        sound and close and len(ran) >= 2, "an attention backend leaks or computes otherwise", figures
    )


def flex(place: Place) -> Said:
    """flex_attention against plain products, in bf16: logits, gradients, and documents apart."""
    if place.rehearsal:
        return {"skipped": "torch has no backward of it on a CPU"}
    found = _beside_plain(place, "flex")
    sound = found["isolated"] and found["sees_its_own"] and found["logits_differ_by"] < 0.1
    return require(sound, "flex attention leaks or computes otherwise", found)


def _beside_plain(place: Place, backend: str) -> Said:
    """Gradients and logits of a net with windows on half of its layers, in bf16; a backend against plain products."""
    window = {
        "layer_types": ["sliding_attention", "full_attention"],
        "use_sliding_window": True,
        "sliding_window": 5,
    }
    with tempfile.TemporaryDirectory() as folder:
        split = PackedDocuments(shard_of(Path(folder), random_documents(12, 20, 3, 40, 9)), 64, None)
        batch = {
            name: value.to(place.device) for name, value in collate([split.item(0), split.item(1)]).items()
        }
    first, others = batch["document_ids"] == 0, batch["document_ids"] > 0
    changed = batch | {"input_ids": torch.where(first, (batch["input_ids"] + 1) % 30 + 3, batch["input_ids"])}
    found = {}
    for kind in ("eager", backend):
        net = TokenLoss(tiny_model("qwen3", 64, kind, scale=0.1, **window).to(place.device, torch.bfloat16))
        loss, logits = loss_and_logits(net, batch)
        loss.backward()
        with torch.no_grad():
            _, after = loss_and_logits(net, changed)
        norms = torch.stack([p.grad.float().norm() for p in net.parameters()])
        found[kind] = (float(loss.detach()), logits.detach().float(), after.float(), norms)
    (plain, expected, _, norms), (loss, before, after, own) = found["eager"], found[backend]
    return {
        "logits_differ_by": float((before - expected)[others | first].abs().max()),
        "largest_logit": float(expected.abs().max()),
        "loss_differs_by": abs(loss / plain - 1),
        "gradient_norms_differ_by": float((own / norms - 1).abs().max()),
        "isolated": torch.equal(before[others], after[others]),
        "sees_its_own": not torch.equal(before[first], after[first]),
    }


def _kernel(name: str) -> Any:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    return nullcontext() if name == "eager" else sdpa_kernel(getattr(SDPBackend, name))


def launched() -> None:
    """What `_launched` starts: the losses of the tiny decoder under this launcher."""
    from pipeline.run.stage import leave
    from pipeline.train.engine import start_runtime, stop_runtime

    runtime = start_runtime()
    with tempfile.TemporaryDirectory() as folder:
        found = losses(tiny(Path(folder), runtime))
    Path(sys.argv[1]).write_text(json.dumps(found))
    stop_runtime()
    leave(0)


FIRST = [
    Check("device_against_cpu", "losses of three tiny decoders in fp32, GPU against CPU", device_against_cpu),
    Check("isolation", "attention backends against each other, and documents apart on each", isolation),
    Check("resume", "three steps, a checkpoint and three more equal six, bit for bit", resume),
]
CHECKS = [
    Check("zero", "ZeRO-1, 2 and 3 on one process against no ZeRO", zero, ("deepspeed",)),
    Check("compiled", "compiled layers against layers as they are", compiled),
    Check("flex", "flex attention against plain products, and documents apart on it", flex),
]

if __name__ == "__main__":
    launched()
