"""`python -m recipes.augmentation RECIPE.yaml`: the curve; every generator and classifier is trained in one process."""

from pipeline.run.stage import main

main("curve")
