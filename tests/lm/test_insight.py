"""Catches explanations that do not explain: parts that do not add up, maps that stay when the weights change, a planted
cause that is not found."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.data.shards import Shard
from pipeline.lm import insight
from pipeline.lm.insight import integrated_gradients, nearest_documents, read, rollout
from tests.tiny_language_model import random_documents, shard_of, tiny_model

IDS = torch.tensor([3, 7, 1, 9, 4, 7, 1, 2])


def model_of(seed: int = 0, scale: float = 0.3):
    model = tiny_model("llama", 16).eval()
    model.set_attn_implementation("eager")
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=scale)
    return model


def test_surprisal_and_rank_are_those_of_the_logits():
    model = model_of()
    found = read(model, IDS)
    with torch.no_grad():
        log = model(input_ids=IDS[None]).logits[0].float().log_softmax(-1)
    for place, own in enumerate(IDS[1:].tolist()):
        assert found.surprisal[place] == pytest.approx(-float(log[place, own]), rel=1e-6)
        assert found.rank[place] == int((log[place] > log[place, own]).sum())
        assert found.likely[0][place, 0] == int(log[place].argmax())


def test_the_last_layer_of_the_lens_is_the_model_itself_and_others_are_normalised():
    model = model_of()
    found = read(model, IDS)
    with torch.no_grad():
        whole = model(input_ids=IDS[None], output_hidden_states=True)
        first = model.lm_head(model.model.norm(whole.hidden_states[1]))[0]
    assert found.lens[0][-1].tolist() == whole.logits[0].argmax(-1).tolist()
    assert found.lens[0][0].tolist() == first.argmax(-1).tolist()


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "qwen3"])
def test_the_normalisation_in_front_of_the_head_is_found(architecture):
    assert insight.final_norm(tiny_model(architecture, 16)) is not None


def test_a_head_looks_at_places_before_it_and_all_of_its_looks_add_up_to_one():
    attention = read(model_of(), IDS).attention
    assert attention.ndim == 4 and attention.shape[2:] == (8, 8)
    np.testing.assert_allclose(attention.sum(axis=-1), 1, rtol=1e-5)
    assert np.triu(attention, 1).max() == 0


def test_rollout_follows_a_chain_of_looks():
    """Place 2 looks at 1 in the upper layer, 1 at 0 in the lower one: 0 is left in 2 by a half of a half."""
    lower, upper = np.eye(3), np.eye(3)
    lower[1], upper[2] = [1, 0, 0], [0, 1, 0]
    through = rollout(np.stack([lower[None], upper[None]]))
    np.testing.assert_allclose(through[2], [0.25, 0.25, 0.5])
    np.testing.assert_allclose(through.sum(axis=1), 1)


def test_parts_add_up_to_the_change_within_the_stated_share():
    model = model_of()
    owed = integrated_gradients(model, IDS, target=5, baseline=0)
    with torch.no_grad():
        ends = [
            model(input_ids=one[None]).logits[0, -1].log_softmax(-1)[5]
            for one in (IDS, torch.zeros_like(IDS))
        ]
    assert owed.change == pytest.approx(float(ends[0] - ends[1]), abs=1e-5)
    assert owed.gap <= insight.COMPLETE
    assert abs(owed.parts.sum() - owed.change) <= insight.COMPLETE * abs(owed.change) + 1e-9


class Planted(nn.Module):
    """A decoder whose prediction hangs on the token at one place alone: log p(1) - log p(0) is its embedding's sum."""

    def __init__(self, place: int):
        super().__init__()
        self.place, self.table = place, nn.Embedding(12, 4)

    def get_input_embeddings(self):
        return self.table

    def forward(self, inputs_embeds, use_cache=False):
        strength = inputs_embeds[:, self.place].sum(-1)
        logits = torch.stack([torch.zeros_like(strength), strength], dim=-1)
        return type("Output", (), {"logits": logits[:, None].expand(-1, inputs_embeds.shape[1], -1)})


@pytest.mark.parametrize("place", [0, 5])
def test_a_planted_cause_gets_everything(place):
    owed = integrated_gradients(Planted(place), IDS, target=1, baseline=0)
    assert np.flatnonzero(np.abs(owed.parts) > 1e-9).tolist() == [place]
    assert owed.parts[place] == pytest.approx(owed.change, rel=1e-3)


def test_other_weights_give_other_maps():
    """arXiv:1810.03292's sanity check: a map that stays is of the text, not of the model."""
    one, other = model_of(0), model_of(1)
    parts = [integrated_gradients(model, IDS, 5, 0).parts for model in (one, other)]
    assert abs(np.corrcoef(*parts)[0, 1]) < 0.9
    first, second = read(one, IDS), read(other, IDS)
    assert not np.allclose(first.attention, second.attention, atol=0.05)
    assert not np.allclose(first.surprisal, second.surprisal, atol=0.05)


def test_a_head_that_looks_alike_has_the_score_of_chance_and_an_induction_head_one(monkeypatch):
    model = model_of()
    count = 2 * insight.REPEATED
    alike = torch.tril(torch.ones(count, count))
    alike /= alike.sum(dim=1, keepdim=True)
    ahead = torch.zeros(count, count)
    for place in range(insight.REPEATED, count):
        ahead[place, place - insight.REPEATED + 1] = 1
    layers = (torch.stack([alike, ahead])[None], None)
    monkeypatch.setattr(model, "forward", lambda **_: type("Output", (), {"attentions": layers}))
    scores = insight.induction_scores(model, 16)
    assert scores.shape == (1, 2)
    assert scores[0, 0] == pytest.approx(insight.induction_chance(), rel=1e-5) and scores[0, 1] == 1
    assert math.isclose(insight.induction_chance(), np.mean(1 / np.arange(25, 48)))


def test_the_document_that_a_text_was_taken_from_is_found(tmp_path):
    documents = random_documents(*[40] * 30)
    shard = shard_of(tmp_path, documents)
    shard = shard if isinstance(shard, Shard) else Shard.open(tmp_path, "documents")
    text = shard.document(17)[5:25]
    (first, shared, place), *others = nearest_documents(shard, np.asarray(text), length=6, count=3)
    assert (first, shared, place) == (17, 15, 5)
    assert all(other[1] < 15 for other in others)
    assert nearest_documents(shard, np.array([1, 2, 3]), length=6, count=3) == []
    across = np.concatenate([shard.document(3)[-3:], shard.document(4)[:3]])
    assert all(document not in (3, 4) for document, _, _ in nearest_documents(shard, across, 6, 3))
