"""Stage `curve`: are rows that a model made worth having? Classifiers of few and of many real rows, with and without.

Of each share of the training rows and each seed: a generator learns from these rows alone; classifiers learn from them,
from them over and over until classes are even, from them and as many altered copies, from made rows alone, from both.
All are judged on the same held-out rows. Shapes: S seeds, N held-out rows.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.run.errors import UserError
from pipeline.run.files import write_json
from pipeline.run.results import Score
from pipeline.run.stage import Context
from recipes.augmentation.config import AugmentationConfig, Rows
from recipes.augmentation.generator import Labelled

if TYPE_CHECKING:
    import numpy as np

REAL, EVEN, ALTERED, MADE, BOTH = "real", "real, classes made even", "real, altered", "made", "real and made"
LEFT_OUT, SWAPPED = 0.1, 0.1  # of the words of a row: arXiv:1901.11196's alpha
SHOWN = 3  # made rows of each class that the report shows
FEWEST = 10  # rows of the smallest share


def check(config: AugmentationConfig) -> None:
    """Refuse what cannot be trained.

    Raises:
        UserError: batches that do not divide, or an architecture that does not take the rows.
    """
    from pipeline.run.plan import Batches

    Batches.derive(config.train, 1)
    if config.model.architecture:
        from pipeline.lm.model import build_config, check_trainable

        settings = build_config(config.model, config.curve.vocabulary_size, {}, config.train.sequence_length)
        check_trainable(settings, config.model.attention, config.train)


def run(context: Context) -> dict[str, Any]:
    """Write evaluation.json, and samples.json with made rows; the metrics are the scores by name.

    Raises:
        UserError: a share has too few rows to learn from.
    """
    import numpy as np

    config: AugmentationConfig = context.config
    prepared, settings = context.inputs["prepare"], config.curve
    base = context.inputs["base"] / "model" if config.model.pretrained else None
    train, held_out = (read(prepared, split) for split in ("train", "held_out"))
    classes = tuple(json.loads((prepared / "classes.json").read_text("utf-8")))
    fewest = round(min(settings.shares) * len(train))
    if fewest < FEWEST:
        raise UserError(
            f"curve.shares: {min(settings.shares):g} of {len(train)} training rows is {fewest}\n"
            f"expected: {FEWEST} or more\nway out: more rows, or larger shares"
        )
    scores, samples, verdicts = [], [], []
    for share in sorted(settings.shares):
        count = round(share * len(train))
        right, made_of, diets_of = [], [], []
        for seed in range(settings.seeds):
            context.terminal.write(f"curve: {count:,} rows, seed {seed}\n")
            chosen = np.random.default_rng([seed, 1]).permutation(len(train))[:count]
            rows = [train[place] for place in chosen]
            made = make(rows, classes, config, seed, base)
            diets = diets_with(rows, made, config, seed)
            right.append({name: _right(diet, held_out, config) for name, diet in diets.items()})
            made_of.append((rows, made))
            diets_of.append({name: len(diet) for name, diet in diets.items()})
        tables = {name: np.stack([found[name] for found in right]) for name in right[0]}
        found = _scores(tables, share, count, diets_of[0])
        scores += [*found, *leaks(made_of, held_out, config, share, count)]
        verdicts.append(f"{share:.0%} of the rows: {verdict(found)}")
        samples += _shown(made_of[0][1], classes, share)
    for line in verdicts:
        context.terminal.write(f"curve: {line}\n")
    write_json(context.out / "samples.json", samples)
    missing = {"spread over seeds": "curve.seeds is 1"} if settings.seeds == 1 else {}
    write_json(context.out / "evaluation.json", {"scores": [s.as_json() for s in scores], "missing": missing})
    return {score.key: score.value for score in scores} | {"verdict": "; ".join(verdicts)}


def read(prepared: Path, split: str) -> list[Labelled]:
    """The rows of a split."""
    with open(prepared / f"{split}.jsonl", encoding="utf-8") as file:
        return [(row["text"], row["label"]) for row in map(json.loads, file)]


def make(
    rows: Sequence[Labelled],
    classes: tuple[str, ...],
    config: AugmentationConfig,
    seed: int,
    base: Path | None,
) -> list[Labelled]:
    """Rows of a generator that learnt `rows`, in their classes' proportion; what is no row of its kind is left out."""
    import numpy as np

    from recipes.augmentation.generator import learnt

    wanted = min(config.curve.most_made, round(config.curve.made * len(rows)))
    labels = np.resize([label for _, label in rows], wanted).tolist()
    texts = learnt(rows, classes, config, seed, base).draw(labels, 1_000_000 * (1 + seed))
    read_ = [(_usable(text, config.data), label) for text, label in zip(texts, labels, strict=True)]
    return [(text, label) for text, label in read_ if text]


