"""Where every token went: nothing is lost silently."""

from dataclasses import asdict, dataclass


@dataclass
class Ledger:
    """The tokens of one stage or packer. `balance()` is the promise; the fields are its proof.

    name: whose ledger it is.
    tokens_in: tokens received.  kept + truncated + dropped: what became of them.
    rows, row_length: rows an epoch and their positions (0: the stage makes no rows).
    inputs, padded: positions that hold a token, and that hold none.
    """

    name: str
    tokens_in: int = 0
    kept: int = 0
    truncated: int = 0
    dropped: int = 0
    rows: int = 0
    row_length: int = 0
    inputs: int = 0
    padded: int = 0

    def balance(self) -> "Ledger":
        """This ledger, if in = kept + truncated + dropped and rows x row_length = inputs + padded.

        Raises:
            AssertionError: tokens appeared or vanished. That is a defect of ours, not of the user's data.
        """
        spent = self.kept + self.truncated + self.dropped
        assert self.tokens_in == spent, (
            f"ledger {self.name}: {self.tokens_in} tokens in, but {self.kept} kept + {self.truncated} truncated + "
            f"{self.dropped} dropped = {spent}"
        )
        positions = self.rows * self.row_length
        assert positions == self.inputs + self.padded, (
            f"ledger {self.name}: {self.rows} rows x {self.row_length} = {positions} positions, but {self.inputs} "
            f"inputs + {self.padded} padded = {self.inputs + self.padded}"
        )
        return self

    def as_json(self) -> dict[str, str | int]:
        """The balanced fields as plain JSON data."""
        return asdict(self.balance())
