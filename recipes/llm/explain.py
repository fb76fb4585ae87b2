"""`headwater explain`: what a run's language model makes of one text, as a page that fetches nothing.

Shapes: T tokens, N layers, H heads.
"""

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.run.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from pipeline.lm.insight import Owed, Reading
    from pipeline.publish.html.element import Markup

MOST_TOKENS = 128  # of the text: attention is drawn place by place
RUN_LENGTH, DOCUMENTS, AROUND = (
    6,
    5,
    24,
)  # tokens that documents must share with the text; shown; tokens around them
STYLE = """
.tokens { line-height: 2.2; } .tokens span { padding: .15rem .05rem; border-radius: 3px; white-space: pre-wrap; }
.maps { display: flex; flex-wrap: wrap; gap: .6rem; } .maps figure { margin: 0; text-align: center; }
.maps img { width: 112px; height: 112px; image-rendering: pixelated; border: 1px solid var(--rule); display: block; }
.maps figcaption { font-size: .7rem; color: var(--soft); }
table.lens td { font-size: .72rem; padding: .1rem .3rem; white-space: pre; }
"""


def write_explained(config: Any, text: str, out: Path) -> str:
    """Write the page.

    Raises:
        UserError: no model; a text of fewer than two tokens, or too long; `out` is there already.
    """
    import torch
    from transformers.utils.logging import disable_progress_bar

    from pipeline.lm import insight
    from pipeline.lm.directory import model_directory
    from pipeline.lm.model import load_model, load_tokenizer
    from recipes.common.drawn import check_new_page

    if importlib.util.find_spec("PIL") is None:
        raise UserError("explain draws maps with pillow\nway out: pip install 'headwater[explain]'")
    check_new_page(out)
    run = Path(config.run.output_dir)
    directory = model_directory(run)
    disable_progress_bar()
    tokenizer = load_tokenizer(directory)
    model = load_model(directory, attention="eager").to("cuda" if torch.cuda.is_available() else "cpu")
    ids = tokenizer(text)["input_ids"]
    if not 2 <= len(ids) <= MOST_TOKENS:
        raise UserError(
            f"the text has {len(ids)} tokens\nexpected: 2 to {MOST_TOKENS}\nway out: another text"
        )
    ids_T = torch.tensor(ids, device=model.device)
    reading = insight.read(model, ids_T)
    baseline = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else 0
    owed = insight.integrated_gradients(model, ids_T[:-1], int(ids_T[-1]), baseline)
    induction = insight.induction_scores(model, len(tokenizer))
    names = [tokenizer.decode([one]) for one in ids]
    near = _documents(run, tokenizer, ids)
    page = _page(run.name, tokenizer, names, reading, owed, induction, near)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page, "utf-8")
    mean = float(reading.surprisal.mean())
    return f"{out}: {len(ids)} tokens, {mean:.2f} nats each; what the last is owed to adds up within {owed.gap:.1%}"


def _documents(run: Path, tokenizer: Any, ids: list[int]) -> list[tuple[int, int, str]] | None:
    """(document, shared runs, what stands there) of training documents that are nearest; None: there are no documents,
    as where a run learnt conversations alone."""
    import numpy as np

    from pipeline.data.shards import Shard
    from pipeline.lm.insight import nearest_documents

    if not (run / "tokenize/documents.train.json").is_file():
        return None
    shard = Shard.open(run / "tokenize", "documents.train")
    found = []
    for document, shared, place in nearest_documents(shard, np.array(ids), RUN_LENGTH, DOCUMENTS):
        tokens = shard.document(document)[max(0, place - AROUND) : place + RUN_LENGTH + AROUND]
        found.append((document, shared, tokenizer.decode(tokens.tolist())))
    return found


def _page(
    run: str,
    tokenizer: Any,
    names: list[str],
    reading: "Reading",
    owed: "Owed",
    induction: "np.ndarray",
    near: list[tuple[int, int, str]] | None,
) -> str:
    from pipeline.publish.html.element import Part, element, page
    from pipeline.publish.html.style import STYLE as HOUSE

    parts = [
        Part("surprise", "How surprising each token was", _surprise(tokenizer, names, reading)),
        Part("owed", "Which tokens the last one is owed to", _owed(tokenizer, names, owed)),
        Part("lens", "What each layer would say", _lens(tokenizer, names, reading)),
        Part("attention", "Where each head looks", _attention(reading)),
        Part("induction", "Heads that look at what followed before", _induction(induction)),
        Part("documents", "Training documents that share most with the text", _near(near)),
    ]
    links = [element("a", part.title, href=f"#{part.identifier}") for part in parts]
    return page(
        f"{run}: one text explained",
        HOUSE + STYLE,
        element("h1", f"{run}: one text explained"),
        element("nav", *[one for link in links for one in (link, " · ")][:-1]),
        *(part.markup() for part in parts),
    )


