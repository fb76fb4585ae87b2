"""Catches nats that are not transformers' own, targets that depend on their neighbours, beams that are other beams."""

import math

import numpy as np
import pytest
import torch

from pipeline.run.errors import UserError
from recipes.seq2seq.config import Decoding, Model
from recipes.seq2seq.decode import arguments, written
from recipes.seq2seq.groups import padded
from recipes.seq2seq.model import TokenNats, built, pretrained_config
from tests.seq2seq.cases import CONFIGS, settings_of, tiny

ARCHITECTURES = sorted(CONFIGS)


def sources(count: int) -> list[np.ndarray]:
    draw = np.random.default_rng(1)
    return [np.append(draw.integers(3, 30, 2 + 5 * (number % 3)), 1) for number in range(count)]


@torch.no_grad()
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_nats_are_those_of_transformers_and_padding_adds_none(architecture):
    net = TokenNats(tiny(architecture), 0, 0)
    source, target = (torch.from_numpy(padded(sources(6)[first:], 0)) for first in (0, 3))
    source, target = source[:3], target[:3]
    nats, even = net(source, target)
    labels = target.masked_fill(target == 0, -100)
    loss = net.model(input_ids=source, attention_mask=(source != 0).long(), labels=labels).loss
    assert float(nats.sum() / (target != 0).sum()) == pytest.approx(float(loss), rel=1e-5)
    assert float(even[target == 0].abs().sum()) == 0 and float(even.max()) > math.log(30) - 1e-4
    alone, _ = net(source[:1, :3], target[:1])
    longer = torch.cat([source[:1, :3], torch.zeros(1, 9, dtype=torch.int64)], 1)
    assert torch.allclose(net(longer, target[:1])[0], alone, atol=1e-5)


WAYS = {
    "greedy": Decoding(num_beams=1, max_new_tokens=12),
    "beams": Decoding(num_beams=4, length_penalty=0.6, no_repeat_ngram_size=2, max_new_tokens=12),
    "drawn": Decoding(num_beams=1, temperature=1.5, max_new_tokens=12, seed=5),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_target_is_the_same_whatever_is_written_beside_it(architecture, way):
    model, rows = tiny(architecture), sources(20)
    together = written(model, rows, 0, WAYS[way])
    assert len({tuple(row) for row in together}) > 5
    for place in (0, 7, 19):
        decoding = WAYS[way].model_copy(update={"seed": WAYS[way].seed + place})
        assert written(model, [rows[place]], 0, decoding)[0] == together[place]


@torch.no_grad()
@pytest.mark.parametrize("way", ["greedy", "beams"])
def test_targets_equal_transformers_own_call(way):
    model, rows = tiny("t5"), sources(6)
    for row, found in zip(rows, written(model, rows, 0, WAYS[way]), strict=True):
        [wanted] = model.generate(input_ids=torch.from_numpy(row)[None], **arguments(WAYS[way]))
        wanted = wanted[1:].tolist()
        assert found == (wanted[: wanted.index(1)] if 1 in wanted else wanted)
        if way == "beams":
            assert all(
                found[i : i + 2] not in (found[j : j + 2] for j in range(i)) for i in range(len(found) - 1)
            )


def test_drawn_tokens_follow_the_softened_distribution():
    from recipes.seq2seq.decode import Gumbel

    scores = torch.tensor([[0.0, 1.0, 2.0]]).log_softmax(-1).expand(4000, -1)
    drawn = Gumbel(list(range(4000)), 2.0)(torch.zeros(4000, 1), scores).argmax(-1)
    shares = torch.bincount(drawn, minlength=3) / 4000
    wanted = (torch.tensor([0.0, 1.0, 2.0]) / 2).softmax(-1)
    assert torch.allclose(shares, wanted, atol=0.03)  # four standard errors


@pytest.mark.parametrize(
    ("architecture", "config", "said"),
    [
        ("llama", {}, "is no encoder-decoder"),
        ("bert", {}, "is no encoder-decoder .*\ndid you mean 'bart'"),
        ("t5", {"d_modle": 8}, "model.config.d_modle is no field of t5's config\ndid you mean 'd_model'"),
        ("marian", {"d_model": 15}, "model.config makes no marian"),
    ],
)
def test_what_makes_no_model_is_refused_by_name(architecture, config, said):
    model = Model(architecture=architecture, config=CONFIGS.get(architecture, {}) | config)
    with pytest.raises(UserError, match=said):
        built(model, (30, 30), 64, apart=False)


def test_positions_that_do_not_reach_and_a_decoder_as_base_are_refused(tmp_path):
    with pytest.raises(UserError, match="max_position_embeddings = 32, and a side may have 64"):
        settings_of("marian", max_position_embeddings=32)
    from transformers import LlamaConfig

    LlamaConfig().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="is a llama, no encoder-decoder\nway out: recipe: llm"):
        pretrained_config(str(tmp_path))
    with pytest.raises(UserError, match="expected: a directory, or a name"):
        pretrained_config(str(tmp_path / "nothing"))


def test_two_vocabularies_are_two_tables():
    model = tiny("marian")
    assert model.model.decoder.embed_tokens.weight is model.model.encoder.embed_tokens.weight
    from recipes.seq2seq.model import fresh

    apart = fresh(settings_of("marian", (30, 40)))
    assert apart.model.encoder.embed_tokens.weight.shape[0] == 30
    assert apart.model.decoder.embed_tokens.weight.shape[0] == 40
