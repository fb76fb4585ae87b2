"""`headwater merge`: one model from several of the same shape, tensor by tensor, checked before it is there.

Formulas, for weights t_i of the sources with factors w_i, b of the base, d_i = t_i - b:
    linear           sum of w_i t_i over the sum of w_i (model soups, arXiv:2203.05482; averages of checkpoints)
    slerp            along the arc from the first to the second, w_2 of the way (Shoemake 1985), each tensor a vector
    task_arithmetic  b + sum of w_i d_i (arXiv:2212.04089)
    ties             b + mean of the d_i with the elected sign, of each the largest `density` kept (arXiv:2306.01708)
    dare             b + sum of w_i d_i, of each a random `density` kept, over `density` (arXiv:2311.03099)
A source may be an adapter of the base: its weights are then b + (alpha / r) B A. All is computed in fp32 and written in
the first source's precision.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.lm.tuning.lora import CODES
from pipeline.publish.licences import check_licence, hub_licence, named
from pipeline.publish.model_card import front, table
from pipeline.run.errors import UserError
from pipeline.run.files import digest_of

if TYPE_CHECKING:
    from torch import Tensor

METHODS = ("linear", "slerp", "task_arithmetic", "ties", "dare")
FROM_BASE = ("task_arithmetic", "ties", "dare")
SHARD_BYTES = 1 << 31
SETTINGS = "adapter_config.json"  # of an adapter
A, B = ".lora_A.weight", ".lora_B.weight"
CHECKPOINT = "model/weight/model."  # before the names of weights that training saves


@dataclass(frozen=True)
class Merge:
    """What is asked for. like: the model directory whose config and tokenizer the result has."""

    sources: tuple[str, ...]
    weights: tuple[float, ...]
    method: str
    base: str | None
    density: float
    seed: int
    like: str


class Source:
    """The tensors of a model directory, or of a checkpoint of a training stage, read one at a time."""

    def __init__(self, directory: Path) -> None:
        from safetensors import safe_open

        self.directory = Path(directory)
        files = sorted(self.directory.glob("*.safetensors"))
        if not files:
            raise UserError(
                f"{directory} holds no safetensors\nexpected: a model's directory, or a checkpoint's"
            )
        opened = [safe_open(file, framework="pt") for file in files]
        names = {key: file for file in opened for key in file.keys()}
        self.is_checkpoint = any(name.startswith(CHECKPOINT) for name in names)
        if self.is_checkpoint:
            names = {name: file for name, file in names.items() if name.startswith(CHECKPOINT)}
        self._names = {name.removeprefix(CHECKPOINT): (file, name) for name, file in names.items()}
        if any(".lora_" in name for name in self._names):
            raise UserError(
                f"{directory} holds adapters\nexpected: whole weights, such as a stage's `model`, or its `adapter`"
            )

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(f.get_slice(key).get_shape()) for name, (f, key) in self._names.items()}

    def __getitem__(self, name: str) -> Tensor:
        file, key = self._names[name]
        return file.get_tensor(key)


class Adapter:
    """The tensors of a base with a LoRA adapter merged into them, one at a time, as a Source has them."""

    def __init__(self, directory: Path, base: Source) -> None:
        from safetensors import safe_open

        self.directory, self.base, self.is_checkpoint = Path(directory), base, False
        self.settings = json.loads((self.directory / SETTINGS).read_text())
        self._file = safe_open(self.directory / "adapter_model.safetensors", framework="pt")
        names = [name.removeprefix("base_model.model.") for name in self._file.keys()]
        self._pairs = {name.removesuffix(A) for name in names if name.endswith(A)}
        self._whole = {name for name in names if not name.endswith((A, B))}
        self._refuse(names)

    def _refuse(self, names: list[str]) -> None:
        where, shapes = self.directory, self.base.shapes()
        if (where / CODES).is_file():
            raise UserError(
                f"{where} was trained on a base in codes, which its base's weights are not\n"
                "way out: the model that it was merged into, such as its stage's `model`"
            )
        others = [name for name in self._whole if name not in shapes]
        if self.settings.get("use_dora") or others:
            raise UserError(
                f"{where} holds more than LoRA's products: {', '.join(sorted(others)[:2]) or 'DoRA'}\n"
                "way out: the model that it was merged into, such as its stage's `model`"
            )
        if lost := sorted(name for name in self._pairs if f"{name}.weight" not in shapes):
            raise UserError(
                f"{where} adapts {lost[0]}, which {self.base.directory} does not have\nexpected: the adapter's base"
            )

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return self.base.shapes()

    def __getitem__(self, name: str) -> Tensor:
        module = name.removesuffix(".weight")
        if name in self._whole:
            return self._read(name)
        if module not in self._pairs:
            return self.base[name]
        base, down, up = self.base[name], self._read(module + A), self._read(module + B)
        change = self._scale(module, down.shape[0]) * (up.float() @ down.float())
        return base.float() + (change.T if self.settings.get("fan_in_fan_out") else change)

    def _read(self, name: str) -> Tensor:
        return self._file.get_tensor(f"base_model.model.{name}")

    def _scale(self, module: str, rank: int) -> float:
        """alpha / r, each by the first pattern that fits the module's name, as peft reads them."""
        from peft.utils.other import get_pattern_key

        patterns = self.settings.get("alpha_pattern") or {}
        alpha = patterns.get(get_pattern_key(list(patterns), module), self.settings["lora_alpha"])
        return alpha / (math.sqrt(rank) if self.settings.get("use_rslora") else rank)


