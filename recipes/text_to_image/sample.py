"""Stage `sample`: pictures of held-out captions, or of prompts of one's own, as a sheet and as a page.

Beside every picture stands the training picture that is nearest to it, so that a copy shows.
"""

from typing import TYPE_CHECKING, Any

from pipeline.run.errors import UserError
from pipeline.run.stage import Context
from recipes.text_to_image.config import TextToImageConfig

if TYPE_CHECKING:
    import numpy as np

    from pipeline.publish.html.element import Markup

SHOWING = """
.pictures { display: flex; flex-wrap: wrap; gap: .7rem; }
.picture { background: var(--panel); border-radius: 8px; padding: .45rem; display: grid;
  grid-template-columns: auto auto; gap: .3rem .5rem; align-items: end; margin: 0; }
.picture img { image-rendering: pixelated; width: 96px; height: 96px; display: block; }
.picture img.beside { width: 48px; height: 48px; opacity: .8; }
.picture figcaption { font-size: .75rem; color: var(--soft); }
"""


def check(config: TextToImageConfig) -> None:
    """Nothing here can be refused before the words are known."""


def run(context: Context) -> dict[str, Any]:
    """Write drawn.png (a row a caption), nearest.png (the nearest training pictures in the same places) and page.html.

    Raises:
        UserError: a prompt has a word that no caption had.
    """
    from recipes.common.images.dataset import PreparedImages
    from recipes.common.images.sheet import save_sheet
    from recipes.common.scores.memorisation import nearest_rows
    from recipes.text_to_image.captions import captions_of
    from recipes.text_to_image.retrieval import load_retriever, network_of
    from recipes.text_to_image.sampler import as_bytes, load_net, pipeline_of

    config, inputs = context.config, context.inputs
    settings = config.sample
    pipeline = pipeline_of(config, *load_net(config, inputs["train"]), inputs["train"], config.sampler)
    prompts = list(settings.prompts) or captions_of(inputs["prepare"], "held_out")[: settings.captions]
    for prompt in settings.prompts:
        require_known(pipeline.tokenizer, prompt, "sample.prompts")
    context.terminal.write(f"sample: {settings.each} pictures of each of {len(prompts)} captions\n")
    asked = [prompt for prompt in prompts for _ in range(settings.each)]
    seeds = list(range(settings.seed, settings.seed + len(asked)))
    pictures = as_bytes(pipeline(asked, seeds=seeds, output_type="np").images)
    train = PreparedImages.open(inputs["prepare"], "train")
    rows_of = network_of(load_retriever(inputs["retrieval"]), inputs["prepare"])
    places = nearest_rows(rows_of(pictures), train.images, rows_of)[0]
    nearest = train.images[places]
    save_sheet(pictures, context.out / "drawn.png", settings.each)
    save_sheet(nearest, context.out / "nearest.png", settings.each)
    captions = [train.classes[label] for label in train.labels[places]]
    (context.out / "page.html").write_text(_page(asked, pictures, nearest, captions, settings), "utf-8")
    return {"captions": len(prompts), "pictures": len(pictures)}


def require_known(tokenizer: Any, prompt: str, where: str) -> None:
    """Raises UserError for a word of a prompt that the encoder has never seen."""
    from recipes.common.words import unknown_words, why_unknown

    unknown = unknown_words(tokenizer, prompt)
    if unknown:
        raise UserError(f"{where}: {why_unknown(tokenizer, unknown[0])}")


def _page(
    asked: list[str], pictures: "np.ndarray", nearest: "np.ndarray", captions: list[str], settings: Any
) -> str:
    from pipeline.publish.html.element import element, page
    from pipeline.publish.html.style import STYLE

    sections = []
    for start in range(0, len(asked), settings.each):
        cards = [
            _card(pictures[place], nearest[place], captions[place], settings.seed + place)
            for place in range(start, start + settings.each)
        ]
        title = element("h2", asked[start] or "no caption")
        sections.append(element("section", title, element("div", *cards, class_="pictures")))
    said = (
        "Drawn from captions that training never saw."
        if not settings.prompts
        else "Drawn from these prompts."
    )
    return page(
        "Pictures from words",
        STYLE + SHOWING,
        element("h1", "Pictures from words"),
        element("p", said + " Beside each, small, stands the training picture that is nearest to it."),
        *sections,
    )


def _card(picture: "np.ndarray", beside: "np.ndarray", caption: str, seed: int) -> "Markup":
    from pipeline.publish.html.element import element
    from recipes.common.images.figures import image

    return element(
        "figure",
        image(picture, f"seed {seed}", None),
        image(beside, f"nearest training picture: {caption}", "beside"),
        element("figcaption", f"seed {seed}"),
        class_="picture",
    )


if __name__ == "__main__":
    from pipeline.run.stage import main

    main("sample")
