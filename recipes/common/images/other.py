"""Pictures of another data set, brought to the size and the channels of a recipe's own."""

from typing import TYPE_CHECKING

from recipes.common.images.config import Images, OtherPictures

if TYPE_CHECKING:
    import numpy as np


def images_of(own: Images, other: OtherPictures) -> Images:
    """The settings that read `other` as `own` is read: scaled where its size differs, what cannot be used left out."""
    settled = {"left_out_class": None, "on_bad_row": "skip", "max_images": None, "licence": None}
    fit = "crop" if own.on_size == "error" else own.on_size
    return own.model_copy(update={**settled, "on_size": fit, **other.model_dump()})


def read(images: Images, count: int) -> "np.ndarray":
    """The first `count` held-out pictures, or as many as there are, uint8 (N, S, S, C).

    Raises:
        UserError: there is none that can be used.
    """
    import numpy as np

    from pipeline.data.rows import BadRow
    from pipeline.run.errors import UserError
    from recipes.common.images.prepare import HELD_OUT, choose, pixels_of
    from recipes.common.images.readers import open_source
    from recipes.common.ledger import Record
    from recipes.common.order import rank

    source, record, found = open_source(images), Record(), []
    rows, _ = choose(source, images.model_copy(update={"max_images": count}), HELD_OUT)
    for row, content in zip(rows, source.read(rows), strict=True):
        try:
            found.append((rank(row), pixels_of(row, content, images, record)))
        except BadRow as bad:
            record.skip_or_raise(row, bad, images.on_bad_row)
    if not found:
        raise UserError(
            f"anomaly.other: no picture of {images.source} can be used, of {len(rows)} that are held out\n"
            "way out: another anomaly.other.path or source"
        )
    return np.stack([pixels for _, pixels in sorted(found, key=lambda pair: pair[0])])