def _usable(text: str, data: Rows) -> str:
    """The text as training has it; empty where it is none."""
    from pipeline.data.rows import BadRow
    from recipes.augmentation.prepare import compared

    try:
        key = compared(text, data) if text else ""
    except BadRow:
        return ""
    return key if data.kind == "molecules" else text if key else ""


def diets_with(
    rows: list[Labelled], made: list[Labelled], config: AugmentationConfig, seed: int
) -> dict[str, list[Labelled]]:
    """What is compared, the baselines first; those that add rows add as many as were made."""
    import numpy as np

    random = np.random.default_rng([seed, 2])
    of = {label: [row for row in rows if row[1] == label] for label in sorted({label for _, label in rows})}
    most = max(map(len, of.values()))
    even = [row for own in of.values() for row in [own[place % len(own)] for place in range(most)]]
    change = _other_words if config.data.kind == "words" else _other_order
    altered = [
        (change(text, random), label)
        for text, label in (rows[place % len(rows)] for place in range(len(made)))
    ]
    return {REAL: rows, EVEN: even, ALTERED: rows + altered, MADE: made, BOTH: rows + made}


def _other_words(text: str, random: "np.random.Generator") -> str:
    """Some words left out, some swapped with another one of the row; a row of one word stays."""
    words = text.split()
    for _ in range(round(SWAPPED * len(words))):
        a, b = random.integers(len(words), size=2)
        words[a], words[b] = words[b], words[a]
    kept = [word for word in words if random.random() >= LEFT_OUT]
    return " ".join(kept or words)


def _other_order(smiles: str, random: "np.random.Generator") -> str:
    from rdkit import Chem

    molecule = Chem.MolFromSmiles(smiles)
    return Chem.MolToRandomSmilesVect(molecule, 1, randomSeed=int(random.integers(2**31)))[0]


