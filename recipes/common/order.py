"""In which order prepared pictures and clips lie."""

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from recipes.common.rows import Row


def rank(row: "Row") -> bytes:
    """By which rows are ordered; independent of the hash that decides the split."""
    return hashlib.sha256(f"order/{row.key}".encode()).digest()
