"""What was read of pictures or clips: its fingerprint, what was converted, and what cannot be used."""

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline.data.rows import BadRow
from pipeline.run.errors import UserError

if TYPE_CHECKING:
    from recipes.common.rows import Content, Row


@dataclass
class Record:
    """What is learned of pictures or clips while they are read.

    skipped: {"file", "row", "reason"} of each that cannot be used; notes: how often something was converted.
    """

    skipped: list[dict[str, Any]] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)
    seen: Any = field(default_factory=hashlib.sha256)

    @property
    def fingerprint(self) -> str:
        """sha256 over (key, label, sha256 of content) of everything read, in the order of reading."""
        return self.seen.hexdigest()

    def see(self, row: "Row", content: "Content") -> None:
        """Count `content` into the fingerprint."""
        held = b"" if isinstance(content, BadRow) else content
        digest = hashlib.sha256(held if isinstance(held, bytes) else held.tobytes()).hexdigest()
        self.seen.update(f"{row.key}\0{row.label}\0{digest}\n".encode())

    def skip_or_raise(self, row: "Row", bad: BadRow, on_bad_row: str) -> None:
        """List one that cannot be used.

        Raises:
            UserError: data.on_bad_row is error.
        """
        if on_bad_row == "skip":
            reason = str(bad).split("\n")[0]
            self.skipped.append({"file": row.file, "row": row.row, "reason": reason})
            return
        place = "" if row.row is None else f" row {row.row}"
        raise UserError(
            f"{row.file}{place}: {bad}\n"
            "way out: mend it, or data.on_bad_row=skip to leave such out and count them"
        )
