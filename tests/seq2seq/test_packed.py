"""Catches a pair that sees its neighbour, positions that run on, a pair that packing loses, rows that overflow."""

import numpy as np
import pytest
import torch

from pipeline.run.errors import UserError
from recipes.seq2seq.groups import PairedTexts, padded
from recipes.seq2seq.model import TokenNats, check_apart
from recipes.seq2seq.packed import ALONE, PackedPairs, collated, of_texts, packed, places
from recipes.seq2seq.spans import CorruptedTexts, both_sides
from tests.exhaustive import exhaustive
from tests.seq2seq.cases import CONFIGS, MARIAN, tiny, write_ids

CONFIGS_BESIDE = {
    "bart": MARIAN,
    "pegasus": MARIAN,
    "mbart": MARIAN,
    "mt5": CONFIGS["t5"],
}


@pytest.fixture
def texts(tmp_path):
    write_ids(tmp_path, "train", 60)
    return PairedTexts.open(tmp_path, "train")


def rows_of(texts, seed=3, rows=4, length=24, count=60) -> PackedPairs:
    return PackedPairs(*of_texts(texts, np.arange(count)), length, rows, (0, 0), seed)


def pairs_in(item) -> list[tuple]:
    """(source, target) of every pair in an item, read off by who owns each token."""
    found = []
    for row in zip(*(item[name] for name in ("source", "target", "source_pairs", "target_pairs")), strict=True):
        for owner in range(int(row[2].max()) + 1):
            found.append((tuple(row[0][row[2] == owner]), tuple(row[1][row[3] == owner])))
    return found


@pytest.mark.parametrize("seed", [None, 3])
def test_every_pair_is_there_once_an_epoch(texts, seed):
    split = rows_of(texts, seed)
    wanted = sorted((tuple(texts.source.row(i)), tuple(texts.target.row(i))) for i in range(60))
    for epoch in range(2):
        items = [split.item(epoch * split.length + index) for index in range(split.length)]
        assert sorted(pair for item in items for pair in pairs_in(item)) == wanted
        assert {item["source"].shape for item in items} == {(4, 24)}
        for item in items:
            assert ((item["source"] == 0) == (item["source_pairs"] == ALONE)).all()
    full = [(item[side] != 0).sum() for item in items for side in ("source", "target")]
    assert sum(full) / 2 / (len(split.begins) - 1) / 24 > 0.7


def test_rows_hold_both_sides_and_are_nearly_full():
    lengths = np.random.default_rng(0).integers(2, 40, (5000, 2))
    rows = packed(lengths, 64)
    sums = np.stack([np.bincount(rows, lengths[:, side]) for side in (0, 1)])
    assert sums.max() <= 64 and sums.min() > 0 and sums.mean() > 0.88 * 64


@torch.no_grad()
@pytest.mark.parametrize("architecture", ["t5", "marian", *CONFIGS_BESIDE])
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_nats_in_rows_are_those_of_pairs_alone(texts, architecture, implementation, monkeypatch):
    monkeypatch.setitem(CONFIGS, architecture, (CONFIGS | CONFIGS_BESIDE)[architecture])
    model = tiny(architecture)
    model.set_attn_implementation(implementation)
    net, item = TokenNats(model, 0, 0).eval(), rows_of(texts).item(1)
    check_apart(net)
    batch = collated([item])
    nats, even = net(*(batch[name] for name in ("source", "target", "source_pairs", "target_pairs")))
    alone = [net(torch.tensor([source]), torch.tensor([target])) for source, target in pairs_in(item)]
    for found, at in ((nats, 0), (even, 1)):
        parts = [
            found[row][batch["target_pairs"][row] == owner]
            for row in range(4)
            for owner in range(int(batch["target_pairs"][row].max()) + 1)
        ]
        expected = torch.cat([one[at][0] for one in alone])
        torch.testing.assert_close(torch.cat(parts), expected, rtol=1e-5, atol=1e-5)
    assert float(nats[batch["target"] == 0].abs().sum()) == 0
    # A batch of padded pairs goes through the same net unchanged.
    source, target = (torch.from_numpy(padded(side, 0)) for side in zip(*pairs_in(item), strict=True))
    torch.testing.assert_close(net(source, target)[0].sum(), nats.sum(), rtol=1e-5, atol=1e-4)


def test_gradients_are_those_of_pairs_alone(texts):
    item = rows_of(texts).item(0)
    found = []
    for way in ("rows", "pairs"):
        model = tiny("marian").requires_grad_(True)
        net, batch = TokenNats(model, 0, 0), collated([item])
        if way == "rows":
            net(*(batch[n] for n in ("source", "target", "source_pairs", "target_pairs")))[0].sum().backward()
        else:
            sides = (torch.from_numpy(padded(side, 0)) for side in zip(*pairs_in(item), strict=True))
            net(*sides)[0].sum().backward()
        found.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][name], rtol=1e-4, atol=1e-4)


def test_places_begin_anew_with_each_pair():
    owners = torch.tensor([[0, 0, 0, 1, 1, 2, -1, -1]])
    assert places(owners).tolist() == [[0, 1, 2, 0, 1, 0, 0, 1]]


def test_a_model_that_mixes_pairs_is_refused(monkeypatch):
    net = TokenNats(tiny("marian"), 0, 0)
    monkeypatch.setattr("recipes.seq2seq.model.places", lambda owners: torch.arange(8)[None])
    with pytest.raises(UserError, match="in a marian a pair changes the next one(.|\n)*packing=false"):
        check_apart(net)


def test_corrupted_texts_are_packed_by_what_is_left_of_them(texts):
    every = both_sides(texts)
    split = CorruptedTexts(every, np.arange(120), list(range(40, 60)), 0.15, 3.0, seed=3)
    made = [[split.pair(member, epoch) for member in range(120)] for epoch in (0, 1)]
    for epoch in made:
        assert np.array_equal([[len(s), len(t)] for s, t in epoch], split.lengths)
    assert any(not np.array_equal(a[0], b[0]) for a, b in zip(*made, strict=True)), "other gaps each epoch"
    rows = PackedPairs(split.lengths, split.pair, 24, 4, (0, 0), 3)
    assert sum(len(pairs_in(rows.item(index))) for index in range(rows.length)) == 120


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*:DeprecationWarning")  # of torch's own import
@pytest.mark.parametrize("architecture", [exhaustive("t5"), exhaustive("marian")])
def test_a_compiled_net_gives_the_same_and_is_compiled_once(texts, architecture):
    """Catches positions that a compiled graph keeps from the first batch, and batches of many shapes."""
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    split = rows_of(texts)
    nets = [TokenNats(tiny(architecture).requires_grad_(True), 0, 0).eval() for _ in range(2)]
    nets[1].compile()
    for index in range(3):
        batch = collated([split.item(index)])
        sides = [batch[name] for name in ("source", "target", "source_pairs", "target_pairs")]
        plain, compiled = (net(*sides)[0] for net in nets)
        torch.testing.assert_close(compiled, plain, rtol=1e-4, atol=1e-4)
        compiled.sum().backward()
    assert counters["frames"]["ok"] == counters["frames"]["total"] and counters["stats"]["unique_graphs"] < 12
