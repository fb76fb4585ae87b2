"""Catches a singular value that is off, that depends on how often it was asked for, or that gradients pass by."""

import pytest
import torch
from torch import nn

from recipes.gan.spectral import largest_singular_value, normalise


@pytest.mark.parametrize("shape", [(1, 64), (64, 1), (32, 512), (512, 32), (128, 128), (1000, 64)])
@pytest.mark.parametrize("seed", range(3))
def test_a_random_matrix_gets_its_largest_singular_value(shape, seed):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    exact = torch.linalg.matrix_norm(matrix.double(), 2)
    found = largest_singular_value(matrix)
    assert found <= exact * (1 + 1e-6)
    assert found > exact * 0.998  # measured at worst 0.99901


def test_the_value_is_exact_where_it_stands_apart():
    left, _ = torch.linalg.qr(torch.randn(40, 40, generator=torch.Generator().manual_seed(0)))
    right, _ = torch.linalg.qr(torch.randn(40, 40, generator=torch.Generator().manual_seed(1)))
    values = torch.cat([torch.tensor([3.0]), torch.linspace(2, 0, 39)])
    assert largest_singular_value(left @ values.diag() @ right).item() == pytest.approx(3, rel=1e-6)


def test_a_forward_leaves_no_trace():
    torch.manual_seed(0)
    net = normalise(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8, 1)))
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    outputs = [net.train()(torch.ones(1, 3, 3, 3)) for _ in range(3)] + [net.eval()(torch.ones(1, 3, 3, 3))]
    assert all(torch.equal(output, outputs[0]) for output in outputs)
    assert before.keys() == net.state_dict().keys() and not list(net.named_buffers())
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def test_every_kind_of_layer_is_divided_and_the_division_is_learnt_through():
    torch.manual_seed(0)
    net = normalise(nn.ModuleList([nn.Conv2d(3, 8, 3), nn.Linear(8, 5), nn.Embedding(10, 8)]))
    for layer in net:
        assert torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2).item() == pytest.approx(
            1, abs=0.02
        )
    weight = net[1].parametrizations.weight.original
    net[1].weight.sum().backward()
    # A weight over its norm does not change when it is scaled: no gradient along itself.
    assert (weight.grad * weight).sum().abs() < 1e-4 * weight.grad.norm() * weight.norm()


def test_half_precision_around_it_does_not_reach_it():
    matrix = torch.randn(32, 64, generator=torch.Generator().manual_seed(0))
    layer = nn.Linear(64, 32, bias=False)
    with torch.no_grad():
        layer.weight.copy_(matrix)
    normalise(layer)
    expected = matrix / largest_singular_value(matrix)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer.weight.detach(), expected)
