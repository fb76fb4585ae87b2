"""Stage `export`: a directory that transformers loads, whose answers in a fresh process are the live model's."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.publish.licences import check_licence
from pipeline.run.files import write_json
from pipeline.run.stage import Context
from recipes.vision_chat.config import VisionChatConfig

if TYPE_CHECKING:
    from recipes.common.card import About
    from recipes.vision_chat.chatter import Sight

EXAMPLES, FILE = "examples", "answer.py"
TAGS = {"library_name": "transformers", "pipeline_tag": "image-text-to-text"}


def check(config: VisionChatConfig) -> None:
    """Raises UserError for a licence that is none."""
    check_licence("export.licence", config.export.licence)


def run(context: Context) -> dict[str, Any]:
    """Write the model, its processor, answer.py, examples/ and the card.

    Raises:
        RuntimeError: the directory alone answers otherwise than the live model; nothing is published.
    """
    from recipes.captioning.model import DIRECTORY, load
    from recipes.common import card
    from recipes.common.alone import compare
    from recipes.vision_chat.chatter import Sight
    from recipes.vision_chat.prepare import Talks

    config, inputs, out = context.config, context.inputs, context.out
    model, sight = load(inputs["train"] / DIRECTORY), Sight(inputs["tokenize"], config.data.longest_side)
    talks = Talks(inputs["prepare"], "held_out")
    rows = range(min(config.export.rows, len(talks)))
    question = question_of(talks.messages[0])
    pictures = [talks.pictures(row)[0] for row in rows]
    write(model, sight, config, out)
    (out / EXAMPLES).mkdir()
    files = write_examples(pictures, out)
    said = live(model, sight, question, pictures, config)
    measured = {"answers_equal": compare(said_afresh(out, question, files), said)}
    write_json(out / EXAMPLES / "answers.json", {"question": question, **dict(zip(files, said, strict=True))})
    (out / "README.md").write_text(card.render(context, _about(config, measured, question, said[0])), "utf-8")
    return measured


def question_of(messages: list[dict[str, str]]) -> str:
    """The words of the first question, without its pictures."""
    from pipeline.data.template import PICTURE

    first = next(message for message in messages if message["role"] == "user")
    return " ".join(first["content"].replace(PICTURE, " ").split()) or "What is this?"


def write_examples(pictures: list[bytes], out: Path) -> list[str]:
    """Each as a PNG; their names below `out`."""
    from recipes.vision_chat.rows import opened

    files = [f"{EXAMPLES}/{number}.png" for number in range(len(pictures))]
    for file, picture in zip(files, pictures, strict=True):
        opened(picture).save(out / file)
    return files


def write(model: Any, sight: "Sight", config: VisionChatConfig, out: Path) -> None:
    """The directory that AutoModelForImageTextToText and AutoProcessor load, answer.py and its settings."""
    from recipes.vision_chat import alone
    from recipes.vision_chat.encode import PicturedEncoder
    from recipes.vision_chat.replies import ends_of

    ends = ends_of(PicturedEncoder(sight.processor), sight)
    for name, value in ends.items():
        setattr(model.generation_config, name, value)
    model.save_pretrained(out)
    sight.processor.save_pretrained(out)
    generation = {"max_new_tokens": config.decoding.max_new_tokens, **ends}
    write_json(out / "answer.json", {"longest_side": sight.longest_side, "generation": generation})
    (out / FILE).write_text(Path(alone.__file__).read_text("utf-8"), "utf-8")


def live(
    model: Any, sight: "Sight", question: str, pictures: list[bytes], config: VisionChatConfig
) -> list[str]:
    """Answers one at a time, in the shapes that a stranger's own call has."""
    from pipeline.data.template import PICTURE
    from recipes.vision_chat.replies import replies

    asked = [{"role": "user", "content": f"{PICTURE}{question}"}]
    one = config.decoding.model_copy(update={"batch_size": 1})
    return [replies(model, sight, [(asked, [picture])], one)[0] for picture in pictures]


def said_afresh(directory: Path, question: str, files: list[str]) -> list[str]:
    """What answer.py says, in a process that has no module of ours. Raises RuntimeError where it fails."""
    from recipes.common.alone import run_alone

    return json.loads(run_alone(directory, FILE, question, *files))


def _about(config: VisionChatConfig, measured: dict[str, int], question: str, said: str) -> "About":
    from pipeline.publish.model_card import fenced
    from recipes.common.card import About, checks

    use = f"python {FILE} {question!r} PICTURE ...     # with transformers and pillow alone"
    text = f"`{FILE}` in a fresh process answered about `{EXAMPLES}/` as the live model does."
    return About(
        kind="answers about pictures",
        shown=f"![a picture]({EXAMPLES}/0.png)\n\n{question}\n\n> {said}",
        use=fenced(use, "sh"),
        tags=TAGS,
        classes=(),
        licence=config.data.licence,
        checked=checks(text, measured),
    )


if __name__ == "__main__":
    from pipeline.run.stage import main

    main("export")
