"""The sections that image recipes share: pictures, the classifier that looks at them, scores, sheets, export."""

from typing import Literal

from pipeline.run.config import Section, Training, what

Source = Literal["digits", "stacked_digits", "fashion_mnist", "folder", "parquet", "datasets"]


class Images(Section):
    """Where pictures come from, and the size that all of them are brought to."""

    source: Source = what(
        ...,
        "digits: scikit-learn's, 8 x 8; stacked_digits: three of them as colours, 1,000 classes; fashion_mnist: its "
        "Debian package; folder: image files, a sub-folder a class; parquet; datasets: a name that `datasets` loads",
    )
    path: str | None = what(
        None,
        "folder, parquet file or directory, or dataset name; fashion_mnist: a directory with its four idx.gz files",
    )
    split: str = what("train", "datasets only: which split is read")
    image_column: str = what("image", "parquet, datasets: the column of encoded pictures")
    label_column: str | None = what(
        "label", "parquet, datasets: the column of classes; null: no labels, of a folder either"
    )
    image_size: int = what(..., "pixels a side after preparation", ge=4)
    channels: Literal[1, 3] = what(..., "1: grey, 3: red, green, blue")
    on_size: Literal["error", "crop"] = what(
        "error", "pictures of another size: refuse them, or scale the shorter side and crop the centre"
    )
    on_bad_row: Literal["error", "skip"] = what(
        "error", "pictures that cannot be used: refuse, or count and list"
    )
    held_out: float = what(
        0.1, "share of pictures held out, by a hash of the key; fashion_mnist has its own", gt=0, lt=1
    )
    max_images: int | None = what(
        None, "pictures of each split at most; stacked_digits: of both together, 20,000 by default", ge=1
    )
    left_out_class: str | None = what(None, "a class that is kept out of training, and stays held out")
    licence: str | None = what(None, "SPDX identifier of the pictures; known for the sources with a name")


class Classifier(Training):
    """The network that is trained on the training split, whose features the scores look at."""

    channels: int = what(32, "feature maps of its first layer", ge=1)
    features: int = what(64, "numbers of its last hidden layer, the features", ge=2)


class ImageScores(Section):
    """What is measured of generated pictures."""

    samples: int = what(1000, "pictures drawn from each sampler, and real ones beside them", ge=10)
    features: tuple[Literal["classifier", "efficientnet_lite0"], ...] = what(
        ("classifier",), "networks in whose features distances are taken"
    )
    neighbours: int = what(5, "k of precision, recall, density and coverage", ge=1)
    resamples: int = what(200, "resamples behind an interval", ge=20)


class Sheets(Section):
    """The pictures that are drawn for people."""

    samples: int = what(100, "pictures on a sheet; picture i has seed `seed + i`", ge=1)
    seed: int = what(0, "seed of the first picture", ge=0)


class Anomaly(Section):
    """Is a class that training never saw told apart by its likelihood, or a bound of it?"""

    pictures: int = what(1000, "held-out pictures scored", ge=20)
    resamples: int = what(200, "bootstrap resamples behind an interval", ge=20)


class Utility(Section):
    """Train on synthetic pictures, test on real ones, against real-only training and classical augmentation."""

    seeds: int = what(5, "classifiers trained for each set of pictures", ge=1)
    samples: int | None = what(None, "synthetic pictures; none: as many as real ones", ge=1)
    real: int | None = what(None, "real pictures that are trained on; none: all", ge=1)
    max_steps: int = what(600, "optimizer steps of each classifier", ge=1)
    flip: bool = what(
        False, "augmentation mirrors pictures too; false where left and right differ in meaning"
    )


class ImageExport(Section):
    """What is published."""

    licence: str = what(..., "SPDX identifier of the weights")
    pictures: int = what(16, "pictures by which the export is compared with the live model", ge=1)
