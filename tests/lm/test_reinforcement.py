"""Catches a policy loss that TRL does not compute, advantages of the wrong group, answers that the batch decides."""

from collections import defaultdict
from unittest.mock import MagicMock

import pytest
import torch

from pipeline.data.packing import IGNORED
from pipeline.lm.config import Reinforce
from pipeline.lm.tuning.reinforcement import TokenLogps, advantages, policy_terms
from pipeline.lm.tuning.rewards import Reward
from pipeline.run.errors import UserError
from pipeline.train.loop import Trainer, steps
from pipeline.train.recipe import Clock
from tests.tiny_language_model import ALONE, random_documents, shard_of
from tests.tiny_preferences import rewarded_model

LOOP = {"max_steps": 4, "train_batch_size": 4, "per_device_train_batch_size": 4}
SETTINGS = {"reward": "r.py:r", "sequence_length": 64, "max_completion_length": 9, "learning_rate": 1e-3}


def some_answers() -> tuple[torch.Tensor, ...]:
    """Log-probabilities now [6, 7], when sampled and under a reference; advantages; which tokens count."""
    torch.manual_seed(0)
    now = (-3 * torch.rand(6, 7)).requires_grad_()
    sampled, reference = (now.detach() + 0.3 * torch.randn(6, 7) for _ in range(2))
    lengths = torch.tensor([7, 3, 1, 5, 7, 2])
    return now, sampled, reference, torch.randn(6), (torch.arange(7) < lengths[:, None]).float()


def trl_loss(settings: Reinforce, now, sampled, reference, advantage, answered) -> torch.Tensor:
    from trl import GRPOTrainer

    trainer = MagicMock()
    trainer._get_per_token_logps_and_entropies.return_value = (now, torch.zeros_like(now), None)
    for name, value in {
        "top_entropy_quantile": 1.0,
        "off_policy_mask_threshold": None,
        "importance_sampling_level": "token",
        "beta": settings.beta,
        "loss_type": settings.loss_type,
        "epsilon_low": settings.epsilon,
        "epsilon_high": settings.epsilon_high or settings.epsilon,
        "use_vllm": False,
        "max_completion_length": settings.max_completion_length,
        "current_gradient_accumulation_steps": 1,
        "_entropy_bonus_enabled": False,
        "aux_loss_enabled": False,
        "_metrics": defaultdict(lambda: defaultdict(list)),
    }.items():
        setattr(trainer, name, value)
    trainer.args.delta, trainer.args.use_bias_correction_kl = None, False
    trainer.args.steps_per_generation = 1
    trainer.accelerator.gather.side_effect = lambda value: value
    ids = torch.zeros(now.shape, dtype=torch.long)
    given = {
        "prompt_ids": ids[:, :1],
        "prompt_mask": ids[:, :1],
        "completion_ids": ids,
        "completion_mask": answered,
        "advantages": advantage,
        "num_items_in_batch": answered.sum(),
        "old_per_token_logps": sampled,
        "ref_per_token_logps": reference,
    }
    trainer.accelerator.num_processes = 1
    return GRPOTrainer._compute_loss(trainer, None, given)


@pytest.mark.parametrize("beta", [0.0, 0.3])
@pytest.mark.parametrize("epsilon_high", [None, 0.4])
@pytest.mark.parametrize("loss_type", ["grpo", "dr_grpo", "dapo"])
def test_the_loss_and_its_gradient_are_trls(loss_type, epsilon_high, beta):
    settings = Reinforce(
        **SETTINGS, max_steps=1, train_batch_size=1, loss_type=loss_type, beta=beta, epsilon_high=epsilon_high
    )
    now, sampled, reference, advantage, answered = some_answers()
    terms = policy_terms(settings, now, sampled, advantage, answered, reference if beta else None)
    ours = terms.losses_N.sum() / (answered.sum() if loss_type == "dapo" else len(answered))
    theirs = trl_loss(settings, now, sampled, reference, advantage, answered)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)
    gradients = [torch.autograd.grad(loss, now, retain_graph=True)[0] for loss in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-8)


def test_an_advantage_is_a_rewards_distance_from_its_own_groups_mean():
    rewards = torch.tensor([1.0, 3.0, 10.0, 10.0])
    assert advantages(rewards, 2, "none").tolist() == [-1, 1, 0, 0]
    scaled = advantages(rewards, 2, "group")
    assert scaled.tolist() == pytest.approx([-(0.5**0.5), 0.5**0.5, 0, 0], abs=1e-3)


@pytest.fixture
def prompts(tmp_path):
    return shard_of(tmp_path, random_documents(*[3 + number % 5 for number in range(12)]))


def test_an_answer_owes_nothing_to_the_batch_that_it_is_sampled_in(prompts):
    recipe = rewarded_model(prompts, LOOP)
    net = recipe.nets()["model"]
    items = [recipe.data().item(index) for index in range(4)]
    together = recipe.rollouts(net, recipe.collate(items), 4, recipe.train.rows)
    for place, item in enumerate(items):
        alone = recipe.rollouts(net, recipe.collate([item]), 4, recipe.train.rows)
        for answer in range(4):
            row = together.labels[4 * place + answer]
            assert row[row != IGNORED].tolist() == (
                alone.labels[answer][alone.labels[answer] != IGNORED].tolist()
            )
    assert len({tuple(row.tolist()) for row in together.labels}) > 12  # answers of a group differ


