"""Stage `sample`: designs of each request as sheets, and a page to choose from.

Beside every design stands the training picture that is nearest to it, so that a copy shows.
"""

from typing import TYPE_CHECKING, Any

from pipeline.run.files import write_json
from pipeline.run.stage import Context
from recipes.design.config import DesignConfig

if TYPE_CHECKING:
    import numpy as np

COMMONEST = 2  # requests of each class, where none are given


def check(config: DesignConfig) -> None:
    """Nothing here can be refused that the stage `attributes` does not refuse."""


def run(context: Context) -> dict[str, Any]:
    """Write designs.png (a row a request), nearest.png (below each row its nearest training pictures), page.html and
    designs.json, by which the verbs find a design.

    Raises:
        UserError: a request that the model does not know.
    """
    import numpy as np

    from recipes.common.images.dataset import PreparedImages
    from recipes.common.images.sheet import save_sheet
    from recipes.design.attributes import Known, check_requests, commonest
    from recipes.design.explore import DESIGNS, Design, drawn
    from recipes.design.page import Shown, page_of
    from recipes.design.sampler import load_pipeline

    config, inputs = context.config, context.inputs
    settings = config.sample
    pipeline, attributes = load_pipeline(config, inputs["train"])
    requests = settings.requests or tuple(commonest(Known.open(inputs["attributes"]), COMMONEST))
    check_requests(config, {one.name: one.values for one in attributes})
    seeds = range(settings.seed, settings.seed + settings.each * len(requests))
    designs = [
        Design({seed: 1.0}, {requests[place // settings.each]: 1.0}) for place, seed in enumerate(seeds)
    ]
    context.terminal.write(f"sample: {len(designs)} designs of {len(requests)} requests\n")
    pictures = drawn(pipeline, attributes, designs)
    train = PreparedImages.open(inputs["prepare"], "train").images
    nearest = train[_nearest(context, pictures, train)]
    save_sheet(pictures, context.out / "designs.png", settings.each)
    pairs = np.stack([_rows(pictures, settings.each), _rows(nearest, settings.each)], axis=1)
    save_sheet(pairs.reshape(-1, *pictures.shape[1:]), context.out / "nearest.png", settings.each)
    write_json(context.out / DESIGNS, [design.as_json() for design in designs])
    shown = [
        Shown(requests[place // settings.each], picture, beside)
        for place, (picture, beside) in enumerate(zip(pictures, nearest, strict=True))
    ]
    page = page_of(config.run.output_dir, attributes, shown)
    (context.out / "page.html").write_text(page, "utf-8")
    return {"designs": len(designs), "requests": len(requests)}


def _nearest(context: Context, pictures: "np.ndarray", train: "np.ndarray") -> "np.ndarray":
    """The place of the nearest training picture: in the classifier's features where there is one, else in pixels."""
    from recipes.common.scores.features import load_features
    from recipes.common.scores.memorisation import as_pixels, nearest_rows

    rows_of = load_features(context.inputs["features"]) if "features" in context.inputs else as_pixels
    return nearest_rows(rows_of(pictures), train, rows_of)[0]


def _rows(pictures: "np.ndarray", each: int) -> "np.ndarray":
    return pictures.reshape(-1, each, *pictures.shape[1:])


if __name__ == "__main__":
    from pipeline.run.stage import main

    main("sample")
