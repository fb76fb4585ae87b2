"""The memory that a backward pass needs of its forward, counted by running it on tensors that have none."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn


def kept_bytes(
    nets: Iterable[nn.Module], forward: Callable[[], Tensor], dtype: torch.dtype, autocast: bool
) -> int:
    """Bytes that autograd keeps of `forward()` until its backward, parameters left out.

    nets: made on the meta device; they are given to `forward` as nets on a CPU would be, in `dtype`, without memory or
    arithmetic. autocast: the forward is in bfloat16 over these weights.
    """
    nets = list(nets)
    kept: dict[int, Tensor] = {}  # by storage; holding the tensor keeps its identity from being given again

    def keep(tensor: Tensor) -> Tensor:
        kept.setdefault(_storage(tensor), tensor)
        return tensor

    precision = torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext()
    with without_memory(nets, dtype):
        own = {_storage(parameter) for net in nets for parameter in net.parameters()}
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), precision:
            forward()
    return sum(tensor.untyped_storage().nbytes() for key, tensor in kept.items() if key not in own)


@contextmanager
def without_memory(nets: Iterable[nn.Module], dtype: torch.dtype) -> Iterator[None]:
    """Within, every tensor is a shape on a CPU, without memory or arithmetic; so are `nets`, from the meta device."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    # A compiled kernel would read the memory that is not there.
    with FakeTensorMode(), torch.compiler.set_stance("force_eager"):
        for net in nets:
            _place(net, dtype)
        yield


def _place(net: nn.Module, dtype: torch.dtype) -> None:
    """Put every parameter and buffer of `net` on the CPU, tied ones once."""
    placed: dict[int, nn.Parameter] = {}
    for module in net.modules():
        for name, given in list(module.named_parameters(recurse=False, remove_duplicate=False)):
            if id(given) not in placed:
                empty = torch.empty(given.shape, dtype=dtype if given.is_floating_point() else given.dtype)
                placed[id(given)] = nn.Parameter(empty, requires_grad=given.requires_grad)
            setattr(module, name, placed[id(given)])
        for name, given in list(module.named_buffers(recurse=False)):
            setattr(module, name, torch.empty(given.shape, dtype=given.dtype))


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
