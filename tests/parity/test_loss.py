"""Catches a chunked loss that is not PyTorch's: at a chunk's edge, at ignored labels, in bf16, in its gradient."""

import pytest
import torch
import torch.nn.functional as F

from pipeline.data.packing import IGNORED
from pipeline.lm import recipe as lm
from pipeline.lm.recipe import summed_loss

ROWS, POSITIONS, VOCABULARY = 3, 11, 17


@pytest.fixture
def small_chunks(monkeypatch) -> None:
    """Five positions at a time: the 33 of a batch end within a chunk."""
    monkeypatch.setattr(lm, "rows_at_once", lambda logits: 5)


def given(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(ROWS, POSITIONS, VOCABULARY, generator=random)
    labels = torch.randint(VOCABULARY, (ROWS, POSITIONS), generator=random)
    labels[0, ::3] = IGNORED
    return logits.to(dtype), labels


def loss_and_gradient(
    function, logits: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    logits = logits.clone().requires_grad_()
    total = function(logits, labels)
    (total * 0.125).backward()
    return total.detach(), logits.grad


def pytorch(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(
        logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum"
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_loss_and_gradient_are_pytorchs(small_chunks, dtype):
    logits, labels = given(dtype)
    ours, our_gradient = loss_and_gradient(summed_loss, logits, labels)
    theirs, their_gradient = loss_and_gradient(pytorch, logits, labels)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)
    assert our_gradient.dtype == dtype
    # one unit in the last place of a probability: 2e-7 in fp32, 2^-8 in bf16
    torch.testing.assert_close(
        our_gradient, their_gradient, rtol=2**-8 if dtype == torch.bfloat16 else 1e-5, atol=1e-8
    )


def test_a_loss_that_none_learns_from_is_the_same():
    logits, labels = given(torch.bfloat16)
    learnt, _ = loss_and_gradient(summed_loss, logits, labels)
    assert summed_loss(logits, labels) == learnt


def test_a_batch_without_targets_costs_nothing():
    logits, labels = given(torch.float32)
    total, gradient = loss_and_gradient(summed_loss, logits, torch.full_like(labels, IGNORED))
    assert total == 0 and not gradient.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_logits_are_left_as_they_were(dtype):
    logits, labels = given(dtype)
    before = logits.clone()
    summed_loss(logits.requires_grad_(), labels).backward()
    assert torch.equal(logits, before)
