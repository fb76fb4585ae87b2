"""Where every picture went: nothing is lost silently."""

from dataclasses import asdict, dataclass


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
