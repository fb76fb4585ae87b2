"""Stage `features`: the classifier that is trained on the training split, and the networks that scores look through."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.run.errors import UserError
from pipeline.run.files import write_json
from pipeline.run.launch import check_launch
from pipeline.run.stage import Context
from recipes.common.images.config import Images
from recipes.common.images.prepare import why_unlabelled

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from pipeline.run.memory import Size
    from recipes.common.images.config import Classifier
    from recipes.common.images.dataset import PreparedImages
    from recipes.common.images.shape import Shape
    from recipes.common.scores.classifier import ConvolutionalNet

CHUNK = 250  # pictures a forward
WEIGHTS, NETWORK = "classifier.safetensors", "network.json"


@dataclass(frozen=True)
class FeatureNetwork:
    """A network with a feature layer and classes.

    name: as it stands in a score's name; what: what it is, with its published accuracy; accuracy: share of `count`
    held-out pictures; features: uint8 (B, H, W, C) -> fp32 (B, D); logits: (B, D) -> (B, K); chunk: pictures a forward;
    tells_classes: its classes are those of the data; cheap: it may look at every training picture.
    """

    name: str
    what: str
    accuracy: float
    count: int
    features: Callable[["Tensor"], "Tensor"]
    logits: Callable[["Tensor"], "Tensor"]
    chunk: int = CHUNK
    tells_classes: bool = True
    cheap: bool = True

    def __call__(self, pictures: "np.ndarray") -> "np.ndarray":
        """uint8 (N, H, W, C) -> fp32 (N, D): the same features whatever pictures are beside one."""
        import numpy as np
        import torch

        # A product's rounding depends on its rows: every chunk has as many.
        rows = -len(pictures) % self.chunk
        found = []
        with torch.inference_mode():
            for start in range(0, len(pictures), self.chunk):
                part = np.asarray(pictures[start : start + self.chunk])
                if len(part) < self.chunk:
                    part = np.concatenate([part, np.repeat(part[:1], rows, axis=0)])
                found.append(self.features(torch.tensor(part)).float().cpu().numpy())
        return np.concatenate(found)[: len(pictures)]

    def classes_of(self, features_ND: "np.ndarray") -> "np.ndarray":
        """The likeliest class of each row of features, int64 (N,)."""
        import torch

        with torch.inference_mode():
            return self.logits(torch.from_numpy(features_ND)).argmax(dim=1).cpu().numpy()


def check(config: Any) -> None:
    """Raises UserError for data without labels, batches that do not divide and a launch file that does not fit."""
    from recipes.common.scores.classifier import ZERO_STAGES

    check_labels(config.data, "features")
    check_launch(config.run, config.features, ZERO_STAGES, config.features)


def check_labels(data: Images, stage: str) -> None:
    """Raises UserError where the settings alone say that pictures have no labels."""
    where = why_unlabelled(data)
    if where:
        raise UserError(
            f"{stage} trains a classifier, and {where}: pictures without labels\n{WAY_OUT[stage]}"
        )


WAY_OUT = {
    "features": "way out: no section `features:`, and evaluate.features=[efficientnet_lite0]",
    "utility": "way out: no section `utility:`, or data with labels",
}


def require_labels(train: "PreparedImages", stage: str) -> None:
    """Raises UserError where prepared pictures have fewer than two classes."""
    if len(train.classes) < 2:
        raise UserError(
            f"{stage} trains a classifier, and the pictures have {len(train.classes)} classes\n{WAY_OUT[stage]}"
        )


def estimate(config: Any) -> "Size":
    """What the classifier holds; the classes of a user's own data are known once they are prepared, so 10 stand in."""
    from recipes.common.estimate import size_of
    from recipes.common.images.shape import Shape
    from recipes.common.scores.classifier import ImageClassifier

    data = config.data
    shape = Shape(data.image_size, data.channels, 1000 if data.source == "stacked_digits" else 10)
    return size_of(ImageClassifier(config.features, shape), "model", config.run)


def run(context: Context) -> dict[str, Any]:
    """Write classifier.safetensors and network.json; its accuracy is that of the file, on every held-out picture."""
    from pipeline.train.engine import start_runtime, stop_runtime
    from pipeline.train.fit import fit
    from recipes.common.images.dataset import PreparedImages
    from recipes.common.images.shape import Shape
    from recipes.common.scores.classifier import ImageClassifier, of_learnt_classes

    config, prepared = context.config.features, context.inputs["prepare"]
    train, held_out = (PreparedImages.open(prepared, split) for split in ("train", "held_out"))
    require_labels(train, "features")
    held_out = of_learnt_classes(held_out, train)
    shape = Shape.of(train)
    runtime = start_runtime(context.config.run.threads, timeout=context.config.run.timeout)
    trainer = fit(ImageClassifier(config, shape, train, held_out), context, runtime)
    weights = trainer.weights("model", ema=bool(config.ema_decay))
    metrics = publish(context.out, weights, shape, config, held_out) if runtime.is_main else {}
    stop_runtime()
    return metrics


def publish(
    out: Path,
    weights: dict[str, "Tensor"],
    shape: "Shape",
    config: "Classifier",
    held_out: "PreparedImages",
) -> dict[str, Any]:
    """Write both files; the accuracy is measured on the network as others load it.

    The features' scale is a matter of chance, and the kernel distance depends on it: it is fixed to a mean square of 1.
    """
    from safetensors.torch import save_file

    # Nets whose memory is channels-last give weights that safetensors takes in the other order only.
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, out / WEIGHTS)
    facts = {**vars(shape), "width": config.channels, "features": config.features, "feature_scale": 1.0}
    facts |= {"accuracy": 0.0, "held_out": len(held_out.labels)}
    write_json(out / NETWORK, facts)
    network = load_features(out)
    features = network(held_out.images)
    right = network.classes_of(features) == held_out.labels
    metrics = {"accuracy": float(right.mean()), "held_out": len(right)}
    scale = float((features.astype("float64") ** 2).mean() ** -0.5)
    write_json(out / NETWORK, facts | metrics | {"feature_scale": scale})
    return metrics


def load_features(directory: Path) -> FeatureNetwork:
    """The classifier of a published `features` artifact, on the GPU where there is one."""
    import torch

    from recipes.common.images.pixels import to_unit

    facts = json.loads((directory / NETWORK).read_text())
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    net = _load(directory / WEIGHTS, facts).to(device)
    share, count, scale = facts["accuracy"], facts["held_out"], facts["feature_scale"]
    return FeatureNetwork(
        name="classifier",
        what=f"the {facts['features']} features before the last layer of a classifier trained on the training split, "
        f"right on {share:.1%} of {count:,} held-out pictures, scaled to a mean square of 1 on these",
        accuracy=share,
        count=count,
        features=lambda pictures: net.features(to_unit(pictures.to(device))) * scale,
        logits=lambda features: net.classes(features.to(device) / scale),
    )


def _load(path: Path, facts: dict[str, Any]) -> "ConvolutionalNet":
    import torch
    from safetensors.torch import load_file

    from recipes.common.images.shape import Shape
    from recipes.common.scores.classifier import ConvolutionalNet

    shape = Shape(facts["image_size"], facts["channels"], facts["classes"])
    net = ConvolutionalNet(shape, facts["width"], facts["features"])
    net.load_state_dict(load_file(path))
    return net.eval().requires_grad_(False).to(memory_format=torch.channels_last)


if __name__ == "__main__":
    from pipeline.run.stage import main

    main("features")
