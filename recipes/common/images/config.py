"""The sections that image recipes share: pictures, the classifier that looks at them, scores, sheets, export."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from pipeline.run.config import Section, Training, what

Source = Literal["digits", "stacked_digits", "fashion_mnist", "openclipart", "folder", "parquet", "datasets"]
CaptionedSource = Literal["scenes", "emoji", "folder", "parquet", "datasets"]


class Pictures(Section):
    """Where pictures come from, and the size that all of them are brought to."""

    source: str = what(..., "what they are read from")
    path: str | None = what(
        None,
        "folder, parquet file or directory, or dataset name; fashion_mnist: a directory with its four idx.gz files; "
        "openclipart, emoji: one with the package's folders",
    )
    split: str = what("train", "datasets only: which split is read")
    image_column: str = what("image", "parquet, datasets: the column of encoded pictures")
    image_size: int = what(..., "pixels a side after preparation", ge=4)
    channels: Literal[1, 3] = what(..., "1: grey, 3: red, green, blue")
    on_size: Literal["error", "crop", "pad"] = what(
        "error",
        "pictures of another size: refuse them; crop: scale the shorter side and cut the centre out; pad: scale the "
        "longer side and lay it on white",
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
    licence: str | None = what(None, "SPDX identifier of the pictures; known for the sources with a name")


class Images(Pictures):
    """Pictures with a class each, or with none."""

    column_setting: ClassVar[str] = "label_column"
    labels_are: ClassVar[str] = "classes as integers or text"

    source: Source = what(
        ...,
        "digits: scikit-learn's, 8 x 8; stacked_digits: three of them as colours, 1,000 classes; fashion_mnist, "
        "openclipart: their Debian packages; folder: image files, a sub-folder a class; parquet; datasets: a name "
        "that `datasets` loads",
    )
    label_column: str | None = what(
        "label", "parquet, datasets: the column of classes; null: no labels, of a folder either"
    )
    left_out_class: str | None = what(None, "a class that is kept out of training, and stays held out")


class Captioned(Pictures):
    """Pictures with a caption each. To all that reads pictures, a caption is a class."""

    column_setting: ClassVar[str] = "caption_column"
    labels_are: ClassVar[str] = "captions as text"
    left_out_class: ClassVar[None] = None
    noun: ClassVar[str] = "picture"
    text_noun: ClassVar[str] = "caption"

    source: CaptionedSource = what(
        ...,
        "scenes: drawn shapes whose truth is known, 32 pixels and more; emoji: the npm package "
        "emoji-datasource-twitter; folder: image files, captions in metadata.csv or metadata.jsonl (file_name and the "
        "caption's column) or beside each in NAME.txt; parquet; datasets: a name that `datasets` loads",
    )
    caption_column: str = what("text", "the column of captions, of a metadata file too")
    caption: str | None = what(
        None, "folder: one caption for every picture, such as 'a photo of sks dog'", min_length=1
    )

    @property
    def label_column(self) -> str:
        return self.caption_column

    @model_validator(mode="after")
    def _one_caption_of_a_folder(self) -> "Captioned":
        if self.caption is not None and self.source != "folder":
            raise ValueError(f"caption is of source folder; {self.source} has captions of its own")
        return self


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


class OtherPictures(Section):
    """Another data set, whose pictures are brought to the size of the recipe's own."""

    source: Source = what(..., "as in data")
    path: str | None = what(None, "as in data")
    label_column: str | None = what("label", "as in data")
    image_column: str = what("image", "as in data")
    split: str = what("train", "as in data")
    held_out: float = what(0.1, "as in data: the pictures that are held out are those that are scored", gt=0, lt=1)


class Anomaly(Section):
    """Is what training never saw told apart by its likelihood, or a bound of it?"""

    pictures: int = what(1000, "held-out pictures scored, half of them unseen ones", ge=20)
    other: OtherPictures | None = what(
        None, "pictures of another data set are what was never seen; none: data.left_out_class is"
    )
    resamples: int = what(200, "bootstrap resamples behind an interval", ge=20)


class Utility(Section):
    """Train on synthetic pictures, test on real ones, against real-only training and classical augmentation."""

    seeds: int = what(5, "classifiers trained for each set of pictures", ge=1)
    samples: int | None = what(None, "synthetic pictures; none: as many as real ones", ge=1)
    real: int | None = what(None, "real pictures that are trained on; none: all", ge=1)
    shares: tuple[Annotated[float, Field(gt=0, le=1)], ...] = what(
        (1.0,),
        "shares of the real pictures, each by a model that is trained anew on it; 1 alone: by the one that is there",
        min_length=1,
    )
    max_steps: int = what(600, "optimizer steps of each classifier", ge=1)
    flip: bool = what(
        False, "augmentation mirrors pictures too; false where left and right differ in meaning"
    )


class ImageExport(Section):
    """What is published."""

    licence: str = what(..., "SPDX identifier of the weights")
    pictures: int = what(16, "pictures by which the export is compared with the live model", ge=1)
