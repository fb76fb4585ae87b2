"""Stage `export`: a directory that transformers loads, checked against the live model in a fresh process."""

from typing import Any

from pipeline.publish.licences import check_licence
from pipeline.run.stage import Context
from recipes.common.stages import family_module

PROMPTS, BEGINNING = 4, 12  # greedy texts that are compared, and the words that they begin with


def check(config: Any) -> None:
    """Raises UserError for a licence that is none."""
    check_licence("export.licence", config.export.licence)


def run(context: Context) -> dict[str, Any]:
    """Write the model, its tokenizer, what the family adds, and the card.

    Returns:
        what the check in a fresh process measured, and what the family's own did.

    Raises:
        UserError: as bfloat16 the model differs by more than export.bf16_logit_bound.
        RuntimeError: the directory does not equal the live model; nothing is published.
    """
    from itertools import islice

    from pipeline.export import check_afresh, refuse, write_model
    from pipeline.lm.config import Generate
    from pipeline.lm.model import load_tokenizer
    from recipes.common import card
    from recipes.common.symbols.tokenize import texts

    config, out, live = context.config, context.out, context.inputs["train"] / "model"
    how = config.decoding
    write_model(live, out, Generate(temperature=how.temperature, top_p=how.top_p))
    tokenizer = load_tokenizer(out)
    ids = [
        tokenizer(text, add_special_tokens=False)["input_ids"][:BEGINNING]
        for text in islice(texts(context.inputs["prepare"], "held_out"), PROMPTS)
    ]
    prompts = [tokenizer.decode(each) for each in ids]
    verdict = check_afresh(out, live, None, config.export.bf16_logit_bound, prompts)
    refuse(verdict)
    exported = family_module(config, "exported")
    measured = verdict["measured"] | exported.write(context)
    about = exported.about(context, measured)
    (out / "README.md").write_text(card.render(context, about), encoding="utf-8")
    return measured


if __name__ == "__main__":
    from pipeline.run.stage import main

    main("export")
