"""What a published music model has beside its weights, and the check that it plays alone."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.run.files import write_json
from pipeline.run.stage import Context

if TYPE_CHECKING:
    from recipes.common.card import About

FILE, WORDS = "play.py", 64
TAGS = {"pipeline_tag": "text-generation", "library_name": "transformers", "tags": ["music", "midi"]}


def write(context: Context) -> dict[str, int]:
    """Write miditok.json, music.json and play.py; play.py alone writes the live model's likeliest words.

    Raises:
        RuntimeError: it writes others.
    """
    from recipes.common.alone import run_alone
    from recipes.common.symbols.model import Decoder
    from recipes.music import play, words

    config, out = context.config, context.out
    words.save(config.data, out)
    write_json(out / "music.json", words.settings_of(config.data))
    (out / FILE).write_text(Path(play.__file__).read_text(encoding="utf-8"), encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        midi = Path(folder) / "piece.mid"
        found = run_alone(out, FILE, str(midi), "--greedy", "--words", str(WORDS)).split()
        size = midi.stat().st_size
    wanted = greedy(Decoder.load(context.inputs["train"] / "model"))
    if found != wanted:
        raise RuntimeError(f"{FILE} writes other words than the live model: {found[:8]}, not {wanted[:8]}")
    return {"words_equal": len(found), "midi_bytes": size}


def greedy(decoder: Any) -> list[str]:
    """The live model's likeliest words."""
    from pipeline.lm.decoding import sample
    from recipes.music.words import BAR

    new = sample(decoder.model, decoder.tokenizer, decoder.ids(BAR), WORDS, None, 1.0, 0)
    return [BAR, *decoder.tokenizer.decode(new, skip_special_tokens=True).split()]


def about(context: Context, measured: dict[str, Any]) -> "About":
    """What the card says."""
    from pipeline.publish.model_card import fenced
    from recipes.common.card import About, checks
    from recipes.music.pieces import BACH, LICENCES

    data = context.config.data
    code = f"pip install torch transformers miditok\npython {FILE} piece.mid --seed 1"
    said = f" For the chorales, {BACH}." if data.source == "bach" else ""
    text = (
        f"Loaded in a fresh process; `{FILE}` was run where no module of ours could be imported, and wrote the live "
        "model's likeliest words."
    )
    return About(
        kind=f"music in miditok's REMI words ({data.scheme})",
        shown=f"It writes pieces bar by bar, goes on with one, and fills bars in (`Fill_Before`, `Fill_Behind`, "
        f"`Fill_Middle`).{said}",
        use=fenced(code, "sh"),
        tags=TAGS,
        classes=(),
        licence=data.licence or LICENCES.get(data.source),
        checked=checks(text, measured),
    )
