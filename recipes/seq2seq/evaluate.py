"""Stage `evaluate`: BLEU and chrF of held-out pairs beside copying the source and translating word for word."""

from pathlib import Path
from typing import Any

from pipeline.run.files import write_json
from pipeline.run.results import Score
from pipeline.run.stage import Context
from recipes.seq2seq.config import Decoding, Seq2SeqConfig


def check(config: Seq2SeqConfig) -> None:
    """Raises UserError where sacreBLEU is missing."""
    import importlib.util

    from pipeline.run.errors import UserError

    if importlib.util.find_spec("sacrebleu") is None:
        raise UserError(
            "translations are scored with sacreBLEU\nway out: pip install 'headwater[translation]'"
        )


def run(context: Context) -> dict[str, Any]:
    """Write evaluation.json, and targets.json with what was written for each source."""
    from recipes.seq2seq.scores import WordForWord, repeated_share, scores_of
    from recipes.seq2seq.tokenize import sides_of

    config, settings, inputs = context.config, context.config.evaluate, context.inputs
    sources, references = (side[: settings.pairs] for side in held_out(inputs["prepare"]))
    context.terminal.write(f"evaluate: {len(sources):,} pairs\n")
    model, tokenizers = opened(inputs["train"], inputs["tokenize"])
    from recipes.seq2seq.decode import translated

    ways = {"model": translated(model, tokenizers, sources, config.decoding)}
    if config.decoding.num_beams > 1:
        greedy = Decoding(num_beams=1, max_new_tokens=config.decoding.max_new_tokens)
        ways["model, greedy"] = translated(model, tokenizers, sources, greedy)
    ways["the source, copied"] = sources
    ways["word for word"] = list(
        map(WordForWord(zip(*sides_of(inputs["prepare"], "train"), strict=True)), sources)
    )
    groups = [scores_of(name, written, references, settings.resamples) for name, written in ways.items()]
    scores = [score for column in zip(*groups, strict=True) for score in column]
    scores.append(_repeated("model", repeated_share(ways["model"]), len(sources)))
    scores.append(_repeated("references", repeated_share(references), len(sources)))
    write_json(context.out / "evaluation.json", {"scores": [s.as_json() for s in scores], "missing": {}})
    rows = zip(sources, references, ways["model"], strict=True)
    write_json(context.out / "targets.json", [{"source": s, "reference": r, "target": t} for s, r, t in rows])
    return {score.key: score.value for score in scores}


def _repeated(model: str, value: float, count: int) -> Score:
    from pipeline.scores.intervals import wilson_interval

    protocol = "share of targets that stand for another source as well; Wilson's 95% interval"
    interval = wilson_interval(round(value * count), count)
    return Score("repeated targets", model, value, interval, "", count, protocol, "lower")


def held_out(prepared: Path) -> tuple[list[str], list[str]]:
    """(sources, targets), in the order of a hash: the first n are a fair draw."""
    import hashlib

    from recipes.seq2seq.tokenize import sides_of

    pairs = list(zip(*sides_of(prepared, "held_out"), strict=True))
    pairs.sort(key=lambda pair: hashlib.sha256(f"order/{pair[0]}".encode()).digest())
    return [source for source, _ in pairs], [target for _, target in pairs]


def opened(trained: Path, tokens: Path) -> tuple[Any, Any]:
    """(the model, ready to be used; its two tokenizers)."""
    from recipes.seq2seq import vocabulary
    from recipes.seq2seq.model import MODEL, loaded

    return loaded(trained / MODEL).eval(), vocabulary.load(tokens / "tokenizer")


if __name__ == "__main__":
    from pipeline.run.stage import main

    main("evaluate")
