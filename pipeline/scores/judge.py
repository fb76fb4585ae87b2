"""`headwater score DIR --data FILE`: a reward model's number for each answer of a file, and their order by it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.run.errors import UserError

PLACES = ("", "export", "reward_model/model", "model")  # of a model, from the directory that is given
AT_ONCE = 256  # rows


def model_in(directory: Path) -> Path:
    """The directory of a reward model: an export, a stage's artifact, or a run with one of them.

    Raises:
        UserError: there is none, or it tells several classes apart.
    """
    import json

    for place in PLACES:
        settings = directory / place / "config.json"
        if settings.is_file():
            found = json.loads(settings.read_text())
            named = found.get("architectures") or [""]
            if named[0].endswith("ForSequenceClassification"):
                _check_single(directory / place, found)
                return directory / place
    raise UserError(
        f"no reward model in {directory}\n"
        "expected: an export, or the output directory of a run, of a recipe with a reward_model section"
    )


def _check_single(directory: Path, config: dict[str, Any]) -> None:
    classes = len(config.get("id2label") or (0, 1))  # transformers writes them where they are not two
    if classes != 1:
        raise UserError(f"{directory} tells {classes} classes apart\nexpected: a reward model, of one")


def scored(directory: Path, data: Path, batch_size: int) -> Iterator[dict[str, Any]]:
    """For each row of `data`, in its order: its `key`, the `rewards` of its answers, their `order`, the best one first,
    and of a pair whether the chosen one is the better: `right`.

    Rows: chosen and rejected, completion, or a list of completions, with a prompt.

    Raises:
        UserError: a row holds no answers, or has more tokens than the model has positions.
    """
    from itertools import islice

    import numpy as np
    import torch

    from pipeline.data.config import Preferences
    from pipeline.data.kinds import Answer, Judgements
    from pipeline.data.sources import answered
    from pipeline.lm.model import load_scorer, load_tokenizer, positions_of
    from pipeline.scores.ranking import rewards_of

    place = model_in(directory)
    model, tokenizer = load_scorer(place), load_tokenizer(place)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    limit = positions_of(model.config)
    source = Preferences(path=str(data))
    kind, rows = Judgements(source, tokenizer, []), answered(source)
    while part := list(islice(rows, AT_ONCE)):
        layouts = [
            kind.laid_out(Answer(row, number, 0)) for row in part for number in range(len(row.answers))
        ]
        encoded = kind.encoder.encode(layouts)
        texts = np.split(encoded.ids, encoded.lengths.cumsum()[:-1])
        longest = int(encoded.lengths.max())
        if limit is not None and longest > limit:
            raise UserError(
                f"an answer in {data} has {longest} tokens, and the model {limit} positions\nway out: leave it out"
            )
        rewards = iter(rewards_of(model, texts, batch_size).tolist())
        for row in part:
            own = [next(rewards) for _ in row.answers]
            found = {"key": row.key, "rewards": own, "order": sorted(range(len(own)), key=lambda i: -own[i])}
            yield found | ({"right": own[0] > own[1]} if row.verdicts == (True, False) else {})


def run_score(directory: Path, data: Path, batch_size: int) -> None:
    """Print a JSON line a row, and on standard error how many pairs were ranked right."""
    import json
    import sys

    from transformers.utils import logging

    from pipeline.scores.intervals import wilson_interval

    logging.disable_progress_bar()  # standard error is for what goes wrong
    right, pairs = 0, 0
    for row in scored(directory, data, batch_size):
        print(json.dumps(row, ensure_ascii=False), flush=True)
        pairs += "right" in row
        right += row.get("right", False)
    if pairs:
        low, high = wilson_interval(right, pairs)
        print(
            f"{right} of {pairs} pairs ranked right: {right / pairs:.2f} [{low:.2f}, {high:.2f}]",
            file=sys.stderr,
        )
