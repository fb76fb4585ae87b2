"""DeepSpeed's ZeRO 1, 2 and 3, with the config generated from the run's."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.run.config import Loop, Optimizer
from pipeline.run.plan import Batches
from pipeline.train.engine.interface import (
    OPTIMIZER_STATE,
    STEPPED,
    NonFinite,
    optimizer_of,
    set_rates,
    trainable_of,
)
from pipeline.train.engine.runtime import Runtime
from pipeline.train.engine.schedule_free import counted, factors_before
from pipeline.train.optimizer import rule_of


class DeepSpeedEngine:
    """ZeRO 1, 2 or 3: sharded optimizer state, gradients and weights; bf16 weights over fp32 masters."""

    def __init__(
        self,
        module: nn.Module,
        groups: list[dict],
        optimizer: Optimizer,
        training: Loop,
        batch: Batches,
        runtime: Runtime,
    ):
        import deepspeed

        self.stage, self.rank, self.world_size = runtime.zero_stage, runtime.rank, runtime.world_size
        self.trainable = trainable_of(module)
        self.factors = partial(factors_before, optimizer=optimizer, training=training)
        self.rules = {id(p): group["rule"] for group in groups for p in group["params"]}
        self.muon = "muon" in self.rules.values()
        # DeepSpeed flattens parameters by rows, and cannot broadcast other layouts (0.19.8).
        for parameter in module.parameters():
            parameter.data = parameter.data.clone(memory_format=torch.contiguous_format)
        if runtime.device.type == "cpu":
            # DeepSpeed compiles a shared-memory all-reduce that inference alone calls: 37 s on two cores, and whoever
            # is killed meanwhile leaves a lock for which every later process of this user waits for ever (0.19.8).
            deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        self.deepspeed, self.zero, _, _ = deepspeed.initialize(
            model=module,
            optimizer=optimizer_of(groups, rule_of(optimizer.optim)),
            config=deepspeed_config(optimizer, training, batch, runtime),
        )
        self.module, self.forward = module, self.deepspeed
        whole = self.stage < 3
        self.flats = (
            self.zero.single_partition_of_fp32_groups if whole else self.zero.fp32_partitioned_groups_flat
        )
        # DeepSpeed links optimizer state to parameters after the first group's first update, when the other groups
        # have none yet (0.19.8); state made beforehand is linked whole.
        self._make_state(())

    def learns(self, learning: bool) -> None:
        for _, parameter in self.trainable:
            parameter.requires_grad_(learning)

    def precision(self) -> AbstractContextManager:
        return nullcontext()

    def opens(self, last: bool) -> None:
        self.deepspeed.set_gradient_accumulation_boundary(last)

    def backward(self, loss: Tensor, last: bool) -> None:
        self.deepspeed.backward(loss, scale_wrt_gas=False)
        if not last:
            self.deepspeed.step()

    def update(self, factor: float) -> float | None:
        set_rates(self.zero, factor)
        self.deepspeed.step()
        if self.zero.overflow:
            raise NonFinite("a gradient is not finite")
        return None if self.muon else float(self.deepspeed.get_global_grad_norm())

    def discard(self) -> None:
        # Its own way to leave a step out, for gradients that are not finite, clears all that accumulated (0.19.8).
        self.zero.check_overflow = lambda *given, **named: setattr(self.zero, "overflow", True)
        try:
            self.deepspeed.step()
        finally:
            del self.zero.check_overflow

    def masters(self) -> list[Tensor]:
        return list(self.flats)

    def points(self) -> list[Tensor]:
        return [self.zero.optimizer.state[flat]["z"] for flat in self.flats]

    def refresh(self) -> None:
        if self.stage < 3:
            self.zero.update_lp_params()
            return
        self.zero._partition_all_parameters()
        for group in range(len(self.flats)):
            self.zero._reassign_or_swap_out_partitioned_parameters(group)
        if self.zero.persistent_parameters:
            self.zero.persistent_parameters[0].all_gather(self.zero.persistent_parameters)

    def state(self, names: tuple[str, ...]) -> Iterator[tuple[str, Tensor]]:
        from deepspeed.utils import safe_get_full_fp32_param

        for name, parameter in self.trainable:
            for kind in names:
                if kind == "weight":
                    yield f"weight/{name}", safe_get_full_fp32_param(parameter)
                elif kind in self._kinds(parameter):
                    yield f"{kind}/{name}", self._whole_state(parameter, kind)

    @torch.no_grad()
    def load(self, read: Callable[[str], Tensor], updates: Sequence[int]) -> None:
        self._make_state(updates)
        for name, parameter in self.trainable:
            for kind in ("weight", *self._kinds(parameter)):
                self._set(parameter, kind, read(f"{kind}/{name}").to(self.flats[0].device))
        self.refresh()

    def _set(self, parameter: nn.Parameter, kind: str, whole: Tensor) -> None:
        """Put a whole fp32 tensor where this process keeps its part of it."""
        from deepspeed import utils

        if self.stage == 3:
            # DeepSpeed's setter of whole tensors forgets that the last process's part is padded (0.19.8).
            size = parameter.ds_tensor.numel()
            parts = nn.functional.pad(whole.flatten(), (0, size * self.world_size - whole.numel()))
            part = parts.narrow(0, size * self.rank, size)
            if kind == "weight":
                utils.safe_set_local_fp32_param(parameter, part)
            else:
                utils.safe_set_local_optimizer_state(parameter, part, kind)
        elif kind == "weight":
            utils.safe_set_full_fp32_param(parameter, whole)
        elif kind == "momentum_buffer":
            self._set_momentum(parameter, whole)
        else:
            utils.safe_set_full_optimizer_state(parameter, whole, kind)

    def _kinds(self, parameter: nn.Parameter) -> tuple[str, ...]:
        return OPTIMIZER_STATE[self.rules[id(parameter)]]

    def _whole_state(self, parameter: nn.Parameter, kind: str) -> Tensor:
        from deepspeed.utils import safe_get_full_optimizer_state

        if kind != "momentum_buffer" or self.stage == 3:
            return safe_get_full_optimizer_state(parameter, kind)
        return self._momentum(parameter)

    def _momentum(self, parameter: nn.Parameter) -> Tensor:
        """Muon's momentum of one parameter, gathered from the one process that holds its first element.

        ZeRO 1 and 2 keep it whole on every process that updates a part of the parameter, outside the shards that
        DeepSpeed's own accessors read.
        """
        whole = torch.zeros(parameter.shape, dtype=torch.float32, device=parameter.device)
        mapping = parameter._hp_mapping
        if mapping is not None and mapping.lp_fragment_address.start == 0:
            whole.copy_(self._momentum_slice(parameter))
        torch.distributed.all_reduce(whole)
        return whole

    def _set_momentum(self, parameter: nn.Parameter, whole: Tensor) -> None:
        if parameter._hp_mapping is not None:
            self._momentum_slice(parameter).copy_(whole)

    def _momentum_slice(self, parameter: nn.Parameter) -> Tensor:
        for group, flat in enumerate(self.flats):
            start = 0
            for member in self.zero.params_in_partition[group]:
                if member is parameter:
                    buffer = self.zero.optimizer.state[flat]["momentum_buffer"]
                    return buffer.narrow(0, start, member.numel()).view(member.shape)
                start += member.numel()
        raise AssertionError("a parameter with a shard here is in no partition here")

    def _make_state(self, updates: Sequence[int]) -> None:
        """Empty optimizer state in the shapes that the first update would give it."""
        for index, flat in enumerate(self.flats):
            group = index if self.stage < 3 else self.zero.sub_group_to_group_id[index]
            rule = self.zero.optimizer.param_groups[group]["rule"]
            if rule == "muon":
                members = [flat] if self.stage == 3 else self.zero.params_in_partition[index]
                momentum = torch.zeros(sum(member.numel() for member in members), device=flat.device)
                self.zero.optimizer.state[flat] = {"momentum_buffer": momentum}
                continue
            self.zero.optimizer.state[flat] = {
                kind: flat.detach().clone() if kind == "z" else torch.zeros_like(flat)
                for kind in OPTIMIZER_STATE[rule]
            }
            if rule == "schedule_free_adamw":
                peak = self.zero.optimizer.param_groups[group]["peak"]
                self.zero.optimizer.state[flat] |= counted(peak, self.factors(updates))
            if rule in STEPPED:
                self.zero.optimizer.state[flat]["step"] = torch.tensor(float(len(updates)), device=flat.device)
        if self.stage < 3:
            self.zero._hp_optimizer_states_linked = False
            self.zero._lazy_init_hp_params_optimizer_state()


def deepspeed_config(
    optimizer: Optimizer, training: Loop, batch: Batches, runtime: Runtime
) -> dict[str, Any]:
    """DeepSpeed's config, generated from the run's over what the user's own says; nothing is left on `auto`."""
    muon = optimizer.optim == "muon"
    zero: dict[str, Any] = {"stage": runtime.zero_stage, "overlap_comm": runtime.device.type == "cuda"}
    if runtime.zero_stage == 3:
        zero["reduce_scatter"] = not muon  # DeepSpeed refuses Muon with reduce-scatter
    if runtime.offload_optimizer != "none":
        zero["offload_optimizer"] = {
            "device": runtime.offload_optimizer,
            "pin_memory": runtime.device.type == "cuda",
        }
    if runtime.offload_param != "none":
        zero["offload_param"] = {"device": runtime.offload_param, "pin_memory": runtime.device.type == "cuda"}
    own = _without_auto(runtime.own_deepspeed)
    return own | {
        "train_micro_batch_size_per_gpu": batch.micro,
        "gradient_accumulation_steps": batch.accumulation,
        "train_batch_size": batch.micro * batch.accumulation * runtime.world_size,
        "zero_optimization": own.get("zero_optimization", {}) | zero,
        "bf16": {"enabled": training.bf16},
        "gradient_clipping": optimizer.max_grad_norm,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1_000_000_000,
    }


def _without_auto(config: dict[str, Any]) -> dict[str, Any]:
    """A DeepSpeed config without the entries that accelerate's own integration would fill in."""
    kept = {key: _without_auto(value) if isinstance(value, dict) else value for key, value in config.items()}
    return {key: value for key, value in kept.items() if value != "auto"}