def opened(name: str, base: Source | None) -> Source | Adapter:
    """A source by its directory.

    Raises:
        UserError: it holds no weights; it is an adapter, and there is no base, or it cannot be merged so.
    """
    if not (Path(name) / SETTINGS).is_file():
        return Source(Path(name))
    if base is None:
        raise UserError(f"{name} is an adapter\nway out: --base DIRECTORY, the model that it was trained on")
    return Adapter(Path(name), base)


def checked(merge: Merge, licence: str) -> None:
    """Refuse what cannot be merged, before a tensor is read.

    Raises:
        UserError: naming the source or option, and the way out.
    """
    check_licence("--licence", licence)
    count = len(merge.sources)
    if count < 2 and not (Path(merge.sources[0]) / SETTINGS).is_file():
        raise UserError("one source is no merge\nexpected: two or more model directories or checkpoints")
    if merge.method == "slerp" and count != 2:
        raise UserError(f"slerp joins two sources, not {count}\nway out: --method linear")
    if len(merge.weights) != count:
        raise UserError(
            f"{len(merge.weights)} weights for {count} sources\nexpected: one each, in their order"
        )
    if merge.method in FROM_BASE and not merge.base:
        raise UserError(
            f"{merge.method} needs the model that all sources were trained from\nway out: --base DIRECTORY"
        )
    if not 0 < merge.density <= 1:
        raise UserError(f"--density {merge.density}\nexpected: above 0, at most 1")
    if merge.method == "linear" and not sum(merge.weights):
        raise UserError("the weights sum to 0\nexpected: a mean")
    base = Source(Path(merge.base)) if merge.base else None
    first, *others = (*(opened(name, base) for name in merge.sources), *([base] if base else []))
    shapes = first.shapes()
    for other in others:
        theirs = other.shapes()
        if apart := sorted(name for name in shapes.keys() | theirs if shapes.get(name) != theirs.get(name)):
            raise UserError(
                f"{other.directory} is of another shape than {first.directory}: {apart[0]} is {theirs.get(apart[0])} "
                f"and {shapes.get(apart[0])}, as are {len(apart)} tensors\nexpected: models of one architecture"
            )
    tokenizers = {
        digest_of(file)
        for source in (first, *others)
        if (file := source.directory / "tokenizer.json").is_file()
    }
    if len(tokenizers) > 1:
        raise UserError("the sources have different tokenizers\nexpected: one vocabulary, in one order")
    if not (Path(merge.like) / "config.json").is_file():
        raise UserError(
            f"{merge.like} holds no config.json\nway out: --like DIRECTORY, a model of the same shape"
        )


