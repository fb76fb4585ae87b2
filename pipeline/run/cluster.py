"""`headwater plan --gpus N ...`: what a training stage needs on GPUs elsewhere, under each way to share it out."""

from dataclasses import dataclass, replace

from pipeline.run.config import Loop
from pipeline.run.launch import Launch
from pipeline.run.machine import Precision
from pipeline.run.memory import Memory, Size, memory, snapshot

GPU_FLOPS = 400e12  # assumed of one GPU: half the matmul rate of an H200; 0.4 of an H100's peak in bf16
# Taken of a GPU before a tensor is there: the CUDA context (0.5 GB) and NCCL's and DeepSpeed's buckets (1 GB).
BESIDE = 1.5e9
USED = 0.92  # of a GPU's memory: what the allocator loses to fragments stays free
WAYS = (
    ("DDP", None, False),
    ("ZeRO-1", 1, False),
    ("ZeRO-2", 2, False),
    ("ZeRO-3", 3, False),
    ("ZeRO-3, offload", 3, True),
)


@dataclass(frozen=True)
class Cluster:
    """GPUs to plan for.

    memory: bytes of one; hosts: that they are spread over; price: of one for an hour, in whatever currency; flops: what
    one reaches, FLOP/s.
    """

    gpus: int
    memory: float
    hosts: int = 1
    price: float = 0.0
    flops: float = GPU_FLOPS


ELSEWHERE = Precision(True, "GPUs of compute capability 8.0 and above assumed, which multiply bf16")


@dataclass(frozen=True)
class Way:
    """One way to share a stage out: bytes on one GPU by part, and on the host for each GPU."""

    name: str
    need: Memory
    host: float
    tested: bool

    @property
    def total(self) -> float:
        return self.need.total + BESIDE


def ways(size: Size, training: Loop, launch: Launch, tested: tuple[int, ...]) -> list[Way]:
    """The ways in the order of what they send between GPUs, least first.

    tested: ZeRO stages that the recipe is tested under.
    """
    found = []
    for name, stage, offload in WAYS:
        shared = replace(launch, zero_stage=stage)
        need, host = memory(size, training, shared), snapshot(size, training, shared)
        if offload:
            need, host = replace(need, optimizer=0.0), host + need.optimizer
        found.append(Way(name, need, host, stage is None or stage in tested))
    return found


def chosen(found: list[Way], cluster: Cluster) -> Way | None:
    """The first that fits and is tested; None: none does."""
    return next((way for way in found if way.tested and way.total <= USED * cluster.memory), None)


def side_by_side(size: Size, training: Loop, launch: Launch, tested: tuple[int, ...], cluster: Cluster) -> list[str]:
    """The ways side by side, and the one to take with its reason."""
    found = ways(size, training, launch, tested)
    hosts = f" on {cluster.hosts} hosts" if cluster.hosts > 1 else ""
    head = f"  {'GB on each of ' + format(cluster.gpus, ',') + ' GPUs of ' + _gb(cluster.memory) + hosts:36}"
    parts = ("weights", "gradients", "optimizer", "activations", "all", "its host")
    rows = [head + "".join(f"{part:>13}" for part in parts)]
    for way in found:
        numbers = (*vars(way.need).values(), way.total, way.host)
        why = "" if way.tested else "  not tested with this recipe"
        why = why or ("" if way.total <= USED * cluster.memory else "  does not fit")
        rows.append(f"    {way.name:34}" + "".join(f"{_gb(number):>13}" for number in numbers) + why)
    rows.append(f"  {_decision(found, cluster)}")
    rows.append(
        f"  assumed: {_gb(BESIDE)} GB a GPU for CUDA's context and buckets; {USED:.0%} of its memory can be filled"
    )
    return rows


def _decision(found: list[Way], cluster: Cluster) -> str:
    taken = chosen(found, cluster)
    if taken is None:
        least = min((way for way in found if way.tested), key=lambda way: way.total)
        return (
            f"does not work: even {least.name} needs {_gb(least.total)} GB a GPU; way out: more GPUs, "
            "gradient_checkpointing: true, a smaller per_device_train_batch_size, or sequence_parallel_size"
        )
    before = [way for way in found[: found.index(taken)] if way.tested]
    why = f"{before[-1].name} needs {_gb(before[-1].total)} GB" if before else "nothing need be shared out"
    room = USED * cluster.memory - taken.total
    return f"takes {taken.name}: the least traffic that fits, with {_gb(room)} GB to spare; {why}"


def cost(flops: float, cluster: Cluster) -> list[str]:
    """Lines of time, and of money where there is a price."""
    hours = flops / (cluster.gpus * cluster.flops) / 3600
    rate = f"{cluster.flops / 1e12:.0f} TFLOP/s a GPU assumed"
    lines = [
        f"  time: about {_hours(hours)} on {cluster.gpus:,} GPUs, {hours * cluster.gpus:,.0f} GPU hours; {rate}"
    ]
    if cluster.price:
        money = hours * cluster.gpus * cluster.price
        lines.append(
            f"  cost: about {money:,.0f} at {cluster.price:g} a GPU hour, without evaluation and pauses"
        )
    return lines


def _hours(hours: float) -> str:
    if hours < 1:
        return f"{60 * hours:.0f} min"
    return f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.1f} days"


def _gb(number: float) -> str:
    return f"{number / 1e9:,.1f}"
