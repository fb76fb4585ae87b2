"""The only importer of accelerate and deepspeed: backward and update of one net, on any launcher.

Two engines with one face. `PlainEngine` is one process or DDP; `DeepSpeedEngine` is ZeRO 1, 2 and 3. Both average
gradients over processes, so the loop multiplies by the number of processes once, and both refuse to update on a
gradient that is not finite.
"""

import json
import math
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pipeline.config import Loop, Optimizer
from pipeline.errors import UserError
from pipeline.launch import flat_deepspeed
from pipeline.optimizer import parameter_groups
from pipeline.plan import Batches, check_optimizer


class NonFinite(ArithmeticError):
    """The loss or a gradient is not finite; raised on every process alike, before any weight has changed."""


@dataclass(frozen=True)
class Runtime:
    """This process among its peers, as the launcher made them."""

    rank: int
    world_size: int
    device: torch.device
    zero_stage: int | None  # None: no DeepSpeed
    offload_optimizer: str = "none"
    offload_param: str = "none"
    own_deepspeed: dict[str, Any] = field(
        default_factory=dict
    )  # a user's own DeepSpeed config, checked by launch.py

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """`tensor` summed over processes, in place."""
        if self.world_size > 1:
            torch.distributed.all_reduce(tensor)
        return tensor

    def barrier(self) -> None:
        if self.world_size > 1:
            self.sum(torch.zeros(1, device=self.device))

    def agree(self, number: int) -> int:
        """Process 0's `number`, on every process."""
        return int(self.sum(torch.tensor(number if self.is_main else 0, device=self.device)))

    def describe(self) -> str:
        kind = (
            f"ZeRO-{self.zero_stage}" if self.zero_stage else "DDP" if self.world_size > 1 else "one process"
        )
        return f"{kind}, {self.world_size} x {self.device.type}"


