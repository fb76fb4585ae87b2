"""Designs from designs: what was asked for and the noise it grew from, other noise nearby, the way from one to another.

A design is the sum of its seeds' noise, with weights whose squares add up to 1, so it is noise as the net learnt it.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.run.errors import UserError
from pipeline.run.files import write_json
from recipes.design.asked import NoSuchRequest, label_of
from recipes.design.config import DesignConfig

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from recipes.design.asked import Attribute
    from recipes.diffusion.pipeline import ClassConditionalPipeline

DESIGNS = "designs.json"


@dataclass(frozen=True)
class Design:
    """noise: the weight of each seed's noise; request: the weight of each request, which add up to 1."""

    noise: dict[int, float]
    request: dict[str, float]

    def as_json(self) -> dict[str, Any]:
        return {"noise": list(self.noise.items()), "request": list(self.request.items())}

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> "Design":
        return cls(dict(map(tuple, found["noise"])), dict(map(tuple, found["request"])))


def near(design: Design, seed: int, strength: float) -> Design:
    """The same request from noise that keeps sqrt(1 - strength^2) of the design's; strength 1: all of it is new."""
    kept = math.sqrt(1 - strength**2)
    noise = {one: kept * weight for one, weight in design.noise.items()}
    return Design(noise | {seed: noise.get(seed, 0.0) + strength}, design.request)


def between(first: Design, second: Design, share: float) -> Design:
    """The design `share` of the way: noise along the arc, since noise has a length, and requests by weight."""
    seeds = sorted({*first.noise, *second.noise})
    a, b = ([design.noise.get(seed, 0.0) for seed in seeds] for design in (first, second))
    angle = math.acos(max(-1.0, min(1.0, sum(x * y for x, y in zip(a, b, strict=True)))))
    if angle < 1e-6:
        noise = dict(first.noise)
    else:
        left, right = (math.sin(part * angle) / math.sin(angle) for part in (1 - share, share))
        noise = {seed: left * x + right * y for seed, x, y in zip(seeds, a, b, strict=True)}
    request = {text: (1 - share) * weight for text, weight in first.request.items()}
    for text, weight in second.request.items():
        request[text] = request.get(text, 0.0) + share * weight
    return Design(noise, {text: weight for text, weight in request.items() if weight > 0})


def drawn(
    pipeline: "ClassConditionalPipeline", attributes: "Sequence[Attribute]", designs: "Sequence[Design]"
) -> "np.ndarray":
    """uint8 (N, H, W, C), each whatever is drawn beside it."""
    import numpy as np
    import torch

    noise = []
    for design in designs:
        seeds = sorted(design.noise)
        if len(seeds) == 1:
            noise.append(pipeline.noise(seeds)[0])  # as a seed alone gives it, to the bit
            continue
        weights = torch.tensor([design.noise[seed] for seed in seeds])[:, None, None, None]
        total = (weights * pipeline.noise(seeds)).sum(dim=0)
        # Rounded weights of many steps must not shrink it.
        noise.append(total / weights.square().sum().sqrt())
    labels = [
        {label_of(attributes, text): weight for text, weight in design.request.items()} for design in designs
    ]
    seeds = [min(design.noise) for design in designs]
    images = pipeline(seeds, labels, latents=torch.stack(noise), output_type="np").images
    return (images * 255).round().astype(np.uint8)


def write_drawn(config: DesignConfig, request: str, out: Path, count: int, seed: int) -> str:
    """`headwater draw`: `count` designs of a request, from seeds that begin at `seed`."""
    designs = [Design({seed + place: 1.0}, {request: 1.0}) for place in range(count)]
    return _write(config, designs, out, f"{count} designs of {request or 'anything'!r}")


def write_varied(config: DesignConfig, design: str, out: Path, count: int, strength: float, seed: int) -> str:
    """`headwater vary`: a chosen design, then `count` near it.

    Raises:
        UserError: no such design, or a strength outside of 0 to 1.
    """
    if not 0 < strength <= 1:
        raise UserError(f"--strength {strength:g}\nexpected: above 0, at most 1, where nothing is kept")
    chosen = found(config, design)
    others = [near(chosen, _OTHERS + seed + place, strength) for place in range(count)]
    return _write(config, [chosen, *others], out, f"design {design} and {count} near it")


def write_blended(config: DesignConfig, first: str, second: str, out: Path, count: int) -> str:
    """`headwater blend`: `count` designs on the way from one chosen design to another, both ends among them.

    Raises:
        UserError: no such design, or fewer than two.
    """
    if count < 2:
        raise UserError(f"--count {count}\nexpected: 2 or more, the two ends among them")
    ends = found(config, first), found(config, second)
    designs = [between(*ends, place / (count - 1)) for place in range(count)]
    return _write(config, designs, out, f"{count} designs from {first} to {second}")


_OTHERS = 2**40  # seeds of new noise begin here, so that they are no page's


def found(config: DesignConfig, name: str) -> Design:
    """A design by its number on the page, or as FOLDER:NUMBER of a folder that a verb wrote.

    Raises:
        UserError: no such folder or number.
    """
    folder, _, number = name.rpartition(":")
    directory = Path(folder) if folder else Path(config.run.output_dir) / "sample"
    file = directory / DESIGNS
    if not file.is_file():
        raise UserError(
            f"design {name}: {file} is not there\nexpected: a number of the page, or FOLDER:NUMBER\n"
            "way out: headwater run, to its end"
        )
    designs = json.loads(file.read_text("utf-8"))
    if not number.isdigit() or int(number) >= len(designs):
        raise UserError(f"design {name}: {directory} has the designs 0 to {len(designs) - 1}")
    return Design.from_json(designs[int(number)])


def _write(config: DesignConfig, designs: list[Design], out: Path, said: str) -> str:
    """A PNG each, a sheet of all, and designs.json, from which the next command may choose.

    Raises:
        UserError: the net is not trained yet; `out` holds something; a request that the model does not know.
    """
    from recipes.common.drawn import check_new_folder, trained_of, write_pictures
    from recipes.design.sampler import load_pipeline

    trained = trained_of(config.run.output_dir)
    check_new_folder(out)
    pipeline, attributes = load_pipeline(config, trained)
    for design in designs:
        for text in design.request:
            try:
                label_of(attributes, text)
            except NoSuchRequest as error:
                raise UserError(str(error)) from None
    pictures = drawn(pipeline, attributes, designs)
    write_pictures(pictures, range(len(pictures)), out)
    write_json(out / DESIGNS, [design.as_json() for design in designs])
    return f"{out}: {said}"
