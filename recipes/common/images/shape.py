"""What pictures decide about a net that looks at them or makes them."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.train.recipe import Batch
    from recipes.common.images.dataset import PreparedImages


@dataclass(frozen=True)
class Shape:
    """image_size: pixels a side; channels: 1 or 3; classes: 0 without labels, or where they are not used."""

    image_size: int
    channels: int
    classes: int

    @classmethod
    def of(cls, images: "PreparedImages") -> "Shape":
        return cls(images.images.shape[1], images.images.shape[3], len(images.classes))

    def blank(self, count: int) -> "Batch":
        """`count` black pictures of class 0, as a prepared split gives them."""
        import torch

        pictures = torch.zeros(count, self.image_size, self.image_size, self.channels, dtype=torch.uint8)
        return {"image": pictures, "label": torch.zeros(count, dtype=torch.int64)}
