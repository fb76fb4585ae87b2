"""Where every picture went: nothing is lost silently, and what was read has a fingerprint."""

import hashlib
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline.data.rows import BadRow
from pipeline.run.errors import UserError
from recipes.common.images.config import Images

if TYPE_CHECKING:
    from recipes.common.images.rows import Content, Row


@dataclass
class PictureLedger:
    """The pictures of one split. `balance()` is the promise; the fields are its proof.

    left_out_class: of data.left_out_class, kept from training; beyond_max_images: more than were asked for, not looked
    at; skipped: cannot be used, and listed.
    """

    name: str
    pictures_in: int = 0
    kept: int = 0
    left_out_class: int = 0
    beyond_max_images: int = 0
    skipped: int = 0

    def balance(self) -> "PictureLedger":
        """This ledger, if in = kept + left out + beyond + skipped.

        Raises:
            AssertionError: pictures appeared or vanished. That is a defect of ours, not of the user's data.
        """
        spent = self.kept + self.left_out_class + self.beyond_max_images + self.skipped
        assert self.pictures_in == spent, (
            f"ledger {self.name}: {self.pictures_in} pictures in, but {self.kept} kept + {self.left_out_class} of the "
            f"class left out + {self.beyond_max_images} beyond max_images + {self.skipped} skipped = {spent}"
        )
        return self

    def as_json(self) -> dict[str, str | int]:
        """The balanced fields as plain JSON data."""
        return asdict(self.balance())


@dataclass
class Record:
    """What is learned of the pictures while they are read.

    skipped: {"file", "row", "reason"} of each that cannot be used; notes: how often something was converted.
    """

    skipped: list[dict[str, Any]] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)
    seen: Any = field(default_factory=hashlib.sha256)

    @property
    def fingerprint(self) -> str:
        """sha256 over (key, label, sha256 of content) of every picture read, in the order of reading."""
        return self.seen.hexdigest()

    def see(self, row: "Row", content: "Content") -> None:
        """Count `content` into the fingerprint."""
        held = b"" if isinstance(content, BadRow) else content
        digest = hashlib.sha256(held if isinstance(held, bytes) else held.tobytes()).hexdigest()
        self.seen.update(f"{row.key}\0{row.label}\0{digest}\n".encode())

    def skip_or_raise(self, row: "Row", bad: BadRow, images: Images) -> None:
        """List a picture that cannot be used.

        Raises:
            UserError: data.on_bad_row is error.
        """
        if images.on_bad_row == "skip":
            reason = str(bad).split("\n")[0]
            self.skipped.append({"file": row.file, "row": row.row, "reason": reason})
            return
        place = "" if row.row is None else f" row {row.row}"
        raise UserError(
            f"{row.file}{place}: {bad}\n"
            "way out: mend it, or data.on_bad_row=skip to leave such pictures out and count them"
        )
