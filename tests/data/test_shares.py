"""Catches a mixture whose sources are not in their shares, come twice or never, or that tokenizes again to change."""

import json
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
from pydantic import ValidationError
from transformers import AutoConfig

from pipeline.data.mixture import BLOCK, Mixture, Stretch, quotas, shares_by_temperature, stretches_of
from pipeline.data.shards import Shard
from pipeline.lm.config import LanguageModelConfig, Phase
from pipeline.lm.rows import rows_of
from pipeline.run.errors import UserError
from pipeline.run.stage import open_recipe
from tests.faults.malformed import TREE, good
from tests.whole.command import headwater


@dataclass
class Numbers:
    """A source of numbered rows."""

    length: int
    mean_length: int = 8
    packed: bool = True

    def item(self, index: int) -> dict:
        return {"row": index}


def mixture_of(*stretches: tuple[int, list[float]], seed: int = 0) -> Mixture:
    sources = [Numbers(length) for length in (50, 400, 3000)[: len(stretches[0][1])]]
    return Mixture(sources, [Stretch(begin, np.array(shares)) for begin, shares in stretches], seed)


def test_any_stretch_of_rows_has_its_shares_to_within_a_row_a_source():
    mixture = mixture_of((0, [0.6, 0.3, 0.1]))
    whose = np.array([mixture.place(index)[0] for index in range(2_500)])
    for first, last in ((0, 10), (0, 137), (500, 700), (990, 1_030), (0, 2_500)):
        found = np.bincount(whose[first:last], minlength=3)
        assert np.abs(found - np.array([0.6, 0.3, 0.1]) * (last - first)).max() <= 2, (first, last, found)


def test_every_row_of_a_source_comes_once_and_in_its_order_whatever_the_phases_are():
    mixture = mixture_of((0, [0.5, 0.5, 0.0]), (1_300, [0.1, 0.2, 0.7]), (1_301, [0.0, 0.0, 1.0]))
    seen: Counter = Counter()
    for index in range(3_000):
        source, row = mixture.place(index)
        assert row == seen[source], index
        assert mixture.counts(index).tolist() == [seen[number] for number in range(3)]
        assert mixture.item(index) == {"row": row}
        seen[source] += 1
    assert seen[2] == 3_000 - 1_301 + round(0.7) and seen[0] in (650, 651)
    assert mixture.epochs(3_000)[0] == seen[0] / 50
    far = 10**9 + 7  # costs what the first row costs
    assert mixture.place(far) == (2, mixture.counts(far)[2])


def test_the_order_of_sources_is_another_with_another_seed_and_block():
    orders = [
        tuple(mixture_of((0, [0.5, 0.5]), seed=seed).place(first + index)[0] for index in range(40))
        for seed, first in ((0, 0), (1, 0), (0, BLOCK), (0, 0))
    ]
    assert orders[0] == orders[3] and len({*orders}) >= 2


def test_shares_are_kept_to_a_row_in_a_block_and_by_temperature():
    assert quotas(np.array([1 / 3, 1 / 3, 1 / 3])).sum() == BLOCK
    assert quotas(np.array([0.9995, 0.0005])).sum() == BLOCK
    tokens = np.array([900.0, 100.0])
    assert shares_by_temperature(tokens, 1) == pytest.approx([0.9, 0.1])
    assert shares_by_temperature(tokens, 2) == pytest.approx([0.75, 0.25])
    assert shares_by_temperature(tokens, 1e9) == pytest.approx([0.5, 0.5])


def test_weights_by_documents_count_how_long_they_are():
    phases = [Phase(weights={"long": 0.5, "short": 0.5}, by="documents", until=10), Phase(temperature=1)]
    given = (["long", "short"], np.array([9_000, 1_000]), np.array([10, 10]), 4)
    first, second = stretches_of(phases, *given)
    assert first.begin == 0 and first.shares == pytest.approx([0.9, 0.1])
    assert second.begin == 40 and second.shares == pytest.approx([0.9, 0.1])
    with pytest.raises(UserError, match="short would be 1.0e-04 of the rows"):
        stretches_of([Phase(weights={"long": 0.9999, "short": 0.0001})], *given)


def texts(folder, name: str, count: int, words: str) -> dict:
    rows = [json.dumps({"text": f"{words} {number}. " * 12}) + "\n" for number in range(count)]
    (folder / f"{name}.jsonl").write_text("".join(rows))
    return {"name": name, "source": "jsonl", "path": str(folder / f"{name}.jsonl"), "held_out": 0.2}


