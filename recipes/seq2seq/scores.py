"""BLEU and chrF by sacreBLEU with its signature, their bootstrap intervals, and what a model must be better than."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from pipeline.run.results import Score

WORD = re.compile(r"\w+|[^\w\s]")
SEEN = 2  # pairs that a word and its translation must be in together


def scores_of(name: str, written: list[str], references: list[str], resamples: int) -> list[Score]:
    """BLEU and chrF of a system's targets."""
    from sacrebleu.metrics import BLEU, CHRF

    found = []
    with _seeded():
        for title, metric in (("BLEU", BLEU(effective_order=False)), ("chrF", CHRF())):
            value = metric.corpus_score(written, [references], n_bootstrap=resamples)
            middle, reach = float(value._mean), float(value._ci)
            signature = f"sacreBLEU {metric.get_signature()}; 95% interval: its own bootstrap over pairs"
            interval = (max(0.0, middle - reach), middle + reach)
            found.append(
                Score(title, name, float(value.score), interval, "", len(written), signature, "higher")
            )
    return found


@contextmanager
def _seeded() -> Iterator[None]:
    """sacreBLEU takes the seed of its bootstrap from the environment."""
    before = os.environ.get("SACREBLEU_SEED")
    os.environ["SACREBLEU_SEED"] = "12345"
    try:
        yield
    finally:
        if before is None:
            del os.environ["SACREBLEU_SEED"]
        else:
            os.environ["SACREBLEU_SEED"] = before


class WordForWord:
    """Each source word by the target word that it is most often beside: the largest Dice coefficient of all pairs.

    A word that was never seen stays as it is.
    """

    def __init__(self, pairs: Iterable[tuple[str, str]]):
        import numpy as np
        from scipy.sparse import csr_matrix

        sides: tuple[list[int], list[int]] = ([], [])
        rows: tuple[list[int], list[int]] = ([], [])
        known: tuple[dict[str, int], dict[str, int]] = ({}, {})
        count = 0
        for pair in pairs:
            for side, text in enumerate(pair):
                for word in set(words(text)):
                    sides[side].append(known[side].setdefault(word, len(known[side])))
                    rows[side].append(count)
            count += 1
        there = [
            csr_matrix((np.ones(len(own), np.float32), (place, own)), (count, len(names)))
            for place, own, names in zip(rows, sides, known, strict=True)
        ]
        frequency = [np.asarray(matrix.sum(0)).ravel() for matrix in there]
        together = (there[0].T @ there[1]).tocoo()
        dice = 2 * together.data / (frequency[0][together.row] + frequency[1][together.col])
        dice[together.data < SEEN] = 0
        order = np.lexsort((together.col, dice, together.row))
        last = np.append(together.row[order][1:] != together.row[order][:-1], True)
        names = list(known[1])
        best = zip(together.row[order][last], together.col[order][last], dice[order][last], strict=True)
        sources = list(known[0])
        self.table = {sources[row]: names[column] for row, column, share in best if share > 0}

    def __call__(self, text: str) -> str:
        made = " ".join(self.table.get(word, word) for word in words(text))
        return re.sub(r" ([,.!?;:])", r"\1", made[:1].upper() + made[1:])


def words(text: str) -> list[str]:
    """Words and marks, without case."""
    return WORD.findall(text.lower())


def repeated_share(texts: list[str]) -> float:
    """Share of targets that another pair has too: a model that says one thing always is found out."""
    counts = Counter(texts)
    return sum(count for count in counts.values() if count > 1) / len(texts)
