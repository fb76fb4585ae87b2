"""`accelerate launch --config_file launch/ddp.yaml -m recipes.text_to_image_lora RECIPE.yaml`: the training stage."""

from pipeline.run.stage import main

main("train")
