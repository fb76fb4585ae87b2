"""What tests of preference tuning share: shards of judged answers, and the recipe on a tiny model."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification

from pipeline.data.kinds import FOREIGN, UNWANTED, WANTED
from pipeline.data.pairs import PackedAnswers
from pipeline.data.shards import Shard, ShardWriter
from pipeline.lm.config import Prefer, Reinforce, RewardModel
from pipeline.lm.tuning.preference import PreferenceModel
from pipeline.lm.tuning.ranking import RankingModel, with_padding
from pipeline.lm.tuning.reinforcement import PromptRows, RewardedModel
from tests.tiny_language_model import VOCABULARY, tiny_model

Answer = tuple[list[int], list[int]]  # tokens of the prompt, tokens of the answer


def shard_of_answers(directory: Path, answers: list[Answer], labels: list[int], vocabulary: int) -> Shard:
    """Two answers a unit, one after the other."""
    directory.mkdir(exist_ok=True)
    with ShardWriter(directory, "preferences", vocabulary, tokenizer_sha256="a" * 64) as writer:
        for (prompt, answer), label in zip(answers, labels, strict=True):
            ids, length = np.array([*prompt, *answer]), np.array([len(prompt) + len(answer)])
            targets = np.repeat(np.array([0, 1], np.uint8), [len(prompt), len(answer)])
            writer.add(ids, length, length, targets, np.array([label], np.uint8))
    return Shard.open(directory, "preferences")


def random_units(count: int, verdicts: bool = False) -> tuple[list[Answer], list[int]]:
    """Answers of 3 to 8 tokens to prompts of 2 to 5, none of them special; of verdicts every other one is wanted."""
    random = np.random.default_rng(0)

    def tokens(low: int, high: int) -> list[int]:
        return random.integers(3, VOCABULARY, random.integers(low, high)).tolist()

    answers: list[Answer] = []
    for _ in range(count):
        prompt = tokens(2, 6)
        answers += [(prompt, tokens(3, 9)), (prompt, tokens(3, 9))]
    second = FOREIGN if verdicts else UNWANTED
    first = [WANTED if number % 2 or not verdicts else UNWANTED for number in range(count)]
    return answers, [label for one in first for label in (one, second)]


def plain_logps(model: torch.nn.Module, answers: list[Answer]) -> torch.Tensor:
    """[documents] by one forward for each answer alone."""
    found = []
    for prompt, answer in answers:
        ids = torch.tensor([[*prompt, *answer]])
        logps = model(input_ids=ids).logits[0, :-1].float().log_softmax(-1)
        taken = logps.gather(-1, ids[0, 1:, None])[:, 0]
        found.append(taken[len(prompt) - 1 :].sum())
    return torch.stack(found)


def preference_model(
    shard: Shard, training: dict[str, Any], length: int = 32, packed: bool = True
) -> PreferenceModel:
    """The recipe on a tiny Llama; the reference's log-probabilities are those of other weights."""
    settings = Prefer(**{"learning_rate": 1e-2, "bf16": False, "torch_compile": False, **training})
    reference = np.linspace(-20, -5, shard.documents).astype(np.float32)
    train, held = (PackedAnswers(shard, reference, length, seed, "error", packed) for seed in (0, None))
    return PreferenceModel(
        settings, lambda: tiny_model("llama", length), train, held, train.mean_length, packed
    )


def reward_model(shard: Shard, training: dict[str, Any], length: int = 32) -> RankingModel:
    """The recipe on a tiny Llama with one number for a head."""
    chosen = {
        "learning_rate": 1e-2,
        "bf16": False,
        "torch_compile": False,
        "center_rewards_coefficient": 0.01,
    }
    settings = RewardModel(**chosen | training)
    train, held = (PackedAnswers(shard, None, length, seed, "error", True) for seed in (0, None))
    return RankingModel(settings, lambda: tiny_classifier(length), train, held, train.mean_length)


def tiny_classifier(length: int) -> Any:
    """A sequence classifier of one class of a tiny Llama's shape."""
    config = tiny_model("llama", length).config
    config.num_labels = 1
    torch.manual_seed(0)
    net = AutoModelForSequenceClassification.from_config(config, attn_implementation="sdpa")
    return with_padding(net, 2, 1).eval()


WANTED_TOKEN = "5"


def reward_of(completion: str, row: dict[str, Any]) -> float:
    """The share of an answer's tokens that are the wanted one."""
    tokens = completion.split()
    return tokens.count(WANTED_TOKEN) / len(tokens)


def rewarded_model(shard: Shard, training: dict[str, Any], **settings: Any) -> RewardedModel:
    """The recipe on a tiny Llama, whose answers are texts of token numbers."""
    section = Reinforce(
        **{
            "reward": "none.py:none",
            "learning_rate": 1e-2,
            "bf16": False,
            "torch_compile": False,
            "sequence_length": 16,
            "max_completion_length": 6,
            "num_generations": 4,
            **training,
            **settings,
        }
    )
    train, held = (PromptRows(shard, [{}] * shard.documents, 10, seed) for seed in (0, None))
    return RewardedModel(
        section,
        lambda: tiny_model("llama", 16, scale=0.02),
        train,
        held,
        16,
        packed=False,
        reward=reward_of,
        reference=(lambda: tiny_model("llama", 16, scale=0.02)) if section.beta else None,
    )
