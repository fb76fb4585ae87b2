"""Which weights of a fully trained model stay as they are."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from pipeline.run.errors import UserError, nearest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn


def freeze(model: nn.Module, patterns: Sequence[str]) -> None:
    """Let the parameters that match one of `patterns` learn nothing.

    Raises:
        UserError: a pattern matches nothing, or all patterns together leave nothing to learn.
    """
    names = [name for name, _ in model.named_parameters()]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UserError(f"freeze: {pattern!r} matches no weight\n{nearest(pattern, names)[:300]}")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not any(fnmatchcase(name, pattern) for pattern in patterns))
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError("freeze: nothing is left to learn\nway out: fewer patterns")
