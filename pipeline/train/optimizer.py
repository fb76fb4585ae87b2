"""Which parameters share an update rule: matrices decay, vectors do not; hidden matrices may go to Muon."""

from torch import nn

from pipeline.run.config import Optimizer


def parameter_groups(net: nn.Module, optimizer: Optimizer) -> list[dict]:
    """Trainable parameters of `net` in groups that a torch optimizer takes; each holds its peak rate as `peak`.

    A parameter with an attribute `rate` learns at so many times the optimizer's AdamW rate.

    Muon takes the hidden matrices, two-dimensional weights of the repeated blocks; embeddings, the output head and
    vectors stay with AdamW, as its author advises (Jordan, 2024, "Muon: An optimizer for hidden layers").
    """
    hidden = _hidden_matrices(net) if optimizer.optim == "muon" else set()
    muon, decayed, plain = [], [], []
    faster: dict[float, list[nn.Parameter]] = {}
    for parameter in net.parameters():
        if not parameter.requires_grad:
            continue
        if (rate := getattr(parameter, "rate", 1.0)) != 1:
            faster.setdefault(rate, []).append(parameter)
            continue
        chosen = muon if id(parameter) in hidden else decayed if parameter.ndim >= 2 else plain
        chosen.append(parameter)
    adamw = dict(
        peak=optimizer.learning_rate,
        betas=(optimizer.adam_beta1, optimizer.adam_beta2),
        eps=optimizer.adam_epsilon,
        use_muon=False,
    )
    groups = [
        dict(
            params=muon,
            peak=optimizer.muon_learning_rate,
            momentum=optimizer.muon_momentum,
            weight_decay=optimizer.weight_decay,
            ns_method="standard",
            use_muon=True,
        ),
        dict(params=decayed, weight_decay=optimizer.weight_decay, **adamw),
        dict(params=plain, weight_decay=0.0, **adamw),
    ]
    for rate, parameters in faster.items():
        quick = adamw | {"peak": optimizer.learning_rate * rate}
        groups.append(dict(params=parameters, weight_decay=optimizer.weight_decay, **quick))
    return [dict(group, lr=group["peak"]) for group in groups if group["params"]]


def _hidden_matrices(net: nn.Module) -> set[int]:
    """Identities of the two-dimensional weights inside the repeated blocks (an `nn.ModuleList`)."""
    blocks = [module for module in net.modules() if isinstance(module, nn.ModuleList)]
    embeddings = {id(module.weight) for module in net.modules() if isinstance(module, nn.Embedding)}
    matrices = {id(parameter) for block in blocks for parameter in block.parameters() if parameter.ndim == 2}
    return matrices - embeddings
