"""Stage `export`: a directory that transformers loads, compared with the live model in a process that has no module of
ours."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.publish.licences import check_licence
from pipeline.run.stage import Context
from recipes.seq2seq.config import Seq2SeqConfig

if TYPE_CHECKING:
    from recipes.common.card import About

FILE = "translate.py"
TAGS = {"pipeline_tag": "translation", "library_name": "transformers", "tags": ["text2text-generation"]}


def check(config: Seq2SeqConfig) -> None:
    """Raises UserError for a licence that is none."""
    check_licence("export.licence", config.export.licence)


def run(context: Context) -> dict[str, Any]:
    """Write the model, its tokenizers, translate.py and the card.

    Raises:
        RuntimeError: the directory alone writes other targets than the live model; nothing is published.
    """
    from recipes.common import card
    from recipes.seq2seq import translate
    from recipes.seq2seq.evaluate import held_out, opened

    config, out = context.config, context.out
    model, tokenizers = opened(context.inputs["train"], context.inputs["tokenize"])
    write(model, tokenizers, config, out)
    (out / FILE).write_text(Path(translate.__file__).read_text(encoding="utf-8"), encoding="utf-8")
    sources, _ = held_out(context.inputs["prepare"])
    sources = [source for source in sources if "\n" not in source][: config.export.pairs]
    context.terminal.write(f"export: {len(sources)} targets by the live model and by {FILE} alone\n")
    measured = compare(alone(out, sources), live(model, tokenizers, sources, config))
    (out / "README.md").write_text(card.render(context, _about(config, measured, sources)), encoding="utf-8")
    return measured


def write(model: Any, tokenizers: Any, config: Seq2SeqConfig, out: Path) -> None:
    """The directory that AutoModelForSeq2SeqLM and AutoTokenizer load; a second tokenizer below target/."""
    from recipes.seq2seq.decode import arguments

    source, target = tokenizers
    for name, value in arguments(config.decoding).items():
        setattr(model.generation_config, name, value)
    model.save_pretrained(out)
    source.save_pretrained(out)
    if target.get_vocab() != source.get_vocab():
        target.save_pretrained(out / "target")


def live(model: Any, tokenizers: Any, sources: list[str], config: Seq2SeqConfig) -> list[str]:
    """Targets one at a time, in the shapes that a stranger's own call has."""
    import torch

    from recipes.seq2seq.decode import arguments

    source, target = tokenizers
    found = []
    with torch.no_grad():
        for text in sources:
            inputs = source(text, return_tensors="pt")
            (row,) = model.generate(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                **arguments(config.decoding),
            )
            found.append(target.decode(row, skip_special_tokens=True).strip())
    return found


def alone(directory: Path, sources: list[str]) -> list[str]:
    """What the directory's own file writes. Raises RuntimeError where it fails."""
    from recipes.common.alone import run_alone

    return run_alone(directory, FILE, given="".join(f"{source}\n" for source in sources)).splitlines()


def compare(found: list[str], wanted: list[str]) -> dict[str, int]:
    """How many targets were compared; raises RuntimeError where one differs."""
    if found != wanted:
        place = next(
            (i for i, pair in enumerate(zip(found, wanted, strict=False)) if pair[0] != pair[1]), len(found)
        )
        raise RuntimeError(f"the exported directory writes another target {place} than the live model")
    return {"targets_equal": len(found)}


def _about(config: Seq2SeqConfig, measured: dict[str, int], sources: list[str]) -> "About":
    from pipeline.publish.model_card import fenced
    from recipes.common.card import About, checks
    from recipes.seq2seq.pairs import licence_of

    text = f"`{FILE}` was run in a process that could import no module of ours; its targets equal the live model's."
    code = (
        "from transformers import AutoModelForSeq2SeqLM, AutoTokenizer\n\n"
        'tokenizer, model = (kind.from_pretrained(".") for kind in (AutoTokenizer, AutoModelForSeq2SeqLM))\n'
        f'ids = tokenizer({sources[0]!r}, return_tensors="pt").input_ids\n'
        "print(tokenizer.decode(model.generate(ids)[0], skip_special_tokens=True))"
    )
    apart = config.tokenizer is not None and not config.tokenizer.joint
    said = "\n\nTargets have a tokenizer of their own, in `target/`." if apart else ""
    return About(
        kind="texts from texts",
        shown="It writes a target for a source.",
        use=fenced(code, "python") + f"\n\nOr `python {FILE} < sources.txt`, a line each.{said}",
        tags=TAGS,
        classes=(),
        licence=licence_of(config.data),
        checked=checks(text, measured),
    )


if __name__ == "__main__":
    from pipeline.run.stage import main

    main("export")