def start_runtime(threads: int | None = None) -> Runtime:
    """Join the process group that `accelerate launch` prepared (none for a plain `python -m`).

    threads: CPU threads of this process; None: cores divided by the local processes.

    Raises:
        UserError: a ZeRO stage of 0, which DeepSpeed would run without sharding.
    """
    from accelerate import PartialState

    has_gpu = torch.cuda.is_available()
    launched = int(os.environ.get("WORLD_SIZE", "1")) > 1 or _zero_settings()["zero_stage"] is not None
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(threads or max(1, cores // local))
    backend = {} if has_gpu or not launched else {"backend": "gloo"}
    state = PartialState(cpu=not has_gpu, **backend)
    return Runtime(state.process_index, state.num_processes, state.device, **_zero_settings())


def _zero_settings() -> dict[str, Any]:
    """What the launch file, or the DeepSpeed config it names, says of ZeRO; nothing without DeepSpeed."""
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "false") != "true":
        return {"zero_stage": None}
    settings = {
        "zero_stage": int(os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")),
        "offload_optimizer": os.environ.get("ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE", "none"),
        "offload_param": os.environ.get("ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE", "none"),
    }
    if file := os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE"):
        own = json.loads(Path(file).read_text())
        names = {"zero_stage": "zero_stage", "offload_optimizer": "offload_optimizer_device"}
        names["offload_param"] = "offload_param_device"
        flat = flat_deepspeed(own)
        settings |= {ours: flat[theirs] for ours, theirs in names.items() if theirs in flat}
        settings["own_deepspeed"] = own
    if settings["zero_stage"] == 0:
        raise UserError(
            "zero_stage: 0 shards nothing\nexpected: 1, 2 or 3, or launch/ddp.yaml for plain data parallelism"
        )
    return settings


def stop_runtime() -> None:
    """Leave the process group; without it a finished ZeRO-3 run can end with a non-zero code."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def open_trackers(names: tuple[str, ...], run_name: str, logs: Path, config: dict[str, Any]) -> list[Any]:
    """accelerate's trackers by name, each with `log(values, step)` and `finish()`; their files go below `logs`."""
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    opened = []
    for name in names:
        kind = LOGGER_TYPE_TO_CLASS[name]
        tracker = kind(run_name, *([logs] if kind.requires_logging_directory else []))
        tracker.start()
        tracker.store_init_configuration({key: str(value) for key, value in config.items()})
        opened.append(tracker)
    return opened


class Engine(Protocol):
    """One net, its optimizer, and how both are spread over processes.

    module: the bare net, for forwards in which it does not learn; forward: call this one where it does.
    """

    module: nn.Module
    forward: nn.Module

    def learns(self, learning: bool) -> None:
        """Turn gradients of the trainable parameters on or off."""

    def precision(self) -> AbstractContextManager:
        """The context of a forward: autocast where the weights are fp32 and the compute is bf16."""

    def opens(self, last: bool) -> None:
        """Announce a micro-batch, before its forward; `last` closes the optimizer step's accumulation."""

    def backward(self, loss: Tensor, last: bool) -> None:
        """Add this micro-batch's gradients."""

    def update(self, factor: float) -> float | None:
        """Clip, update the weights at `factor` times the peak rates, clear the gradients; return the L2 norm.

        The norm is that of the gradient before clipping, over all processes; None with Muon under ZeRO, which turns
        gradients into orthogonal updates while it reduces them. Raises NonFinite instead of updating.
        """

    def masters(self) -> list[Tensor]:
        """The fp32 tensors that this process updates: whole parameters, or its ZeRO shards."""

    def refresh(self) -> None:
        """Make the compute weights follow masters that were changed from outside."""

    def state(self, names: tuple[str, ...]) -> Iterator[tuple[str, Tensor]]:
        """(`kind/parameter`, whole fp32 tensor) for each trainable parameter and kind in `names`.

        Every process yields the same keys in the same order and must exhaust the iterator (it gathers).
        """

    def load(self, read: Callable[[str], Tensor], steps: int) -> None:
        """Restore weights and optimizer state after `steps` updates, key by key through `read`."""


OPTIMIZER_STATE = {"adamw": ("exp_avg", "exp_avg_sq"), "muon": ("momentum_buffer",)}


def build_engine(
    module: nn.Module, optimizer: Optimizer, training: Loop, batch: Batches, runtime: Runtime
) -> Engine:
    """The engine that fits the launcher.

    Raises:
        UserError: muon with clipping, or with no hidden matrix to update.
    """
    check_optimizer(optimizer, training.max_steps)
    module.to(runtime.device)
    groups = parameter_groups(module, optimizer)
    if optimizer.optim == "muon" and not any(group["use_muon"] for group in groups):
        raise UserError("optim: muon found no hidden matrix in this model\nway out: optim: adamw")
    if runtime.zero_stage:
        return DeepSpeedEngine(module, groups, optimizer, training, batch, runtime)
    return PlainEngine(module, groups, optimizer, training, runtime)


def _optimizer(groups: list[dict], kind: str) -> torch.optim.Optimizer:
    """Fused AdamW, or Muon with fused AdamW for the rest: DeepSpeed's class, whose arithmetic ZeRO shares."""
    if kind == "adamw":
        return torch.optim.AdamW(groups, fused=True)
    from deepspeed.runtime.zero.muon.muon_optimizer import MuonWithAuxAdam

    for group in groups:
        for parameter in group["params"]:
            parameter.use_muon = group[
                "use_muon"
            ]  # where ZeRO looks; without it a matrix silently gets plain SGD
    return MuonWithAuxAdam(groups, adam_optimizer=torch.optim.AdamW, adam_optimizer_kwargs={"fused": True})


def _set_rates(optimizer: Any, factor: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor


def _trainable(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]


# DDP's reducer must not be freed while gloo's thread still holds its last tensor: each then waits for the other.
# Programs end by `stage.leave`, which frees nothing.
_DDP_OF_THIS_PROCESS: list[nn.Module] = []


class PlainEngine:
    """One process, or DDP over several: fp32 weights, bf16 by autocast."""

    def __init__(
        self,
        module: nn.Module,
        groups: list[dict],
        optimizer: Optimizer,
        training: Loop,
        runtime: Runtime,
    ):
        self.module = module
        self.forward = nn.parallel.DistributedDataParallel(module) if runtime.world_size > 1 else module
        if self.forward is not module:
            _DDP_OF_THIS_PROCESS.append(self.forward)
        self.trainable = _trainable(module)
        self.optimizer = _optimizer(groups, optimizer.optim)
        self.max_norm = optimizer.max_grad_norm or math.inf
        self.autocast = training.bf16
        self.device = runtime.device.type

    def learns(self, learning: bool) -> None:
        for _, parameter in self.trainable:
            parameter.requires_grad_(learning)

    def precision(self) -> AbstractContextManager:
        return torch.autocast(self.device, torch.bfloat16) if self.autocast else nullcontext()

    def opens(self, last: bool) -> None:
        if self.forward is not self.module:
            self.forward.require_backward_grad_sync = last  # read by DDP's forward

    def backward(self, loss: Tensor, last: bool) -> None:
        loss.backward()

    def update(self, factor: float) -> float:
        parameters = [parameter for _, parameter in self.trainable]
        norm = nn.utils.clip_grad_norm_(parameters, self.max_norm, foreach=True).item()
        if not math.isfinite(norm):
            self.optimizer.zero_grad()
            raise NonFinite(f"the gradient norm is {norm}")
        _set_rates(self.optimizer, factor)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return norm

    def masters(self) -> list[Tensor]:
        return [parameter for _, parameter in self.trainable]

    def refresh(self) -> None:
        """The masters are the weights."""

    def state(self, names: tuple[str, ...]) -> Iterator[tuple[str, Tensor]]:
        for name, parameter in self.trainable:
            for kind in names:
                if kind == "weight":
                    yield f"weight/{name}", parameter.detach()
                elif kind in self.optimizer.state[parameter]:
                    yield f"{kind}/{name}", self.optimizer.state[parameter][kind]

    @torch.no_grad()
    def load(self, read: Callable[[str], Tensor], steps: int) -> None:
        owners = {id(p): group for group in self.optimizer.param_groups for p in group["params"]}
        for name, parameter in self.trainable:
            parameter.copy_(read(f"weight/{name}"))
            kinds = OPTIMIZER_STATE["muon" if owners[id(parameter)]["use_muon"] else "adamw"]
            state = {kind: read(f"{kind}/{name}").to(parameter.device) for kind in kinds}
            if "exp_avg" in state:
                state["step"] = torch.tensor(float(steps), device=parameter.device)
            self.optimizer.state[parameter] = state


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

        self.stage = runtime.zero_stage
        self.trainable = _trainable(module)
        self.muon = {id(p) for group in groups if group["use_muon"] for p in group["params"]}
        self.deepspeed, self.zero, _, _ = deepspeed.initialize(
            model=module,
            optimizer=_optimizer(groups, optimizer.optim),
            config=deepspeed_config(optimizer, training, batch, runtime),
        )
        self.module, self.forward = module, self.deepspeed
        whole = self.stage < 3
        self.flats = (
            self.zero.single_partition_of_fp32_groups if whole else self.zero.fp32_partitioned_groups_flat
        )
        # DeepSpeed links optimizer state to parameters after the first group's first update, when the other groups
        # have none yet (0.19.8); state made beforehand is linked whole.
        self._make_state(0)

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
        _set_rates(self.zero, factor)
        self.deepspeed.step()
        if self.zero.overflow:
            raise NonFinite("a gradient is not finite")
        return None if self.muon else float(self.deepspeed.get_global_grad_norm())

    def masters(self) -> list[Tensor]:
        return list(self.flats)

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
    def load(self, read: Callable[[str], Tensor], steps: int) -> None:
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        self._make_state(steps)
        for name, parameter in self.trainable:
            safe_set_full_fp32_param(parameter, read(f"weight/{name}").to(self.flats[0].device))
            for kind in self._kinds(parameter):
                whole = read(f"{kind}/{name}").to(self.flats[0].device)
                if kind == "momentum_buffer" and self.stage < 3:
                    self._set_momentum(parameter, whole)
                else:
                    safe_set_full_optimizer_state(parameter, whole, kind)
        self.refresh()

    def _kinds(self, parameter: nn.Parameter) -> tuple[str, ...]:
        return OPTIMIZER_STATE["muon" if id(parameter) in self.muon else "adamw"]

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

    def _make_state(self, steps: int) -> None:
        """Empty optimizer state in the shapes that the first update would give it."""
        for index, flat in enumerate(self.flats):
            group = index if self.stage < 3 else self.zero.sub_group_to_group_id[index]
            if self.zero.optimizer.param_groups[group]["use_muon"]:
                members = [flat] if self.stage == 3 else self.zero.params_in_partition[index]
                momentum = torch.zeros(sum(member.numel() for member in members), device=flat.device)
                self.zero.optimizer.state[flat] = {"momentum_buffer": momentum}
                continue
            moments = {kind: torch.zeros_like(flat) for kind in OPTIMIZER_STATE["adamw"]}
            self.zero.optimizer.state[flat] = {
                "step": torch.tensor(float(steps), device=flat.device),
                **moments,
            }
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
