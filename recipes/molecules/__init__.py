"""The molecule family: a decoder on SMILES or SELFIES, free, or given properties or a scaffold."""

from functools import partial

from pipeline.run.stage import Stage
from recipes.common.symbols.config import fitted as fitted
from recipes.common.symbols.stages import symbol_stages
from recipes.molecules.config import MoleculeConfig
from recipes.molecules.reading import files_of

CONFIG = MoleculeConfig
HEADLINE = ("valid", "asked for and got", "FCD")


def stages(config: MoleculeConfig) -> tuple[Stage, ...]:
    """prepare, tokenize, train, evaluate, sample, export, report."""
    return symbol_stages(config, partial(files_of, config.data))
