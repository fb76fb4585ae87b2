"""`accelerate launch --config_file launch/ddp.yaml -m recipes.vision_chat RECIPE.yaml`: the training stage."""

from pipeline.run.stage import main

main("train")
