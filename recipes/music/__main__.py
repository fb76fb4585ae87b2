"""`accelerate launch --config_file launch/ddp.yaml -m recipes.music RECIPE.yaml`: the training stage."""

from pipeline.run.stage import main

main("train")
