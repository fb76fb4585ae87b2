"""Catches a divergence that is not its definition, a teacher of another vocabulary, and one that learns."""

import pytest
import torch
import torch.nn.functional as F

from pipeline.data.packing import IGNORED
from pipeline.lm.config import Pretrain, Teacher
from pipeline.lm.model import save_model
from pipeline.lm.tuning import distillation
from pipeline.lm.tuning.distillation import (
    DistilledLoss,
    TeacherLogits,
    check_teacher,
    divergence,
    teacher_of,
)
from pipeline.run.errors import UserError
from tests.stages.tiny_model import make_model, make_tokenizer
from tests.tiny_language_model import tiny_model


def asked(**fields) -> Teacher:
    return Teacher(model="t", **fields)


@pytest.mark.parametrize("kind", ["forward", "reverse"])
def test_the_divergence_and_its_gradient_are_torchs(monkeypatch, kind):
    monkeypatch.setattr(distillation, "rows_at_once", lambda logits: 3)
    torch.manual_seed(0)
    own, theirs = torch.randn(10, 7, requires_grad=True), torch.randn(10, 7)
    counted = torch.tensor([1.0, 0, 1, 0.5, 1, 1, 0, 1, 1, 1])
    found = divergence(own, theirs, counted, asked(divergence=kind, temperature=2.0))
    logs = [F.log_softmax(x / 2, -1) for x in (own, theirs)]
    target, given = (logs[1], logs[0]) if kind == "forward" else (logs[0], logs[1])
    expected = 4 * (F.kl_div(given, target, log_target=True, reduction="none").sum(1) * counted).sum()
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad(loss, own)[0] for loss in (found, expected)]
    torch.testing.assert_close(*gradients)


def test_a_model_is_no_distance_from_itself():
    net, rows = tiny_model("llama", 16), torch.randint(3, 37, (2, 16))
    place = torch.arange(16).expand(2, 16)
    documents = torch.zeros(2, 16, dtype=torch.int32)
    labels = torch.where(place < 15, rows.roll(-1, 1), IGNORED)
    theirs = TeacherLogits(net, True)(rows, documents, place, None)
    text, apart = DistilledLoss(net, True, asked())(rows, labels, documents, place, None, None, theirs)
    assert float(apart.detach()) == pytest.approx(0, abs=1e-4) and float(text.detach()) > 30


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    directory = tmp_path_factory.mktemp("teacher")
    save_model(make_model(0), make_tokenizer(directory / "tokenizer"), directory / "model")
    return directory


def training(teacher) -> Pretrain:
    settings = {
        "max_steps": 1,
        "train_batch_size": 1,
        "learning_rate": 1.0,
        "bf16": False,
        "torch_compile": False,
    }
    return Pretrain(**settings, sequence_length=16, teacher=Teacher(model=str(teacher)))


def test_a_teacher_of_another_vocabulary_is_refused(teacher, tmp_path):
    assert teacher_of(training(teacher / "model"), "auto", teacher / "tokenizer").config.vocab_size == 300
    other = make_tokenizer(tmp_path)
    other.add_tokens(["another"])
    other.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="another vocabulary than the model"):
        teacher_of(training(teacher / "model"), "auto", tmp_path)


def test_a_teacher_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"pretrain\.teacher\.model .* holds no config\.json"):
        check_teacher(training(tmp_path), "pretrain")
