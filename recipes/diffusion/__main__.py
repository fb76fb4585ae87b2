"""`accelerate launch --config_file launch/ddp.yaml -m recipes.diffusion RECIPE.yaml`: the training stage."""

from pipeline.stage import main

main("train")
