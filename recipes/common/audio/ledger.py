"""Where every clip went: nothing is lost silently."""

from dataclasses import asdict, dataclass


@dataclass
class ClipLedger:
    """The clips of one split. `balance()` is the promise; the fields are its proof.

    beyond_max_clips: more than were asked for, not looked at; skipped: cannot be used, and listed; samples: in what is
    kept, at the rate of the recipe.
    """

    name: str
    clips_in: int = 0
    kept: int = 0
    beyond_max_clips: int = 0
    skipped: int = 0
    samples: int = 0

    def balance(self) -> "ClipLedger":
        """This ledger, if in = kept + beyond + skipped.

        Raises:
            AssertionError: clips appeared or vanished. That is a defect of ours, not of the user's data.
        """
        spent = self.kept + self.beyond_max_clips + self.skipped
        assert self.clips_in == spent, (
            f"ledger {self.name}: {self.clips_in} clips in, but {self.kept} kept + {self.beyond_max_clips} beyond "
            f"max_clips + {self.skipped} skipped = {spent}"
        )
        return self

    def as_json(self) -> dict[str, str | int]:
        """The balanced fields as plain JSON data."""
        return asdict(self.balance())
