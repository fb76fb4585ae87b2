"""YAML recipe + `section.key=value` overrides -> one frozen, validated config, and the part of it that is identity."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from pipeline.run.errors import UserError, nearest


class Section(BaseModel):
    """A frozen group of settings; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


Schema = type[Section] | Callable[[dict[str, Any]], type[Section]]


def what(default: Any, description: str, **limits: Any) -> Any:
    """A field that says *what* is made: part of the identity of every artifact made from it."""
    return Field(default, description=description, **limits)


def how(default: Any, description: str, **limits: Any) -> Any:
    """A field that says *how* it is made (devices, logging, paths): never part of the identity."""
    return Field(default, description=description, json_schema_extra={"how": True}, **limits)


def identity(section: Section) -> dict[str, Any]:
    """The settings of `section` that decide what is made, as plain JSON data; `how` fields are left out."""
    kept = {}
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if (field.json_schema_extra or {}).get("how"):
            continue
        kept[name] = identity(value) if isinstance(value, Section) else _plain(value)
    return kept


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value, default=_dump))


def _dump(value: Any) -> Any:
    return identity(value) if isinstance(value, Section) else str(value)


class Run(Section):
    """How and where a recipe runs. Nothing here changes what is made."""

    output_dir: Path = how(..., "directory that holds every artifact, checkpoint and log of this recipe")
    launch: Path | None = how(None, "accelerate launch file; none: the one that fits this machine")
    num_processes: int | None = how(None, "training processes; none: every GPU, or 2 without one", ge=1)
    logging_steps: int = how(10, "optimizer steps between two lines of metrics.jsonl", ge=1)
    eval_steps: int = how(0, "optimizer steps between two held-out evaluations; 0: only at the end", ge=0)
    eval_samples: int = how(128, "held-out samples of each evaluation during training; 0: all", ge=0)
    sample_steps: int = how(0, "optimizer steps between two drawings of samples; 0: never", ge=0)
    sample_count: int = how(64, "samples of each drawing; sample i has seed i", ge=1)
    save_steps: int = how(
        100, "optimizer steps between two checkpoints; a file OUTPUT_DIR/save asks for one at once", ge=1
    )
    save_minutes: float | None = how(None, "and at least one in as many minutes; none: by steps alone", gt=0)
    save_total_limit: int = how(
        2, "checkpoints kept; the oldest are pruned after a new one is published", ge=1
    )
    trackers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = how(
        (), "trackers fed beside metrics.jsonl"
    )
    until_step: int | None = how(
        None,
        "optimizer step of a training stage after which it saves and stops, as if asked to; none: its last",
        ge=1,
    )
    timeout: float = how(
        1800.0,
        "seconds without a training step or a batch of evaluation after which a run is taken to hang",
        gt=0,
    )
    threads: int | None = how(None, "CPU threads a process; none: cores divided by processes", ge=1)


