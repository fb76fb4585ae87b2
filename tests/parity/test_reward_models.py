"""Catches a reward model's loss, or its gradient, that TRL does not compute on the same model and pairs, and a number
that is read elsewhere than transformers reads it."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch.nn import functional as F

from pipeline.data.pairs import PackedAnswers, collate_answers
from pipeline.data.shards import Shard
from pipeline.lm.config import RewardModel
from pipeline.lm.model import load_scorer, save_model
from pipeline.lm.tuning.losses import Answers
from pipeline.lm.tuning.ranking import AnswerScores, RankingModel
from pipeline.lm.tuning.weights import scorer
from pipeline.scores.ranking import rewards_of
from pipeline.train.recipe import Clock
from tests.stages.tiny_model import POSITIONS, VOCABULARY, make_model, make_tokenizer
from tests.tiny_preferences import shard_of_answers

# Of a loss and of the largest gradient, relative: fp32 sums in another order. Worst seen 2e-7 and 2e-6.
LOSS, GRADIENT = 1e-5, 3e-5
WORDS = "what is the end of a thing that ends it and then the other thing".split()
COUNT = 6


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """A tiny decoder with one number for a head, as a directory."""
    directory = tmp_path_factory.mktemp("classifier")
    base, tokenizer = directory / "base", make_tokenizer(directory / "tokenizer")
    save_model(make_model(0), tokenizer, base)
    torch.manual_seed(0)
    model = scorer(base)
    with torch.no_grad():
        model.score.weight.normal_(std=0.5)
    save_model(model, tokenizer, directory / "model", base)
    return directory / "model"


def written(answers: list[list[int]], margins: list[float], folder) -> Shard:
    """A shard of pairs, each with its margin."""
    labels = [1, 0] * (len(answers) // 2)
    shard = shard_of_answers(folder, [(ids[:1], ids[1:]) for ids in answers], labels, VOCABULARY)
    np.save(folder / "preferences.margins.npy", np.repeat(np.array(margins, np.float32), 2))
    return Shard.open(folder, shard.name)


def ours(classifier, shard: Shard, coefficient: float) -> tuple[float, dict[str, torch.Tensor]]:
    """The mean loss of pairs packed in rows, and the gradient of each weight."""
    settings = RewardModel(
        bf16=False, torch_compile=False, max_steps=1, train_batch_size=1, learning_rate=1e-3,
        sequence_length=POSITIONS, center_rewards_coefficient=coefficient,
    )  # fmt: skip
    rows = PackedAnswers(shard, None, POSITIONS, None, "error", packed=True)
    assert rows.length < shard.documents // 2, "several pairs stand in a row"
    net = load_scorer(classifier)
    recipe = RankingModel(settings, lambda: net, rows, None, POSITIONS)
    batch = recipe.collate([rows.item(index) for index in range(rows.length)])
    loss = recipe.loss("model", {"model": AnswerScores(net)}, batch, Clock(0, 0))
    mean = loss.total / recipe.count("model", batch)
    mean.backward()
    return float(mean.detach()), {name: p.grad for name, p in net.named_parameters()}


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize(("margins", "coefficient"), [(False, 0.0), (True, 0.0), (True, 0.01)])
def test_the_loss_and_its_gradient_are_trls(classifier, tmp_path, margins, coefficient):
    from transformers import AutoTokenizer
    from trl import RewardConfig, RewardTrainer

    random = np.random.default_rng(0)
    rows = [
        {side: " ".join(random.choice(WORDS, random.integers(2, 7))) for side in ("chosen", "rejected")}
        | ({"margin": float(random.integers(0, 3))} if margins else {})
        for _ in range(COUNT)
    ]
    arguments = RewardConfig(
        output_dir=str(tmp_path / "trl"), per_device_train_batch_size=COUNT, max_steps=1, report_to="none",
        use_cpu=True, bf16=False, gradient_checkpointing=False, dataloader_pin_memory=False, disable_dropout=True,
        center_rewards_coefficient=coefficient or None,
    )  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(classifier)
    trainer = RewardTrainer(
        model=load_scorer(classifier),
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.model.eval()
    theirs = trainer.compute_loss(trainer.model, batch)
    theirs.backward()
    texts = [
        ids[: sum(seen)]
        for ids, seen in zip(batch["input_ids"].tolist(), batch["attention_mask"].tolist(), strict=True)
    ]
    answers = [texts[number + COUNT * side] for number in range(COUNT) for side in (0, 1)]
    given = batch["margin"].tolist() if margins else [0.0] * COUNT
    loss, gradients = ours(classifier, written(answers, given, tmp_path / "shard"), coefficient)
    assert loss == pytest.approx(float(theirs.detach()), rel=LOSS)
    for name, parameter in trainer.model.named_parameters():
        assert (
            gradients[name] - parameter.grad
        ).abs().max() <= GRADIENT * parameter.grad.abs().max() + 1e-9, name


def test_a_packed_answer_has_the_number_that_transformers_gives_it_alone_and_in_a_padded_batch(
    classifier, tmp_path
):
    """Texts that end with the padding token among them: where is their end?"""
    net, random = load_scorer(classifier), np.random.default_rng(1)
    pad = net.config.pad_token_id
    answers = [random.integers(5, VOCABULARY, random.integers(3, 9)).tolist() for _ in range(8)]
    answers[1].append(pad)
    answers[4] += [pad, pad]
    answers[6].insert(2, pad)
    rows = PackedAnswers(written(answers, [0.0] * 4, tmp_path), None, POSITIONS, None, "error", packed=True)
    found = {}
    for index in range(rows.length):
        batch = collate_answers([rows.item(index)])
        with torch.no_grad():
            scores = AnswerScores(net)(
                *(batch[name] for name in ("input_ids", "labels", "document_ids", "position_ids")),
                batch["answer_labels"].numel(),
            )
        for place in range(scores.shape[1]):
            ids = batch["input_ids"][0][batch["document_ids"][0] == place].tolist()
            found[tuple(ids)] = float(scores[0, place])
    assert len(found) == len(answers)
    in_one = rewards_of(net, [np.array(ids) for ids in answers], 8)
    for ids, together in zip(answers, in_one.tolist(), strict=True):
        with torch.no_grad():
            alone = float(net(torch.tensor([ids])).logits[0, 0])
        assert found[tuple(ids)] == pytest.approx(alone, abs=1e-5)
        assert together == pytest.approx(alone, abs=1e-5)


def test_rewards_are_held_around_zero_by_the_squared_sum():
    """Of one pair by hand: 1.5 and 0.5, margin 0.25."""
    expected = -F.logsigmoid(torch.tensor(0.75)) + 0.1 * 2.0**2
    recipe = SimpleNamespace(weighed=SimpleNamespace(center_rewards_coefficient=0.1))
    answers = Answers(
        torch.tensor([[[1.5, 0.5]]]), torch.zeros(1, 1, 2), torch.ones(1, 1, 2), torch.tensor([[[1, 0]]])
    )
    terms = RankingModel.terms(recipe, answers, {"margins": torch.full((1, 1, 2), 0.25)})
    assert float(terms.losses_BU[0, 0]) == pytest.approx(float(expected), rel=1e-6)
