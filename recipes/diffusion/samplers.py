"""Which of diffusers' schedulers a sampler is, and with what a recipe predicts.

All are called alike: `set_timesteps(steps)`, then `step(prediction, timestep, x)` for each of its timesteps.
"""

from typing import TYPE_CHECKING, Any

from pipeline.run.errors import UserError
from recipes.diffusion.config import TIMES, Model, Sampler

if TYPE_CHECKING:
    from diffusers import SchedulerMixin

DIFFUSION = ("ddpm", "ddim", "dpm_solver++", "heun", "euler")
# diffusers' DPMSolverMultistepScheduler cuts the times of a flow down to whole numbers, its DDPM and DDIM have none.
FLOW = ("heun", "euler")
TITLES = {
    "ddpm": "DDPM",
    "ddim": "DDIM",
    "dpm_solver++": "DPM-Solver++(2M)",
    "heun": "Heun",
    "euler": "Euler",
}
# Below this log of alpha / sigma a picture is nothing but noise, and 1 / alpha is 164 and more: an error of epsilon
# becomes as many of x_0. What diffusers advises for the cosine schedule.
LAMBDA_MIN = -5.1
# Heun starts where sigma / alpha is this (arXiv:2206.00364, table 1): its average of two slopes is off by about the
# width of a step, and the cosine schedule's first steps come down from 20,000.
SIGMA_MAX = 80.0


def check_sampler(model: Model, sampler: Sampler, where: str) -> None:
    """Raises UserError for a sampler that does not go with the prediction. where: the config's key."""
    allowed = FLOW if model.prediction == "flow" else DIFFUSION
    if sampler.name not in allowed:
        raise UserError(
            f"{where}.name = {sampler.name} does not go with model.prediction = {model.prediction}\n"
            f"choices: {', '.join(allowed)}"
        )
    if sampler.name == "ddim" and TIMES % sampler.steps:
        raise UserError(
            f"{where}.steps = {sampler.steps} does not divide {TIMES}, by which diffusers' DDIM goes astray"
            f"\nway out: {_nearest_divisor(sampler.steps)}"
        )
    if sampler.steps < 2 and sampler.name == "heun":
        raise UserError(
            f"{where}.steps = 1: heun needs a second time to correct the first\nexpected: 2 or more"
        )


def _nearest_divisor(steps: int) -> int:
    return min((n for n in range(1, TIMES + 1) if TIMES % n == 0), key=lambda n: abs(n - steps))


def title(sampler: Sampler) -> str:
    """What a reader calls it, with the calls of the net where a step takes two: `Heun, 10 steps, 19 calls`."""
    parts = [TITLES[sampler.name], f"{sampler.steps} steps"]
    if sampler.guidance != 1:
        parts.append(f"guidance {sampler.guidance:g}")
    if network_calls(sampler) != sampler.steps:
        parts.append(f"{network_calls(sampler)} calls")
    return ", ".join(parts)


def network_calls(sampler: Sampler) -> int:
    """Forwards of the net that one picture costs."""
    calls = 2 * sampler.steps - 1 if sampler.name == "heun" else sampler.steps
    return calls if sampler.guidance == 1 else 2 * calls


def scheduler_of(model: Model, name: str, clip: bool = True) -> "SchedulerMixin":
    """The scheduler of sampler `name`; clip: hold what DDPM and DDIM take for the picture within [-1, 1]."""
    import diffusers

    if model.prediction == "flow":
        kind = {
            "heun": diffusers.FlowMatchHeunDiscreteScheduler,
            "euler": diffusers.FlowMatchEulerDiscreteScheduler,
        }
        return kind[name]()
    shared = _shared(model)
    if name == "ddpm":
        return diffusers.DDPMScheduler(**shared, clip_sample=clip, timestep_spacing="trailing")
    if name == "ddim":
        return diffusers.DDIMScheduler(**shared, clip_sample=clip, timestep_spacing="trailing")
    if name == "dpm_solver++":
        return diffusers.DPMSolverMultistepScheduler(
            **shared, algorithm_type="dpmsolver++", solver_order=2, lambda_min_clipped=LAMBDA_MIN
        )
    if name == "heun":
        used = _betas_up_to(model.schedule, SIGMA_MAX)
        return diffusers.HeunDiscreteScheduler(
            num_train_timesteps=len(used), trained_betas=used, prediction_type=shared["prediction_type"]
        )
    return diffusers.EulerDiscreteScheduler(**shared)


def _shared(model: Model) -> dict[str, Any]:
    from recipes.diffusion.objectives import BETA_FIRST, BETA_LAST

    return {
        "num_train_timesteps": TIMES,
        "beta_start": BETA_FIRST,
        "beta_end": BETA_LAST,
        "beta_schedule": {"linear": "linear", "cosine": "squaredcos_cap_v2"}[model.schedule],
        "prediction_type": {"epsilon": "epsilon", "v": "v_prediction"}[model.prediction],
    }


def _betas_up_to(schedule: str, sigma_max: float) -> list[float]:
    """The schedule's first betas, as far as sigma / alpha stays below `sigma_max`."""
    import torch

    from recipes.diffusion.objectives import betas

    whole = betas(schedule)
    kept = torch.cumprod(1 - whole, dim=0)
    return whole[((1 - kept) / kept).sqrt() <= sigma_max].tolist()