def merged(merge: Merge) -> Iterator[tuple[str, Tensor]]:
    """Each tensor of the result, by name."""
    base = Source(Path(merge.base)) if merge.base else None
    sources = [opened(name, base) for name in merge.sources]
    for number, name in enumerate(sorted(sources[0].shapes())):
        tensors, before = [source[name] for source in sources], base and base[name]
        if not tensors[0].is_floating_point():
            yield name, tensors[0]
            continue
        found = _joined(
            merge, [t.float() for t in tensors], None if before is None else before.float(), number
        )
        like = (
            before if isinstance(sources[0], Adapter) else tensors[0]
        )  # an adapter's weights come unrounded
        yield name, found.to(like.dtype).contiguous()


def _joined(merge: Merge, tensors: list[Tensor], base: Tensor | None, number: int) -> Tensor:
    import torch

    weights = merge.weights
    if merge.method == "linear":
        return sum(w * t for w, t in zip(weights, tensors, strict=True)) / sum(weights)
    if merge.method == "slerp":
        return _slerp(*tensors, weights[1])
    assert base is not None, "checked before"
    changes = [tensor - base for tensor in tensors]
    if merge.method == "ties":
        return base + _ties(changes, weights, merge.density)
    if merge.method == "dare":
        random = torch.Generator().manual_seed(merge.seed * 1_000_003 + number)
        kept = [torch.rand(change.shape, generator=random) < merge.density for change in changes]
        changes = [change * mask / merge.density for change, mask in zip(changes, kept, strict=True)]
    return base + sum(w * change for w, change in zip(weights, changes, strict=True))


def _slerp(one: Tensor, other: Tensor, share: float) -> Tensor:
    """Straight where the two point the same way, or one is 0."""
    import torch

    flat, end = one.flatten().double(), other.flatten().double()
    norms = flat.norm() * end.norm()
    cosine = float(flat @ end / norms) if norms > 0 else 1.0
    angle = torch.arccos(torch.tensor(cosine, dtype=torch.float64).clamp(-1, 1))
    if angle.sin() < 1e-6:
        return one + share * (other - one)
    mixed = ((1 - share) * angle).sin() * flat + (share * angle).sin() * end
    return (mixed / angle.sin()).float().view_as(one)


def _ties(changes: list[Tensor], weights: tuple[float, ...], density: float) -> Tensor:
    """Trim each to its largest entries, elect each entry's sign by weight, and average those that have it."""
    import torch

    trimmed = torch.stack([w * _largest(change, density) for w, change in zip(weights, changes, strict=True)])
    elected = trimmed.sum(0).sign()
    agree = (trimmed.sign() == elected) & (trimmed != 0)
    by = torch.tensor(weights).view(-1, *[1] * changes[0].ndim)
    total = (agree * by).sum(0)
    return torch.where(total != 0, (trimmed * agree).sum(0) / torch.where(total != 0, total, 1.0), 0.0)


def _largest(change: Tensor, density: float) -> Tensor:
    """The largest `density` of the entries by magnitude; the others 0."""
    kept = max(1, round(density * change.numel()))
    if kept == change.numel():
        return change
    places = change.abs().flatten().topk(kept).indices
    found = change.new_zeros(change.numel())
    found[places] = change.flatten()[places]
    return found.view_as(change)


def run_merge(merge: Merge, out: Path, licence: str) -> dict[str, Any]:
    """Write the merged model to `out`, which must not be there, once a fresh process has found it whole.

    Returns:
        what that process measured.

    Raises:
        UserError: as checked; `out` is there.
        RuntimeError: what was written is not what was computed.
    """
    checked(merge, licence)
    if out.exists():
        raise UserError(f"{out} is there already\nway out: another place, or remove it")
    staged = out.with_name(f".{out.name}.partial")
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    _write(merge, staged)
    for file in Path(merge.like).iterdir():
        if file.is_file() and file.suffix != ".safetensors" and file.name not in LEFT:
            shutil.copy(file, staged)
    (staged / "merge.json").write_text(json.dumps(asdict(merge), indent=2) + "\n")
    measured = _afresh(staged)
    (staged / "README.md").write_text(_card(merge, out.name, licence, measured), encoding="utf-8")
    os.replace(staged, out)
    return measured


