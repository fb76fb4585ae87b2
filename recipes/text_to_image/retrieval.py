"""Stage `retrieval`: the two nets that tell which caption belongs to a picture, and what scores see through them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.run.launch import check_launch
from pipeline.run.stage import Context
from recipes.common.training import NETS
from recipes.diffusion.config import ZERO_STAGES
from recipes.text_to_image.config import TextToImageConfig

if TYPE_CHECKING:
    import numpy as np

    from pipeline.run.memory import Size
    from recipes.common.scores.features import FeatureNetwork
    from recipes.text_to_image.captions import Captions
    from recipes.text_to_image.dual import DualNet

CHUNK = 250  # pictures or captions of one forward, always
AMONG = 100  # captions that a picture's own is found among, and pictures that a caption's own is


def check(config: TextToImageConfig) -> None:
    """Raises UserError for batches that do not divide and a launch file that does not fit."""
    check_launch(config.run, config.retrieval, ZERO_STAGES, config.retrieval)


def estimate(config: TextToImageConfig) -> "Size":
    """What the nets hold; the words of a vocabulary are known once the pictures are prepared."""
    from recipes.common.estimate import size_of
    from recipes.common.images.shape import Shape
    from recipes.text_to_image.captions import Captions
    from recipes.text_to_image.dual import DualEncoder

    shape = Shape(config.data.image_size, config.data.channels, 0)
    return size_of(DualEncoder(config.retrieval, shape, Captions.blank(config.text)), "model", config.run)


def run(context: Context) -> dict[str, Any]:
    """Write model.safetensors and nets.json."""
    from recipes.common.images.dataset import PreparedImages
    from recipes.common.images.shape import Shape
    from recipes.common.training import train
    from recipes.text_to_image.captions import Captions
    from recipes.text_to_image.dual import DualEncoder

    settings, prepared = context.config.retrieval, context.inputs["prepare"]
    captions = Captions.open(context.inputs["captions"])
    pictures, held = (PreparedImages.open(prepared, split) for split in ("train", "held_out"))
    return train(DualEncoder(settings, Shape.of(pictures), captions, pictures, held), context)


@dataclass(frozen=True)
class Retriever:
    """net: in memory, with the weights of a published `retrieval` artifact."""

    net: "DualNet"

    def of_pictures(self, pictures: "np.ndarray") -> "np.ndarray":
        """uint8 (N, H, W, C) -> rows of length 1, fp32 (N, E): the same whatever stands beside a picture."""
        from recipes.common.images.pixels import to_unit

        return self._rows(lambda part: self.net.of_pictures(to_unit(part)), pictures)

    def of_captions(self, captions: "Captions", labels: "np.ndarray") -> "np.ndarray":
        """Rows of length 1, fp32 (N, E)."""
        return self._rows(self.net.of_captions, captions.ids[labels], captions.mask[labels])

    def _rows(self, seen: Any, *arrays: "np.ndarray") -> "np.ndarray":
        import numpy as np
        import torch

        device, count, found = next(self.net.parameters()).device, len(arrays[0]), []
        for start in range(0, count, CHUNK):
            rows = (
                np.arange(start, start + CHUNK) % count
            )  # always as many: a product's rounding depends on them
            with torch.inference_mode():
                found.append(
                    seen(*[torch.from_numpy(array[rows]).to(device) for array in arrays]).cpu().numpy()
                )
        return np.concatenate(found)[:count]


def load_retriever(directory: Path) -> Retriever:
    """The nets of a published `retrieval` artifact, on the GPU where there is one."""
    import torch

    from recipes.common.images.shape import Shape
    from recipes.text_to_image.dual import DualNet
    from recipes.text_to_image.encoder import load_weights

    facts = json.loads((directory / NETS).read_text("utf-8"))
    shape = Shape(facts["image_size"], facts["image_channels"], 0)
    net = DualNet(shape, facts["vocabulary"], facts["channels"], facts["features"])
    file = directory / "model_ema.safetensors"
    load_weights(net, file if file.is_file() else directory / "model.safetensors")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return Retriever(net.eval().requires_grad_(False).to(device))


def network_of(retriever: Retriever, prepared: Path) -> "FeatureNetwork":
    """The picture net as what distances are taken in; its features' scale is a matter of chance, and is fixed."""
    import torch

    from recipes.common.images.dataset import PreparedImages
    from recipes.common.images.pixels import to_unit
    from recipes.common.scores.features import FeatureNetwork

    device = next(retriever.net.parameters()).device
    pictures = retriever.net.pictures
    held_out = torch.tensor(PreparedImages.open(prepared, "held_out").images[:CHUNK])
    with torch.inference_mode():
        scale = float(pictures.features(to_unit(held_out.to(device))).double().square().mean() ** -0.5)
    return FeatureNetwork(
        name="retrieval",
        what="the features before the last layer of the picture net that learnt which caption belongs to a training "
        "picture, scaled to a mean square of 1 on held-out ones",
        accuracy=float("nan"),
        count=0,
        features=lambda part: pictures.features(to_unit(part.to(device))) * scale,
        logits=lambda features: pictures.classes(features.to(device) / scale),
        chunk=CHUNK,
        tells_classes=False,
    )


def found_among(rows_NE: "np.ndarray", others_NE: "np.ndarray", labels_N: "np.ndarray") -> "np.ndarray":
    """Whether row i's nearest of the others in its hundred is other i, or one of the same caption; bool (N,)."""
    import numpy as np

    found = np.zeros(len(rows_NE), bool)
    for start in range(0, len(rows_NE), AMONG):
        part = slice(start, start + AMONG)
        nearest = (rows_NE[part] @ others_NE[part].T).argmax(axis=1)
        found[part] = labels_N[part][nearest] == labels_N[part]
    return found


if __name__ == "__main__":
    from pipeline.run.stage import main

    main("retrieval")
