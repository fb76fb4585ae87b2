"""What a published molecule model has beside its weights, and the check that it draws alone."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.run.files import write_json
from pipeline.run.stage import Context

if TYPE_CHECKING:
    from recipes.common.card import About

FILE = "draw.py"
TAGS = {"pipeline_tag": "text-generation", "library_name": "transformers", "tags": ["chemistry", "molecules"]}


def write(context: Context) -> dict[str, int]:
    """Write molecules.json, what may be asked for, and draw.py; draw.py alone draws the live model's likeliest ones.

    Raises:
        RuntimeError: it draws others.
    """
    from recipes.common.alone import run_alone
    from recipes.common.symbols.model import Decoder
    from recipes.molecules import draw
    from recipes.molecules.sample import edges
    from recipes.molecules.words import asking

    data, out = context.config.data, context.out
    bins = edges(context.inputs["prepare"])
    write_json(out / "molecules.json", {"notation": data.notation, "bins": bins, "scaffold": data.scaffold})
    (out / FILE).write_text(Path(draw.__file__).read_text(encoding="utf-8"), encoding="utf-8")
    asked = ["", *(asking(name, data.bins - 1) for name in data.properties)]
    found = [run_alone(out, FILE, "--greedy", "--ask", ask).strip() for ask in asked]
    wanted = likeliest(Decoder.load(context.inputs["train"] / "model"), asked, context)
    if found != wanted:
        raise RuntimeError(f"{FILE} draws other molecules than the live model: {found}, not {wanted}")
    return {"molecules_equal": len(found)}


def likeliest(decoder: Any, asked: list[str], context: Context) -> list[str]:
    """The live model's likeliest molecules."""
    from pipeline.lm.decoding import sample
    from recipes.molecules.words import smiles_of

    found = []
    for ask in asked:
        ids = decoder.ids(ask)
        most = decoder.model.config.max_position_embeddings - len(ids)
        new = sample(decoder.model, decoder.tokenizer, ids, most, None, 1.0, 0)
        text = decoder.tokenizer.decode(new, skip_special_tokens=True)
        found.append(smiles_of(text, context.config.data))
    return found


def about(context: Context, measured: dict[str, Any]) -> "About":
    """What the card says."""
    from pipeline.publish.model_card import fenced
    from recipes.common.card import About, checks
    from recipes.molecules.reading import LICENCES

    data = context.config.data
    asked = f' --ask "<{data.properties[0]}:{data.bins - 1}>"' if data.properties else ""
    package = " selfies" if data.notation == "selfies" else ""
    code = f"pip install torch transformers{package}\npython {FILE} --count 8{asked}"
    text = (
        f"Loaded in a fresh process; `{FILE}` was run where no module of ours could be imported, and drew the live "
        "model's likeliest molecules."
    )
    said = (
        " `molecules.json` has the values between the bins that may be asked for." if data.properties else ""
    )
    return About(
        kind=f"molecules in {data.notation.upper()}",
        shown=f"It draws molecules.{said} None of them was made or tested: the model knows no hazard.",
        use=fenced(code, "sh"),
        tags=TAGS,
        classes=(),
        licence=data.licence or LICENCES.get(data.source),
        checked=checks(text, measured),
    )
