"""Stage `evaluate`: the error of the prediction on each split, by the base and by what was learnt."""

from typing import TYPE_CHECKING, Any

from pipeline.run.files import write_json
from pipeline.run.results import Score
from pipeline.run.stage import Context
from pipeline.scores.intervals import bootstrap_interval
from recipes.text_to_image_lora.config import LoraConfig

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from recipes.text_to_image_lora.adapters import Adapters

NAME = "error of the prediction"
TITLES = {"held_out": "held out", "train": "training"}
RESAMPLES = 1000
PROTOCOL = (
    "squared error of the denoiser's prediction a number of the latents, at times and draws of noise that are the same "
    "for both; 95% bootstrap interval over pictures"
)


def check(config: LoraConfig) -> None:
    """Nothing here can be refused that other stages do not refuse."""


def run(context: Context) -> dict[str, Any]:
    """Write evaluation.json; the metrics are the errors of what was learnt, and the change."""
    from recipes.text_to_image_lora.adapters import Adapters, Denoiser
    from recipes.text_to_image_lora.bases import load_net
    from recipes.text_to_image_lora.embed import splits_of
    from recipes.text_to_image_lora.sampler import load_learnt

    config: LoraConfig = context.config
    inputs = context.inputs
    recipe = Adapters(config, inputs["prepare"], inputs["embed"])
    pipeline = load_learnt(config, inputs["train"])
    nets = {
        "base": Denoiser(recipe.base, load_net(config.model.pretrained, recipe.base).to(pipeline.device)),
        "LoRA": Denoiser(recipe.base, getattr(pipeline, recipe.base.net)),
    }
    scores: list[Score] = []
    for split in splits_of(inputs["prepare"]):
        context.terminal.write(f"evaluate: {TITLES[split]} pictures, base and LoRA\n")
        errors = {model: errors_of(recipe, net.eval(), split) for model, net in nets.items()}
        for model, values in errors.items():
            scores.append(_score(f"{NAME}, {TITLES[split]}", model, values))
        change = errors["LoRA"] - errors["base"]
        scores.append(_score(f"change of the error, {TITLES[split]}", "LoRA", change))
    missing = {} if len(splits_of(inputs["prepare"])) == 2 else {f"{NAME}, held out": "data.held_out is 0"}
    write_json(context.out / "evaluation.json", {"scores": [s.as_json() for s in scores], "missing": missing})
    return {score.key: score.value for score in scores}


def errors_of(recipe: "Adapters", net: "nn.Module", split: str) -> "np.ndarray":
    """Each picture's mean error over `evaluate.times` times and draws, fp64 (N,)."""
    import torch

    settings, found = recipe.config.evaluate, []
    latents = recipe.in_order(split)
    count = min(settings.pictures or latents.length, latents.length)
    device = next(net.parameters()).device
    for turn in range(settings.times):
        errors = []
        for place in range(count):
            batch = recipe.collate([latents.item(turn * latents.length + place)])
            with torch.no_grad():
                rows = recipe.errors(net, {name: value.to(device) for name, value in batch.items()})[0]
            errors.append(rows.double().cpu() / batch["latents"].numel())
        found.append(torch.cat(errors))
    return torch.stack(found).mean(dim=0).numpy()


def _score(name: str, model: str, values: "np.ndarray") -> Score:
    import numpy as np

    interval = bootstrap_interval(values, np.ones(len(values)), RESAMPLES, seed=0)
    return Score(name, model, float(values.mean()), interval, "a number", len(values), PROTOCOL, "lower")


if __name__ == "__main__":
    from pipeline.run.stage import main

    main("evaluate")