@pytest.fixture
def recipe(tmp_path):
    parts = [texts(tmp_path, "prose", 40, "the rain said"), texts(tmp_path, "code", 20, "return value")]
    pretrain = TREE["pretrain"] | {"max_steps": 10, "mixture": [{"weights": {"prose": 0.2, "code": 0.8}}]}
    return good(tmp_path, TREE | {"corpus": {"sources": parts}, "pretrain": pretrain})


def test_another_mixture_trains_anew_and_tokenizes_nothing_again(recipe, tmp_path):
    for stage in ("tokenizer", "tokenize", "pretrain"):
        done = headwater("stage", stage, *recipe)
        assert done.code == 0, done.err
    batch = TREE["pretrain"]["train_batch_size"]
    assert f"source code: 0.800 of {10 * batch} rows" in done.out
    run = tmp_path / "run"
    metrics = json.loads((run / "pretrain" / "artifact.json").read_text())["metrics"]
    shard = Shard.open(run / "tokenize", "documents.train")
    rows = {
        name: -(-part.tokens_total // TREE["pretrain"]["sequence_length"])
        for name, part in shard.parts().items()
    }
    assert metrics["epochs.code"] == pytest.approx(8 * batch / rows["code"])
    assert list(shard.sources) == ["prose", "code"] and sum(shard.sources.values()) == shard.documents
    ids = np.concatenate([part.document(i) for part in shard.parts().values() for i in range(part.documents)])
    assert np.array_equal(ids, shard.tokens)
    changed = [*recipe, 'pretrain.mixture=[{"until": 5, "weights": {"prose": 1.0}}, {"temperature": 2.0}]']
    said = headwater("run", *changed, "--dry-run").out
    states = {line.split()[0]: line.split()[1] for line in said.splitlines() if len(line.split()) > 1}
    assert states["tokenize"] != "conflict" and states["pretrain"] == "conflict", said
    config, _ = open_recipe(run.parent / "recipe.yaml", ["pretrain.max_source_epochs=0.01"])
    held = Shard.open(run / "tokenize", "documents.held_out")
    with pytest.raises(UserError, match="pretrain.mixture reads prose .* times\nexpected: at most 0.01"):
        rows_of(config.pretrain, AutoConfig.for_model("llama"), (shard, held))


TWO = [
    {"name": "a", "source": "text", "path": "FOLDER/texts"},
    {"name": "b", "source": "text", "path": "FOLDER/texts"},
]


@pytest.mark.parametrize(
    ("sources", "mixture", "fields", "said"),
    [
        (TWO, [{"weights": {"a": 0.5, "b": 0.4}}], {}, "weights sum to 0.9"),
        (TWO, [{"weights": {"a": 1.5, "b": -0.5}}], {}, "weight of b is below 0"),
        (TWO, [{"weights": {"a": 0.5, "c": 0.5}}], {}, "no source is called 'c'"),
        (TWO, [{"weights": {"a": 1.0}, "temperature": 2.0}], {}, "weights or temperature"),
        (TWO, [{}], {}, "weights or temperature"),
        (TWO, [{"weights": {"a": 1.0}, "until": 5}], {}, "without until"),
        (
            TWO,
            [{"temperature": 1.0, "until": 9}, {"temperature": 2.0, "until": 3}, {"temperature": 3.0}],
            {},
            "end with",
        ),
        (TWO, [{"temperature": 1.0, "until": 99}, {"temperature": 2.0}], {}, "99, .none. of 10"),
        (TWO, [{"temperature": 1.0}], {"max_steps": None, "num_train_epochs": 1}, "no epochs of its own"),
        ([TWO[0], TWO[1] | {"name": "a"}], [], {}, "two sources are called 'a'"),
        ([TWO[0], {"source": "stdlib"}], [{"temperature": 1.0}], {}, "each of them a name"),
    ],
)
def test_a_mixture_that_makes_no_sense_is_refused_by_the_recipe(sources, mixture, fields, said):
    pretrain = TREE["pretrain"] | {"max_steps": 10, "mixture": mixture} | fields
    with pytest.raises(ValidationError, match=said):
        LanguageModelConfig(**TREE | {"corpus": {"sources": sources}, "pretrain": pretrain})
