"""Stage `sample`: a page of held-out pictures, what the model says of each, and what is true."""

from typing import Any

from pipeline.run.stage import Context
from recipes.captioning.config import CaptioningConfig

SHOWING = """
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(19rem, 1fr)); gap: .7rem; }
.picture { background: var(--panel); border-radius: 8px; padding: .6rem; display: flex; gap: .8rem; margin: 0; }
.picture img { image-rendering: pixelated; width: 96px; height: 96px; display: block; flex: none; }
.picture dl { margin: 0; font-size: .85rem; } .picture dt { color: var(--soft); font-size: .72rem; }
.picture dd { margin: 0 0 .25rem; } .picture.right dd.said { font-weight: 600; }
"""


def check(config: CaptioningConfig) -> None:
    """Nothing here can be refused beyond the schema."""


def run(context: Context) -> dict[str, Any]:
    """Write page.html and captions.json."""
    import numpy as np

    from pipeline.publish.html.element import element, page
    from pipeline.publish.html.style import STYLE
    from pipeline.run.files import write_json
    from recipes.captioning.describe import written
    from recipes.captioning.evaluate import same
    from recipes.captioning.model import DIRECTORY, load
    from recipes.captioning.processor import Eyes
    from recipes.common.images.dataset import PreparedImages
    from recipes.common.images.figures import image

    config, inputs = context.config, context.inputs
    held_out = PreparedImages.open(inputs["prepare"], "held_out")
    count = min(config.sample.pictures, len(held_out.labels))
    pictures = np.asarray(held_out.images[:count])
    own = [held_out.classes[label] for label in held_out.labels[:count]]
    said = written(load(inputs["train"] / DIRECTORY), Eyes(inputs["processor"]), pictures, config.decoding)
    cards, scenes = [], config.data.source == "scenes"
    for picture, one, other in zip(pictures, said, own, strict=True):
        told = [
            *(element("dt", "says"), element("dd", one or "nothing", class_="said")),
            *(element("dt", "true"), element("dd", other)),
        ]
        right = "picture right" if same(one, other, scenes) else "picture"
        cards.append(element("figure", image(picture, other), element("dl", *told), class_=right))
    body = page(
        "Words from pictures",
        STYLE + SHOWING,
        element("h1", "Words from pictures"),
        element("p", "Pictures that training never saw. What is said in bold is right."),
        element("div", *cards, class_="pictures"),
    )
    (context.out / "page.html").write_text(body, "utf-8")
    write_json(context.out / "captions.json", {"own": own, "said": said})
    return {
        "pictures": count,
        "right": sum(same(one, other, scenes) for one, other in zip(said, own, strict=True)),
    }


if __name__ == "__main__":
    from pipeline.run.stage import main

    main("sample")
