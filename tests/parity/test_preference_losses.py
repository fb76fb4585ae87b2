"""Catches a loss of preference tuning, or its gradient, that TRL does not compute on the same model and pairs."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM

from pipeline.data.kinds import FOREIGN, UNWANTED, WANTED
from pipeline.data.pairs import PackedAnswers
from pipeline.lm.config import Prefer
from pipeline.lm.model import save_model
from pipeline.lm.tuning.losses import Answers, log_one_minus_exp, preference_terms
from pipeline.lm.tuning.preference import AnswerLogps, PreferenceModel
from pipeline.train.recipe import Clock
from tests.stages.tiny_model import POSITIONS, VOCABULARY, make_model, make_tokenizer
from tests.tiny_preferences import Answer, plain_logps, shard_of_answers

BETA = 0.3
# Of a loss and of the largest gradient, relative: fp32 sums in another order. Worst seen 6e-7 and 3e-6.
LOSS, GRADIENT = 1e-5, 3e-5
WORDS = "what is the end of a thing that ends it and then the other thing".split()


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A tiny model with its tokenizer, as a directory."""
    directory = tmp_path_factory.mktemp("base")
    save_model(make_model(0), make_tokenizer(directory / "tokenizer"), directory / "model")
    return directory / "model"


def moved(model: torch.nn.Module) -> torch.nn.Module:
    """Away from where it began, so that log-ratios are not 0."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model


def said(random: np.random.Generator, most: int) -> str:
    return " ".join(random.choice(WORDS, random.integers(1, most)))


def settings_of(loss_type: str, **given: float) -> Prefer:
    return Prefer(
        loss_type=loss_type,
        beta=BETA,
        bf16=False,
        torch_compile=False,
        max_steps=1,
        train_batch_size=1,
        learning_rate=1e-3,
        sequence_length=POSITIONS,
        **given,
    )


def ours(
    settings: Prefer, base, answers: list[Answer], labels: list[int], folder
) -> tuple[float, dict[str, torch.Tensor]]:
    """The mean loss of units packed in as few rows as they need, and the gradient of each weight."""
    shard = shard_of_answers(folder, answers, labels, VOCABULARY)
    with torch.no_grad():
        reference = plain_logps(AutoModelForCausalLM.from_pretrained(base).eval(), answers).numpy()
    length = (
        512 if settings.loss_type == "kto" else POSITIONS
    )  # all in one row, as they are in one batch of TRL's
    rows = PackedAnswers(shard, reference, length, None, "error", packed=True)
    net = moved(AutoModelForCausalLM.from_pretrained(base)).eval()
    recipe = PreferenceModel(settings, lambda: net, rows, None, length)
    batch = recipe.collate([rows.item(index) for index in range(rows.length)])
    loss = recipe.loss("model", {"model": AnswerLogps(net)}, batch, Clock(0, 0))
    mean = loss.total / recipe.count("model", batch)
    mean.backward()
    return float(mean.detach()), {name: p.grad for name, p in net.named_parameters()}


def agree(ours, theirs) -> None:
    (loss, gradients), (their_loss, their_gradients) = ours, theirs
    assert loss == pytest.approx(their_loss, rel=LOSS)
    assert gradients.keys() == their_gradients.keys()
    for name, gradient in gradients.items():
        expected = their_gradients[name]
        assert (gradient - expected).abs().max() <= GRADIENT * expected.abs().max() + 1e-9, name


def trainer_of(base, folder, kind: str, rows: list[dict], **given):
    """TRL's trainer on these rows, and its one batch; the net has moved away from the reference."""
    import trl

    trainer, config = getattr(trl, f"{kind}Trainer"), getattr(trl, f"{kind}Config")
    arguments = config(
        output_dir=str(folder),
        per_device_train_batch_size=len(rows),
        beta=BETA,
        max_steps=1,
        report_to="none",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        dataloader_pin_memory=False,
        disable_dropout=True,
        **given,
    )
    from transformers import AutoTokenizer

    made = trainer(
        model=str(base),
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(base),
    )
    moved(made.model).eval()
    return made, next(iter(made.get_train_dataloader()))


def theirs(trainer, batch) -> tuple[float, dict[str, torch.Tensor]]:
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    return float(loss.detach()), {name: p.grad for name, p in trainer.model.named_parameters()}


