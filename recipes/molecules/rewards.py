"""What molecules are worth, for `reinforce.reward`: functions of a SMILES."""


def drug_likeness(completion: str, prompt: str, scaffold: str) -> float:
    """QED (0 to 1) of a molecule around the scaffold that was asked for; 0 where it is not valid or has another one."""
    from recipes.molecules.reading import properties_of, scaffold_of
    from recipes.molecules.words import molecule_or_none

    molecule = molecule_or_none(completion)
    if molecule is None or scaffold_of(molecule) != scaffold:
        return 0.0
    return properties_of(molecule, ("qed",))["qed"]