class Optimizer(Section):
    """One net's update rule, with Hugging Face's names."""

    optim: Literal[
        "adamw", "adamw_torch_fused", "adamw_8bit", "schedule_free_adamw", "muon", "lion", "adafactor"
    ] = what(
        "adamw",
        "update rule; adamw_torch_fused: the same by its other name; adamw_8bit: its moments in 8 bits; "
        "schedule_free_adamw: its weights averaged, at a constant rate; muon: hidden matrices by Muon, the rest by "
        "AdamW; lion: one moment, signs of it; adafactor: a matrix's second moment by rows and columns",
    )
    learning_rate: float = what(..., "peak learning rate, of Muon's other weights", gt=0)
    muon_learning_rate: float = what(
        0.02, "peak learning rate of Muon's matrices, spectral norm a step", gt=0
    )
    muon_momentum: float = what(0.95, "Muon's momentum", ge=0, lt=1)
    adam_beta1: float = what(0.9, "AdamW's decay of the first moment; Lion's of the update", ge=0, lt=1)
    adam_beta2: float = what(0.95, "AdamW's decay of the second moment; Lion's of its moment", ge=0, lt=1)
    adam_epsilon: float = what(1e-8, "AdamW's denominator floor", gt=0)
    weight_decay: float = what(0.0, "decoupled weight decay of matrices; vectors have none", ge=0)
    max_grad_norm: float = what(1.0, "gradients are scaled down to this global L2 norm; 0: never", ge=0)
    learning_rate_of: dict[str, Annotated[float, Field(ge=0)]] = what(
        {},
        "factors of the rate of weights by patterns of their names, such as lm_head.*: 0.1; the first that fits",
    )
    layerwise_lr_decay: float = what(
        1.0, "factor of the rate from each layer to the one below it, the embedding last", gt=0, le=1
    )
    lr_scheduler_type: Literal[
        "constant",
        "constant_with_warmup",
        "linear",
        "cosine",
        "cosine_with_restarts",
        "polynomial",
        "inverse_sqrt",
        "wsd",
    ] = what("cosine", "shape after the warm-up")
    lr_power: float = what(1.0, "polynomial only: the power of what is left", gt=0)
    lr_num_cycles: int = what(1, "cosine_with_restarts only: how often it begins at the peak", ge=1)
    lr_decay_type: Literal["linear", "cosine", "1-sqrt"] = what(
        "linear", "wsd only: shape of the final decay"
    )
    warmup_steps: int | float = what(
        0, "optimizer steps of linear warm-up; below 1: a share of max_steps", ge=0
    )
    decay_steps: int | float = what(
        0, "wsd only: optimizer steps of the final decay; below 1: a share of max_steps", ge=0
    )
    min_lr_ratio: float = what(0.0, "learning rate at the last step over the peak", ge=0, le=1)


class Loop(Section):
    """How long and on how much one training stage trains, whatever its nets."""

    max_steps: int = what(..., "optimizer steps", ge=1)
    train_batch_size: int = what(..., "samples an optimizer step, over all processes and micro-batches", ge=1)
    per_device_train_batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] = how(
        "auto",
        "samples a micro-batch on one process; auto: what fits its memory; accumulation is derived",
    )
    per_device_eval_batch_size: int = how(16, "samples an evaluation batch on one process", ge=1)
    bf16: bool | Literal["auto"] = what(
        "auto", "bfloat16 compute with fp32 master weights; false: fp32; auto: the faster one on this machine"
    )
    gradient_checkpointing: bool = how(False, "recompute activations in the backward pass")
    torch_compile: bool = how(False, "compile the repeated layers")
    deterministic: bool = how(
        True, "on a GPU, kernels whose sums are the same each time: a resumed run equals an uninterrupted one"
    )
    ema_decay: float = what(0.0, "decay of the fp32 shadow of the weights, a step; 0: no shadow", ge=0, lt=1)
    metric_for_best_model: str | None = what(
        None, "held-out figure by which the best weights are kept, such as loss; none: the last are"
    )
    greater_is_better: bool = what(False, "whether the best figure is the largest")
    early_stopping_patience: int | None = what(
        None, "evaluations without a better figure after which training stops; none: never", ge=1
    )
    skip_nonfinite_steps: int = how(
        0, "steps left out because their loss or a gradient is not finite, before one more ends the run", ge=0
    )
    seed: int = what(0, "seed of weights, order, dropout and noise", ge=0)

    @property
    def length(self) -> str:
        """How long it trains, in words."""
        return f"{self.max_steps:,} steps"


class Training(Loop, Optimizer):
    """A training stage with one net: the loop and that net's optimizer."""


def load(schema: Schema, path: Path, overrides: list[str]) -> Any:
    """Read the YAML at `path`, apply `section.key=value` overrides and validate against `schema`.

    schema: or the function that chooses it by the settings, where they are of more than one kind.

    Raises:
        UserError: the file is missing or no YAML mapping; an override has no `=`; a key is unknown (the
            nearest is named) or a value does not fit (file and line are named).
    """
    text, tree = read_yaml(path)
    for override in overrides:
        _apply(tree, override)
    schema = schema if isinstance(schema, type) else schema(tree)
    try:
        return schema.model_validate(tree)
    except ValidationError as error:
        raise UserError(_explain(error, schema, path, text, overrides)) from None