def test_answers_that_do_not_end_teach_nothing_where_asked(prompts):
    recipe = rewarded_model(prompts, LOOP, mask_truncated_completions=True)
    nets = recipe.nets()
    batch = recipe.collate([recipe.data().item(index) for index in range(4)])
    loss = recipe.loss("model", nets, recipe.act(nets, batch, Clock(0, 0)), Clock(0, 0))
    ended = loss.parts["stopped"]
    loss.total.backward()
    grown = sum(float(p.grad.abs().sum()) for p in nets["model"].parameters() if p.grad is not None)
    assert (grown > 0) == (ended > 0)


def test_probabilities_are_those_of_the_temperature_that_answers_are_sampled_at(prompts):
    net = rewarded_model(prompts, LOOP).build()
    ids, labels = torch.tensor([[3, 4, 5, 6]]), torch.tensor([[IGNORED, 5, 6, IGNORED]])
    found = TokenLogps(net, False, temperature=0.5)(ids, labels)[0, 1:3]
    expected = (net(input_ids=ids).logits[0] / 0.5).log_softmax(-1)[[1, 2], [5, 6]]
    torch.testing.assert_close(found, expected)


def test_a_reference_is_compared_with_and_does_not_learn(prompts):
    recipe = rewarded_model(prompts, LOOP, beta=0.1)
    nets = recipe.nets()
    prompts = recipe.collate([recipe.data().item(index) for index in range(4)])
    batch = recipe.act(nets, prompts, Clock(0, 0))
    assert float(recipe.loss("model", nets, batch, Clock(0, 0)).parts["kl"]) == pytest.approx(0, abs=1e-4)
    with torch.no_grad():
        for parameter in nets["model"].parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    assert float(recipe.loss("model", nets, batch, Clock(0, 0)).parts["kl"]) > 0.1


def test_a_round_learns_from_the_answers_of_its_beginning_and_stops_at_its_end(prompts):
    recipe = rewarded_model(prompts, LOOP | {"max_steps": 6}, num_iterations=3)
    asked, seen, act = [], [], recipe.act
    recipe.act = lambda *given: asked.append(1) or act(*given)
    trainer = Trainer(recipe, ALONE)
    for info in steps(trainer, stop_asked=lambda: True):
        seen.append((info.stop, len(asked), info.sums["model/reward"], info.sums["model/clipped"].total))
    assert [stop for stop, *_ in seen] == [False, False, True] * 2
    assert [sampled for _, sampled, *_ in seen] == [1, 1, 1, 2, 2, 2]
    assert len({reward for *_, reward, _ in seen}) == 2  # the same answers in a round, others in the next
    clipped = [share for *_, share in seen]
    assert clipped[0] == clipped[3] == 0 and sum(clipped) > 0  # the ratio is 1 only in a round's first update


def test_a_step_whose_answers_were_all_cut_off_teaches_nothing(prompts):
    recipe = rewarded_model(prompts, LOOP, loss_type="dapo", mask_truncated_completions=True)
    act = recipe.act

    def cut(*given):
        made = act(*given)
        return made | {"answered": torch.zeros_like(made["answered"])}

    recipe.act = cut
    trainer = Trainer(recipe, ALONE)
    before = {name: weight.clone() for name, weight in trainer.weights("model").items()}
    info = next(steps(trainer))
    assert info.gradient_norms["model"] == 0 and info.sums["model/loss"].mean == 0
    assert all(torch.equal(weight, before[name]) for name, weight in trainer.weights("model").items())


ROW = {"key": "k", "text": "", "messages": [{"role": "user", "content": "2 + 3?"}], "columns": {"answer": 5}}


def reward(tmp_path, body: str) -> Reward:
    file = tmp_path / "reward.py"
    file.write_text(f"def judge(completion, prompt, answer):\n    {body}\n")
    return Reward(f"{file}:judge")


def test_a_reward_is_given_the_text_the_prompt_and_the_rows_columns(tmp_path):
    found = reward(tmp_path, "return len(completion) + len(prompt) + answer")
    assert found("ab", ROW) == 2 + len("2 + 3?") + 5


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return 1 / 0", "raised ZeroDivisionError"),
        ("return 'good'", "returned 'good', which is no finite number"),
        ("return float('nan')", "returned nan, which is no finite number"),
        ("return None", "returned None"),
    ],
)
def test_a_reward_that_fails_names_the_answer_that_broke_it(tmp_path, body, said):
    with pytest.raises(UserError, match="prompt k; completion: 'ab'") as refused:
        reward(tmp_path, body)("ab", ROW)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("judge", "names no function"),
        ("nowhere.py:judge", "no file nowhere.py"),
        ("{file}:juge", "has no function 'juge'"),
        ("{broken}:judge", "cannot be imported: SyntaxError"),
    ],
)
def test_a_reward_that_is_not_there_is_refused(tmp_path, spec, said):
    (tmp_path / "r.py").write_text("def judge(completion, **row):\n    return 1\n")
    (tmp_path / "broken.py").write_text("def judge(\n")
    with pytest.raises(UserError, match=said):
        Reward(spec.format(file=tmp_path / "r.py", broken=tmp_path / "broken.py"))