def classifier(config: AugmentationConfig) -> Any:
    """Counted n-grams and a logistic regression, scikit-learn's."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    from recipes.molecules.words import PATTERN

    words = config.data.kind == "words"
    counted = TfidfVectorizer(
        lowercase=words,
        token_pattern=r"\w+" if words else PATTERN,
        ngram_range=(1, config.curve.ngram),
        sublinear_tf=True,
    )
    return make_pipeline(counted, LogisticRegression(C=config.curve.inverse_penalty, max_iter=5000))


def _right(diet: list[Labelled], held_out: list[Labelled], config: AugmentationConfig) -> "np.ndarray":
    """Whether the classifier of a diet is right on each held-out row, bool (N,)."""
    import numpy as np

    texts, labels = zip(*diet, strict=True) if diet else ((), ())
    asked, truth = zip(*held_out, strict=True)
    if len(set(labels)) < 2:  # a diet of one class knows no other answer
        return np.array(truth) == (labels[0] if labels else -1)
    model = classifier(config).fit(list(texts), np.array(labels))
    return model.predict(list(asked)) == np.array(truth)


def _scores(tables: dict[str, "np.ndarray"], share: float, count: int, sizes: dict[str, int]) -> list[Score]:
    """The accuracies, and what each diet gains over real rows alone, seed by seed and row by row."""
    from recipes.common.scores.intervals import crossed_interval

    seeds, rows = tables[REAL].shape
    found = []
    for title, less in (
        (f"accuracy, {share:.0%} of the rows", None),
        (f"gain, {share:.0%} of the rows", REAL),
    ):
        for name, table in tables.items():
            if name == less:
                continue
            values = table.astype(float) - (tables[less] if less else 0.0)
            low, high = crossed_interval(values)
            interval = (low, high) if less else (max(0.0, low), min(1.0, high))
            basis = f"{count:,} real rows, {sizes[name]:,} in all; {seeds} seeds, {rows:,} held-out rows"
            said = f"{PROTOCOL[bool(less)]}; {basis}"
            facts = ("share", rows, f"{said}; 95% interval over both", "higher")
            found.append(Score(title, name, float(values.mean()), interval, *facts))
    return found


PROTOCOL = {
    False: "held-out rows whose class a logistic regression on counted n-grams tells, trained on these rows",
    True: "the same, less what the classifier of the same seed gets on the same rows after real ones alone",
}


def verdict(scores: list[Score]) -> str:
    """In words, whether made rows beside real ones help, and whether something simpler helps as much."""
    gains = {score.model: score for score in scores if score.name.startswith("gain")}
    both, rivals = gains[BOTH], [gains[EVEN], gains[ALTERED]]
    low, high = both.interval or (0.0, 0.0)
    said = (
        "made rows help"
        if low > 0
        else "made rows hurt"
        if high < 0
        else "made rows make no clear difference"
    )
    best = max(rivals, key=lambda score: score.value)
    beside = f"{both.value:+.3f} [{low:+.3f}, {high:+.3f}]; {best.model}: {best.value:+.3f}"
    return f"{said}: {beside}"


def leaks(
    made_of: list[tuple[list[Labelled], list[Labelled]]],
    held_out: list[Labelled],
    config: AugmentationConfig,
    share: float,
    count: int,
) -> list[Score]:
    """Made rows that are a held-out row, and that are a row the generator learnt from; of real rows the same."""
    import numpy as np

    from pipeline.scores.intervals import wilson_interval
    from recipes.augmentation.prepare import compared

    def keys(rows: Sequence[Labelled]) -> list[str]:
        return [compared(text, config.data) for text, _ in rows]

    unseen = set(keys(held_out))
    leaked = np.concatenate([[key in unseen for key in keys(made)] for _, made in made_of] or [[]])
    copied = np.concatenate([np.isin(keys(made), keys(rows)) for rows, made in made_of if made] or [[]])
    found = []
    for name, flags, said in (
        (
            "made rows that are held out",
            leaked,
            "a held-out row, which the generator never saw: by chance alone",
        ),
        ("made rows that are copies", copied, "a row that the generator learnt from"),
    ):
        total = len(flags)
        value = float(np.mean(flags)) if total else 0.0
        interval = wilson_interval(int(np.sum(flags)), total) if total else (0.0, 1.0)
        same = "but for case, marks and spaces or the order of atoms"
        protocol = f"made rows that are, {same}, {said}; {count:,} real rows"
        found.append(
            Score(
                f"{name}, {share:.0%} of the rows", "made", value, interval, "share", total, protocol, "lower"
            )
        )
    return found


def _shown(made: list[Labelled], classes: tuple[str, ...], share: float) -> list[dict[str, Any]]:
    """The first made rows of each class, as the report has samples."""
    return [
        {"kind": "made", "prompt": "", "text": f"{name}: {text}", "from": f"{share:.0%} of the rows"}
        for label, name in enumerate(classes)
        for text in [text for text, own in made if own == label][:SHOWN]
    ]


if __name__ == "__main__":
    from pipeline.run.stage import main

    main("curve")