def _surprise(tokenizer: Any, names: list[str], reading: "Reading") -> "Markup":
    """The text, the darker the more surprising; pointing at a token shows what was expected."""
    from pipeline.publish.html.element import element, join

    spans = [element("span", names[0], title="the first token: nothing stands before it")]
    ids, shares = reading.likely
    for place, nats in enumerate(reading.surprisal):
        likely = ", ".join(
            f"{tokenizer.decode([int(one)])!r} {share:.0%}"
            for one, share in zip(ids[place], shares[place], strict=True)
        )
        title = f"{nats:.2f} nats, {reading.rank[place]} likelier; expected: {likely}"
        strength = min(1.0, nats / 10)
        style = f"background: color-mix(in srgb, var(--c0) {100 * strength:.0f}%, transparent)"
        spans.append(element("span", names[place + 1], title=title, style=style))
    mean = element(
        "p", f"{reading.surprisal.mean():.3f} nats a token; point at a token for what was expected."
    )
    return join([mean, element("p", *spans, class_="tokens")])


def _owed(tokenizer: Any, names: list[str], owed: "Owed") -> "Markup":
    from pipeline.publish.html.element import element, join

    most = max(float(abs(owed.parts).max()), 1e-12)
    spans = []
    for name, part in zip(names, owed.parts, strict=False):
        colour = "--c0" if part > 0 else "--c1"
        style = f"background: color-mix(in srgb, var({colour}) {100 * abs(part) / most:.0f}%, transparent)"
        spans.append(element("span", name, title=f"{part:+.3f} nats", style=style))
    told = (
        f"Integrated gradients of the log probability of {tokenizer.decode([owed.target])!r}, from a text of ends of "
        f"text: {owed.change:+.3f} nats in all, which the parts miss by {owed.gap:.2%}, at {owed.nodes} points of the "
        "path."
    )
    return join([element("p", told), element("p", *spans, class_="tokens")])


def _lens(tokenizer: Any, names: list[str], reading: "Reading") -> "Markup":
    from pipeline.publish.html.element import element, join, table

    ids, shares = reading.lens
    head = ["behind layer", *names]
    rows = [
        [str(layer + 1), *(tokenizer.decode([int(one)]) for one in ids[layer])] for layer in range(len(ids))
    ][::-1]
    told = "The likeliest next token by the model's own head, had the layers ended there; the last layer stands on top."
    return join([element("p", told), table(head, rows, class_="lens")])


def _attention(reading: "Reading") -> "Markup":
    from pipeline.lm.insight import rollout
    from pipeline.publish.html.element import element, join

    maps = [
        _map(head, f"layer {layer + 1}, head {number + 1}")
        for layer, heads in enumerate(reading.attention)
        for number, head in enumerate(heads)
    ]
    if not maps:
        return element("p", "No layer of this model gives weights of attention.")
    through = _map(rollout(reading.attention), "all layers, rolled out")
    told = (
        "Row: the token that looks; column: what it looks at. Rolled out: how much of each token is left in each later "
        "one."
    )
    return join([element("p", told), element("div", through, *maps, class_="maps")])


def _map(weights_TT: "np.ndarray", title: str) -> "Markup":
    import numpy as np

    from recipes.common.images.figures import figure

    grey = (255 * (1 - weights_TT / max(float(weights_TT.max()), 1e-12))).astype(np.uint8)
    return figure(grey[..., None], title)


def _induction(scores_NH: "np.ndarray") -> "Markup":
    from pipeline.lm.insight import induction_chance
    from pipeline.publish.html.element import element, join, table

    if not scores_NH.size:
        return element("p", "No layer of this model gives weights of attention.")
    head = ["layer", *(f"head {number + 1}" for number in range(scores_NH.shape[1]))]
    rows = [[str(layer + 1), *(f"{score:.3f}" for score in scores)] for layer, scores in enumerate(scores_NH)]
    told = (
        "Random tokens are read twice in a row: the share of attention on what followed the same token before. A head "
        f"that looks everywhere alike has {induction_chance():.3f}."
    )
    return join([element("p", told), table(head, rows, numeric=tuple(range(1, len(head))))])


def _near(near: list[tuple[int, int, str]] | None) -> "Markup":
    from pipeline.publish.html.element import element, join, table

    if near is None:
        return element("p", "The run has no training documents: it learnt from something else.")
    if not near:
        return element("p", f"No training document shares {RUN_LENGTH} tokens in a row with the text.")
    rows = [[str(document), str(shared), text] for document, shared, text in near]
    told = f"By the different runs of {RUN_LENGTH} tokens that they share with it, all of the training split looked at."
    return join([element("p", told), table(["document", "shared runs", "around the first"], rows)])