def answers_of(input_ids: torch.Tensor, attended: torch.Tensor, completion: torch.Tensor) -> list[Answer]:
    """Prompt and answer of each row of a padded batch."""
    found = []
    for ids, here, answer in zip(input_ids.tolist(), attended.tolist(), completion.tolist(), strict=True):
        length, begin = sum(here), answer.index(1)
        found.append((ids[:begin], ids[begin:length]))
    return found


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("loss_type", "smoothing"), [("sigmoid", 0.0), ("hinge", 0.0), ("ipo", 0.0), ("robust", 0.2)]
)
def test_losses_with_a_reference_and_their_gradients_are_trls(base, tmp_path, loss_type, smoothing):
    random = np.random.default_rng(0)
    rows = [
        {"prompt": said(random, 6), "chosen": said(random, 5), "rejected": said(random, 5)} for _ in range(6)
    ]
    trainer, batch = trainer_of(
        base, tmp_path / "trl", "DPO", rows, loss_type=[loss_type], label_smoothing=smoothing
    )
    answers = answers_of(batch["input_ids"], batch["attention_mask"], batch["completion_mask"])
    pairs = [answers[place] for unit in range(6) for place in (unit, unit + 6)]
    given = {"label_smoothing": smoothing} if smoothing else {}
    found = ours(settings_of(loss_type, **given), base, pairs, [WANTED, UNWANTED] * 6, tmp_path / "ours")
    agree(found, theirs(trainer, batch))


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore::DeprecationWarning")
def test_kto_and_its_gradient_are_trls_where_a_row_is_its_batch(base, tmp_path):
    random = np.random.default_rng(0)
    rows = [
        {"prompt": said(random, 6), "completion": said(random, 5), "label": bool(number % 3)}
        for number in range(6)
    ]
    weights = {"desirable_weight": 1.5, "undesirable_weight": 0.5}
    trainer, batch = trainer_of(base, tmp_path / "trl", "KTO", rows, loss_type="kto", **weights)
    own = answers_of(batch["input_ids"], batch["attention_mask"], batch["completion_mask"])
    foreign = answers_of(batch["KL_input_ids"], batch["KL_attention_mask"], batch["KL_completion_mask"])
    units = [answer for pair in zip(own, foreign, strict=True) for answer in pair]
    first = [WANTED if wanted else UNWANTED for wanted in batch["label"].tolist()]
    labels = [label for one in first for label in (one, FOREIGN)]
    found = ours(settings_of("kto", **weights), base, units, labels, tmp_path / "ours")
    agree(found, theirs(trainer, batch))


def some_answers(seed: int = 0) -> tuple[Answers, torch.Tensor]:
    """Five units in two rows, the last place of the second row empty; and their log-probabilities as a leaf."""
    torch.manual_seed(seed)
    logps = (-20 * torch.rand(2, 3, 2)).requires_grad_()
    labels = torch.tensor([[[1, 0]] * 3, [[1, 0]] * 2 + [[255, 255]]], dtype=torch.uint8)
    lengths = torch.randint(1, 9, (2, 3, 2))
    return Answers(logps, -20 * torch.rand(2, 3, 2), lengths, labels), logps


@pytest.mark.parametrize("loss_type", ["cpo", "simpo", "orpo"])
def test_losses_without_a_reference_and_their_gradients_are_trls(loss_type):
    """TRL's functions of log-probabilities; the chosen answer's own loss is added here, a token of each pair."""
    from trl.experimental.cpo import CPOTrainer
    from trl.experimental.orpo import ORPOTrainer

    answers, logps = some_answers()
    smoothing = {} if loss_type == "orpo" else {"label_smoothing": 0.1}
    more = {"cpo": {"cpo_alpha": 0.7}, "simpo": {"simpo_gamma": 0.8}, "orpo": {}}[loss_type]
    losses = preference_terms(settings_of(loss_type, **smoothing, **more), answers).losses_BU
    (gradient,) = torch.autograd.grad(losses.sum(), logps)
    fake = SimpleNamespace(
        alpha=0.0,
        beta=BETA,
        label_smoothing=0.1,
        simpo_gamma=0.8,
        loss_type={"cpo": "sigmoid"}.get(loss_type, loss_type),
        accelerator=SimpleNamespace(device=torch.device("cpu")),
    )
    means = logps / answers.lengths
    scores = logps if loss_type == "cpo" else means
    if loss_type == "orpo":
        theirs = -means[..., 0] - ORPOTrainer.odds_ratio_loss(fake, scores[..., 0], scores[..., 1])[0]
    else:
        theirs = CPOTrainer.cpo_loss(fake, scores[..., 0], scores[..., 1])[0]
        theirs = theirs - (0.7 * means[..., 0] if loss_type == "cpo" else 0)
    there = answers.there_BU > 0
    (expected,) = torch.autograd.grad(theirs[there].sum(), logps)
    torch.testing.assert_close(losses[there], theirs[there], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-7)
    assert losses[~there].tolist() == [0.0] and not gradient[1, 2].any()


def test_label_smoothing_weighs_the_loss_of_the_pair_turned_round():
    answers, _ = some_answers()
    turned = answers._replace(logps=answers.logps.flip(-1), reference=answers.reference.flip(-1))
    plain = settings_of("sigmoid")
    right, wrong = (preference_terms(plain, each).losses_BU for each in (answers, turned))
    found = preference_terms(settings_of("sigmoid", label_smoothing=0.2), answers).losses_BU
    torch.testing.assert_close(found, 0.8 * right + 0.2 * wrong)


def test_log_one_minus_exp_keeps_its_digits_at_both_ends():
    x = torch.tensor([-1e-6, -0.1, -0.69, -0.7, -5.0, -60.0])
    x64 = x.double()
    exact = torch.where(x > -1, torch.log(-torch.expm1(x64)), torch.log1p(-torch.exp(x64)))
    torch.testing.assert_close(log_one_minus_exp(x).double(), exact, rtol=1e-6, atol=1e-30)