def read_yaml(path: Path) -> tuple[str, dict[str, Any]]:
    """The text of a recipe and the mapping in it.

    Raises:
        UserError: missing, unreadable, not YAML, or not a mapping.
    """
    try:
        text = Path(path).read_text()
        tree = yaml.load(text, _Loader)
    except FileNotFoundError:
        raise UserError(
            f"no recipe at {path}\nexpected: a YAML file such as recipes/llm/quickstart.yaml"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the recipe {path}: {error}") from None
    except RecursionError:
        raise UserError(f"{path} is nested too deep\nexpected: sections with settings") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(tree, dict):
        raise UserError(f"{path} holds no sections\nexpected: a mapping such as `run:` and `model:`")
    return text, tree


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which by itself keeps the last of two equal keys and drops the first in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: dict[Any, int] = {}
        for name, _ in node.value:
            line = name.start_mark.line + 1
            if seen.setdefault(name.value, line) != line:
                raise yaml.YAMLError(
                    f"line {line} says {name.value!r} again, first said in line {seen[name.value]}"
                )
        return super().construct_mapping(node, deep)


def _apply(tree: dict[str, Any], override: str) -> None:
    dotted, equals, value = override.partition("=")
    if not equals or not dotted:
        raise UserError(
            f"override {override!r} has no value\nexpected: section.key=value, such as pretrain.max_steps=10"
        )
    *parents, last = dotted.split(".")
    for name in parents:
        child = tree.get(name)
        tree[name] = child = dict(child) if isinstance(child, dict) else {}
        tree = child
    try:
        tree[last] = yaml.safe_load(value)
    except yaml.YAMLError:
        raise UserError(f"override {override!r}: the value is not YAML; quote it") from None


def _explain(
    error: ValidationError, schema: type[Section], path: Path, text: str, overrides: list[str]
) -> str:
    """At most five lines for the first thing that is wrong."""
    # A misspelt required key is both unknown and missing: the misspelling is what helps.
    first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
    keys, said = [str(part) for part in first["loc"]], first["msg"]
    unknown = first["type"] == "extra_forbidden"
    if not unknown and _field(schema, keys) is None and _field(schema, keys[:-1]):
        # The last part of the place names one of several kinds that the value may be of.
        keys = keys[:-1]
        kinds = [found["msg"] for found in error.errors() if found["loc"][:-1] == first["loc"][:-1]]
        said = " or ".join([kinds[0], *(kind.removeprefix("Input should be ") for kind in kinds[1:])])
    dotted = ".".join(keys)
    given = any(override.startswith((dotted + "=", dotted + ".")) for override in overrides)
    where = "the command line" if given else f"{path}{_line(text, keys)}"
    if unknown:
        return f"unknown key {dotted!r} in {where}\n{nearest(keys[-1], _keys_at(schema, keys[:-1]))}"
    if first["type"] == "missing":
        return f"{path} lacks {dotted!r}: {_description(schema, keys)}"
    return f"{dotted} = {first['input']!r} in {where}\n{said}\nmeaning: {_description(schema, keys)}"


def _line(text: str, keys: list[str]) -> str:
    """`:LINE` of the deepest of `keys` that the YAML text holds."""
    node, line = yaml.compose(text), None
    for key in keys:
        if not isinstance(node, yaml.MappingNode):
            break
        found = [(name, value) for name, value in node.value if name.value == key]
        if not found:
            break
        line, node = found[0][0].start_mark.line + 1, found[0][1]
    return f":{line}" if line else ""


def _section_at(schema: type[BaseModel], keys: list[str]) -> type[BaseModel] | None:
    for key in keys:
        field = schema.model_fields.get(key) if schema else None
        schema = next((t for t in _types(field.annotation) if _is_section(t)), None) if field else None
    return schema


def _types(annotation: Any) -> tuple[Any, ...]:
    return getattr(annotation, "__args__", ()) or (annotation,)


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _keys_at(schema: type[BaseModel], keys: list[str]) -> list[str]:
    section = _section_at(schema, keys)
    return list(section.model_fields) if section else []


def _description(schema: type[BaseModel], keys: list[str]) -> str:
    field = _field(schema, keys)
    return (field.description if field else None) or "see the recipe's own comments"


def _field(schema: type[BaseModel], keys: list[str]) -> FieldInfo | None:
    section = _section_at(schema, keys[:-1])
    return section.model_fields.get(keys[-1]) if section and keys else None
