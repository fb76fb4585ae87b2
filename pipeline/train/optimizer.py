"""Which parameters share an update rule and a rate: matrices decay, vectors do not; hidden matrices may go to Muon."""

import re
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from pipeline.run.config import Optimizer
from pipeline.run.errors import UserError, nearest

RULES = {"adamw_torch_fused": "adamw"}  # names of the same rule
LAYER = re.compile(r"\.(\d+)\.")


def rule_of(optim: str) -> str:
    """The update rule that a name stands for."""
    return RULES.get(optim, optim)


def parameter_groups(net: nn.Module, optimizer: Optimizer) -> list[dict]:
    """Trainable parameters of `net` in groups that a torch optimizer takes; each holds its peak rate as `peak` and its
    update rule as `rule`.

    A parameter's rate is the optimizer's times its attribute `rate`, where it has one, times the factor of the first
    pattern of `learning_rate_of` that its name fits, times `layerwise_lr_decay` for each layer above it.

    Muon takes the hidden matrices, two-dimensional weights of the repeated blocks; embeddings, the output head and
    vectors stay with AdamW, as its author advises (Jordan, 2024, "Muon: An optimizer for hidden layers").

    Raises:
        UserError: a pattern fits no weight.
    """
    rule = rule_of(optimizer.optim)
    hidden = _hidden_matrices(net) if rule == "muon" else set()
    factors = _factors(net, optimizer)
    groups: dict[tuple[str, bool, float], list[nn.Parameter]] = {}
    for name, parameter in net.named_parameters():
        if parameter.requires_grad:
            own = "muon" if id(parameter) in hidden else "adamw" if rule == "muon" else rule
            key = (own, parameter.ndim >= 2, factors[name])
            groups.setdefault(key, []).append(parameter)
    order = sorted(groups, key=lambda key: (key[2] != 1, key[0] != "muon", not key[1]))
    return [_group(*key, groups[key], optimizer) for key in order]


def _group(
    rule: str, decays: bool, factor: float, params: list[nn.Parameter], optimizer: Optimizer
) -> dict[str, Any]:
    peak = optimizer.muon_learning_rate if rule == "muon" else optimizer.learning_rate
    settings: dict[str, dict[str, Any]] = {
        "adamw": {
            "betas": (optimizer.adam_beta1, optimizer.adam_beta2),
            "eps": optimizer.adam_epsilon,
        },
        "muon": {"momentum": optimizer.muon_momentum, "ns_method": "standard"},
        "lion": {"betas": (optimizer.adam_beta1, optimizer.adam_beta2)},
        "adafactor": {},
    }
    settings |= {name: settings["adamw"] for name in ("adamw_8bit", "schedule_free_adamw")}
    peak *= factor
    return dict(
        params=params,
        peak=peak,
        lr=peak,
        rule=rule,
        use_muon=rule == "muon",
        weight_decay=optimizer.weight_decay if decays else 0.0,
        **settings[rule],
    )


def _factors(net: nn.Module, optimizer: Optimizer) -> dict[str, float]:
    """The factor of each parameter's rate, by name."""
    names = [name for name, _ in net.named_parameters()]
    for pattern in optimizer.learning_rate_of:
        if not any(_fits(name, pattern) for name in names):
            raise UserError(
                f"learning_rate_of: {pattern!r} matches no weight\n{nearest(pattern, names)[:300]}"
            )
    numbers = [int(found.group(1)) for name in names if (found := LAYER.search(name))]
    layers = 1 + max(numbers, default=0)
    factors = {}
    for name, parameter in net.named_parameters():
        asked = (factor for pattern, factor in optimizer.learning_rate_of.items() if _fits(name, pattern))
        factor = getattr(parameter, "rate", 1.0) * next(asked, 1.0)
        factors[name] = factor * optimizer.layerwise_lr_decay ** _layers_above(name, layers)
    return factors


def _fits(name: str, pattern: str) -> bool:
    """A net's own name for a weight, or its name within the module that the recipe wraps."""
    return fnmatchcase(name, pattern) or fnmatchcase(name.partition(".")[2], pattern)


def _layers_above(name: str, layers: int) -> int:
    """0 behind the last layer (norm and head), 1 in it, one more for each below; the embedding has them all above."""
    if found := LAYER.search(name):
        return layers - int(found.group(1))
    embeds = "embed" in name or ".wte." in name or ".wpe." in name
    return layers + 1 if embeds else 0


def _hidden_matrices(net: nn.Module) -> set[int]:
    """Identities of the two-dimensional weights inside the repeated blocks (an `nn.ModuleList`)."""
    blocks = [module for module in net.modules() if isinstance(module, nn.ModuleList)]
    embeddings = {id(module.weight) for module in net.modules() if isinstance(module, nn.Embedding)}
    matrices = {id(parameter) for block in blocks for parameter in block.parameters() if parameter.ndim == 2}
    return matrices - embeddings
