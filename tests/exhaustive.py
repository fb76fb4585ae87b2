"""How a test says that a case is one more of its kind, which only `./launch/test --all` runs."""

from typing import Any

import pytest


def exhaustive(*values: Any) -> Any:
    """These parameters of a test, added by --all: another case of the same kind always runs."""
    return pytest.param(*values, marks=pytest.mark.exhaustive)
