"""Stage `sample`: a page of held-out conversations: pictures, questions, what the model answers, what stands there."""

from typing import Any

from pipeline.run.stage import Context
from recipes.vision_chat.config import VisionChatConfig

SHOWING = """
.talks { display: grid; grid-template-columns: repeat(auto-fill, minmax(26rem, 1fr)); gap: .7rem; }
.talk { background: var(--panel); border-radius: 8px; padding: .7rem; margin: 0; }
.talk img { max-width: 180px; max-height: 180px; margin-right: .4rem; }
.talk dl { margin: .4rem 0 0; font-size: .85rem; } .talk dt { color: var(--soft); font-size: .72rem; }
.talk dd { margin: 0 0 .25rem; white-space: pre-wrap; } .talk dd.said { font-weight: 600; }
"""
THUMBNAIL = 180  # pixels of the longer side


def check(config: VisionChatConfig) -> None:
    """Nothing here can be refused beyond the schema."""


def run(context: Context) -> dict[str, Any]:
    """Write page.html and replies.json."""
    import numpy as np

    from pipeline.data.template import PICTURE
    from pipeline.publish.html.element import element, page
    from pipeline.publish.html.style import STYLE
    from pipeline.run.files import write_json
    from recipes.captioning.model import DIRECTORY, load
    from recipes.common.images.figures import image
    from recipes.vision_chat.chatter import Sight
    from recipes.vision_chat.prepare import Talks
    from recipes.vision_chat.replies import asked_of, replies
    from recipes.vision_chat.rows import opened

    config, inputs = context.config, context.inputs
    talks = Talks(inputs["prepare"], "held_out")
    rows = range(min(config.sample.rows, len(talks)))
    questions = [asked_of(talks.messages[row]) for row in rows]
    asked = [(messages, talks.pictures(row)) for row, (messages, _) in zip(rows, questions, strict=True)]
    sight = Sight(inputs["tokenize"], config.data.longest_side)
    said = replies(load(inputs["train"] / DIRECTORY), sight, asked, config.decoding)
    cards = []
    for (messages, pictures), (_, own), text in zip(asked, questions, said, strict=True):
        shown = [image(np.asarray(opened(one, THUMBNAIL)), "a picture of the row") for one in pictures]
        told = [
            part
            for message in messages
            for part in (
                element("dt", message["role"]),
                element("dd", message["content"].replace(PICTURE, "[picture] ")),
            )
        ]
        told += [element("dt", "the model answers"), element("dd", text or "nothing", class_="said")]
        told += [element("dt", "what stands there"), element("dd", own)]
        cards.append(element("figure", *shown, element("dl", *told), class_="talk"))
    body = page(
        "Conversations about pictures",
        STYLE + SHOWING,
        element("h1", "Conversations about pictures"),
        element("p", "Rows that training never saw, up to their last question."),
        element("div", *cards, class_="talks"),
    )
    (context.out / "page.html").write_text(body, "utf-8")
    write_json(context.out / "replies.json", {"own": [own for _, own in questions], "said": said})
    return {"rows": len(said)}


if __name__ == "__main__":
    from pipeline.run.stage import main

    main("sample")
