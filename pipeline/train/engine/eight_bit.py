"""AdamW whose moments are stored in 8 bits, a scale for each 256 of them (arXiv:2110.02861): bitsandbytes' own."""

import logging

import torch

KINDS = ("state1", "state2", "absmax1", "absmax2")  # codes of both moments, and their scales


def adamw_8bit(groups: list[dict]) -> torch.optim.Optimizer:
    """Moments of fewer than 4,096 numbers stay fp32, without scales."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # of a kernel that nothing here calls
    from bitsandbytes.optim import AdamW8bit

    return AdamW8bit(groups)


def empty_state(optimizer: torch.optim.Optimizer, parameter: torch.nn.Parameter, steps: int) -> dict:
    """The state that the first update would give the parameter, after `steps` of them."""
    for number, group in enumerate(optimizer.param_groups):
        for place, member in enumerate(group["params"]):
            if member is parameter:
                optimizer.init_state(group, parameter, number, place)
    state = optimizer.state[parameter]
    state["step"] = steps
    return state