LEFT = ("README.md", "artifact.json", "model.safetensors.index.json", "merge.json")


def _write(merge: Merge, out: Path) -> None:
    """Shards of at most SHARD_BYTES and their index, by transformers' names; a single one is model.safetensors."""
    from safetensors.torch import save_file

    shards: list[dict[str, Tensor]] = [{}]
    places: dict[str, int] = {}
    held = total = 0

    def flush() -> None:
        save_file(shards[-1], out / f"shard-{len(shards)}.safetensors", metadata={"format": "pt"})

    for name, tensor in merged(merge):
        size = tensor.numel() * tensor.element_size()
        if held and held + size > SHARD_BYTES:
            flush()
            shards[-1] = {}
            shards.append({})
            held = 0
        shards[-1][name] = tensor
        places[name], held, total = len(shards), held + size, total + size
    flush()
    if len(shards) == 1:
        (out / "shard-1.safetensors").rename(out / "model.safetensors")
        return
    names = {n: f"model-{n:05d}-of-{len(shards):05d}.safetensors" for n in range(1, len(shards) + 1)}
    for number, name in names.items():
        (out / f"shard-{number}.safetensors").rename(out / name)
    index = {"metadata": {"total_size": total}, "weight_map": {name: names[n] for name, n in places.items()}}
    (out / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def _afresh(directory: Path) -> dict[str, Any]:
    root = Path(__file__).parents[2]
    path = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": path}
    command = [sys.executable, "-m", "pipeline.publish.merge", str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(
            f"the merged model was found wanting, and nothing was published:\n{done.stderr[-2000:]}"
        )
    return json.loads(done.stdout.splitlines()[-1])


def verify(directory: Path) -> dict[str, Any]:
    """What transformers makes of the directory: every tensor equal to the merge computed again, finite logits."""
    import torch
    from transformers import AutoModelForCausalLM

    given = json.loads((directory / "merge.json").read_text())
    merge = Merge(**given | {name: tuple(given[name]) for name in ("sources", "weights")})
    model = AutoModelForCausalLM.from_pretrained(directory, dtype="auto", use_safetensors=True).eval()
    state = model.state_dict()
    count = 0
    for name, tensor in merged(merge):
        assert torch.equal(state[name], tensor), f"{name} is not what was computed"
        count += 1
    with torch.no_grad():
        logits = model(input_ids=torch.arange(8)[None] % model.config.vocab_size).logits
    assert bool(torch.isfinite(logits).all()), "its logits are not finite"
    return {"tensors_equal": count, "parameters": sum(p.numel() for p in model.parameters())}


def _card(merge: Merge, name: str, licence: str, measured: dict[str, Any]) -> str:
    bases = (*merge.sources, *([merge.base] if merge.base else []))
    on_hub = [source for source in bases if not Path(source).exists() and source.count("/") == 1]
    tree = hub_licence(licence) | ({"base_model": on_hub} if on_hub else {})
    tree |= {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["headwater", "merge"],
    }
    rows = [
        (Path(s).name, f"{w:g}", _sha(Path(s))) for s, w in zip(merge.sources, merge.weights, strict=True)
    ]
    rows += [(Path(merge.base).name, "base", _sha(Path(merge.base)))] if merge.base else []
    said = f"`{merge.method}`" + (f", density {merge.density:g}" if merge.method in ("ties", "dare") else "")
    return (
        f"{front(tree)}\n\n# {name}\n\nMerged by {said} from\n\n{table(('source', 'weight', 'sha256'), rows)}\n\n"
        f"Licence: {named(licence)}.\n\nChecked: loaded by transformers in a fresh process, "
        f"{measured['tensors_equal']:,} tensors equal to the merge computed again, logits finite.\n"
    )


def _sha(directory: Path) -> str:
    files = sorted(directory.glob("*.safetensors"))
    return ", ".join(f"`{digest_of(file)[:16]}`" for file in files[:3])


if __name__ == "__main__":
    print(json.dumps(verify(Path(sys.argv[1]))))
