"""`accelerate launch --config_file launch/ddp.yaml -m recipes.transcription RECIPE.yaml`: the training stage."""

from pipeline.run.stage import main

main("train")
