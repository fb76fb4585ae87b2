"""`accelerate launch --config_file launch/zero2.yaml -m recipes.gan RECIPE.yaml`: the training stage."""

from pipeline.run.stage import main

main("train")
