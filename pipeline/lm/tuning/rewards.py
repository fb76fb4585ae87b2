"""A reward as people write it: a Python function in a file, judged by what it returns."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.run.errors import UserError, nearest

EXPECTED = "expected: FILE.py:FUNCTION, of which FUNCTION(completion, **row) returns a number"


class Reward:
    """The function that `spec` names: what a completion is worth.

    The function gets the text that was generated, and by name `prompt`, a text or, of several turns, the messages, and
    the row's other columns. It runs in every training process.

    Raises:
        UserError: no such file or function.
    """

    def __init__(self, spec: str) -> None:
        self.spec = spec
        self.file = file_of(spec)
        self.function = _function(self.file, spec.rpartition(":")[2])

    def __call__(self, completion: str, row: dict[str, Any]) -> float:
        """A finite number.

        Raises:
            UserError: the function raises, or returns something else; the message shows the completion.
        """
        turns = row["messages"]
        prompt = row["text"] or (turns[0]["content"] if len(turns) == 1 else list(turns))
        try:
            value = self.function(completion, prompt=prompt, **row["columns"])
        except Exception as error:
            raise self._broken(f"raised {type(error).__name__}: {error}", completion, row) from error
        number = isinstance(value, int | float) and not isinstance(value, str)
        if not number or not math.isfinite(value):
            raise self._broken(f"returned {value!r:.60}, which is no finite number", completion, row)
        return float(value)

    def _broken(self, what: str, completion: str, row: dict[str, Any]) -> UserError:
        return UserError(
            f"the reward {self.spec} {what[:200]}\nprompt {row['key']}; completion: {completion!r:.300}\n"
            "way out: mend the function; the same command goes on after the last checkpoint"
        )


def raise_alike(error: UserError | None) -> None:
    """Raise on every process what one of them met: alone, it would leave the others waiting for it."""
    import torch.distributed as dist

    found = [error]
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        found = [None] * dist.get_world_size()
        dist.all_gather_object(found, error and str(error))
        found = [UserError(said) if said else None for said in found]
    if first := next((each for each in found if each), None):
        raise first


def file_of(spec: str) -> Path:
    """The file that holds the function.

    Raises:
        UserError: it is not there.
    """
    name, colon, function = spec.rpartition(":")
    if not colon or not name.endswith(".py") or not function.isidentifier():
        raise UserError(f"reinforce.reward {spec!r} names no function\n{EXPECTED}")
    path = Path(name).expanduser()
    if not path.is_file():
        shipped = Path(__file__).parents[3] / name  # beside recipes that came with the package
        if not shipped.is_file():
            raise UserError(f"reinforce.reward: no file {name}\n{EXPECTED}")
        path = shipped
    return path


def _function(path: Path, name: str) -> Callable[..., Any]:
    spec = importlib.util.spec_from_file_location(f"headwater_reward_{path.stem}", path)
    assert spec and spec.loader, "a .py file can be loaded"
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UserError(
            f"reinforce.reward: {path} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    found = getattr(module, name, None)
    if not callable(found):
        functions = [key for key, value in vars(module).items() if callable(value)]
        raise UserError(
            f"reinforce.reward: {path} has no function {name!r}\n{nearest(name, functions)[:300]}"
        )
    return found
