"""Catches a shadow that lags by one update, shares the weights' memory, or is lost in a swap."""

import torch

from pipeline.train.ema import Ema

DECAY = 0.9


def masters():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for shape in ((3, 4), (5,))]


def moved(tensors, step):
    """As an optimizer would: in place, so that the average must not hold the same memory."""
    for tensor in tensors:
        tensor.add_(0.1 * (step + 1))


def test_it_follows_the_definition():
    weights = masters()
    ema = Ema(weights, DECAY)
    naive = [weight.double() for weight in weights]
    for step in range(20):
        moved(weights, step)
        ema.update()
        naive = [
            DECAY * shadow + (1 - DECAY) * weight.double()
            for shadow, weight in zip(naive, weights, strict=True)
        ]
    worst = max((s.double() - n).abs().max().item() for s, n in zip(ema.shadows, naive, strict=True))
    assert worst < 2e-6  # measured 6.5e-7 at values near 20, which is fp32 rounding


def test_it_starts_at_the_weights_and_shares_no_memory_with_them():
    weights = masters()
    ema = Ema(weights, DECAY)
    before = [shadow.clone() for shadow in ema.shadows]
    moved(weights, 0)
    assert all(torch.equal(shadow, old) for shadow, old in zip(ema.shadows, before, strict=True))


def test_a_swap_exchanges_values_within_and_restores_them_after():
    weights = masters()
    ema = Ema(weights, DECAY)
    moved(weights, 0)
    ema.update()
    live, shadow = [w.clone() for w in weights], [s.clone() for s in ema.shadows]
    with ema.swapped():
        assert all(torch.equal(w, s) for w, s in zip(weights, shadow, strict=True))
        assert all(torch.equal(s, w) for s, w in zip(ema.shadows, live, strict=True))
    assert all(torch.equal(w, s) for w, s in zip(weights, live, strict=True))
    assert all(torch.equal(s, o) for s, o in zip(ema.shadows, shadow, strict=True))


def test_an_error_within_a_swap_restores_the_weights():
    weights = masters()
    ema = Ema(weights, DECAY)
    moved(weights, 0)
    live = [w.clone() for w in weights]
    try:
        with ema.swapped():
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert all(torch.equal(w, s) for w, s in zip(weights, live, strict=True))
