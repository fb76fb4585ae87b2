"""Stage `sample`: held-out sources with what the model writes, and what stands there."""

from typing import Any

from pipeline.run.files import write_json
from pipeline.run.stage import Context
from recipes.seq2seq.config import Seq2SeqConfig


def check(config: Seq2SeqConfig) -> None:
    """Nothing here can be refused beyond the schema."""


def run(context: Context) -> dict[str, Any]:
    """Write samples.json."""
    from recipes.seq2seq.decode import translated
    from recipes.seq2seq.evaluate import held_out, opened

    config = context.config
    sources, references = (side[: config.sample.samples] for side in held_out(context.inputs["prepare"]))
    model, tokenizers = opened(context.inputs["train"], context.inputs["tokenize"])
    written = translated(model, tokenizers, sources, config.decoding)
    rows = zip(sources, written, references, strict=True)
    samples = [
        {"kind": "held-out pair", "prompt": f"{source}\n", "text": text, "reference": reference}
        for source, text, reference in rows
    ]
    write_json(context.out / "samples.json", samples)
    return {"pairs": len(samples)}


if __name__ == "__main__":
    from pipeline.run.stage import main

    main("sample")
