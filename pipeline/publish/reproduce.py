"""`headwater reproduce MODEL RECIPE.yaml`: from a model's card back to its recipe, and whether it fits this machine.

A card holds the settings of every stage, without paths, the bytes that were read by their sha256, the commit and the
versions. What it names by a path alone has to be given again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.run import provenance
from pipeline.run.errors import UserError
from pipeline.run.files import digest_of
from pipeline.run.stage import open_recipe

SECTIONS = ("corpus", "chat", "preferences", "prompts")
WEIGHTS = "*.safetensors"


@dataclass(frozen=True)
class Told:
    """What a card says. data: of each section what `read_from` writes; commit, versions: that it was made with."""

    settings: dict[str, Any]
    licence: str
    note: str
    data: dict[str, str]
    commit: str
    versions: dict[str, str]


def read_from(fingerprint: dict[str, Any]) -> str:
    """The bytes of a section's sources, in words."""
    if "sources" in fingerprint:
        return "; ".join(map(read_from, fingerprint["sources"]))
    unit = "rows" if "rows" in fingerprint else "files"
    return f"{fingerprint[unit]:,} {unit}, {fingerprint['bytes']:,} bytes, sha256 `{fingerprint['sha256']}`"


def told_by(card: str) -> Told:
    """What the card of one of our language models says.

    Raises:
        UserError: it is none.
    """
    settings = re.search(r"^## Settings\n\n```yaml\n(.*?)^```$", card, re.M | re.S)
    licence = re.search(r"^## Data and licence\n\n(?:(.*) )?Licence of the data: (.+)\.$", card, re.M)
    made = re.search(r"^\| export \| this directory \| (\S+) \|$", card, re.M)
    if settings is None or licence is None or made is None:
        raise UserError(
            "the card does not say how the model was made\n"
            "expected: the README.md of a language model that Headwater exported"
        )
    data = dict(re.findall(rf"^- ({'|'.join(SECTIONS)}): (.+)$", card, re.M))
    versions = re.search(r"^- (?:.*, )?export: (.+)$", card, re.M)
    pairs = (word.rpartition(" ")[::2] for word in versions[1].split(", ")) if versions else ()
    note = (licence[1] or "").strip()
    return Told(yaml.safe_load(settings[1]), licence[2], note, data, made[1], dict(pairs))


def recipe_of(model: str, out: Path, overrides: list[str]) -> tuple[Path, Path]:
    """Write the recipe, and print what is here of what it needs.

    Returns:
        where the model is, and where its like will be.

    Raises:
        UserError: no card of ours; OUT is there; settings that do not fit.
    """
    from pipeline.lm.directory import directory_of

    directory = directory_of(model)
    if not (directory / "README.md").is_file():
        raise UserError(f"{directory} has no README.md\nexpected: an exported model")
    told = told_by((directory / "README.md").read_text(encoding="utf-8"))
    if out.exists() or out.suffix != ".yaml":
        raise UserError(
            f"{out} {'is there' if out.exists() else 'does not end in .yaml'}\nexpected: a new file"
        )
    output = f"runs/{out.stem}"
    export = {"licence": told.licence, "data_note": told.note}
    tree = {"recipe": "llm", "run": {"output_dir": output}, **told.settings, "export": export}
    out.write_text(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True), encoding="utf-8")
    print(f"{out}: the recipe of {model}")
    config, _ = open_recipe(out, overrides)
    for line in [*_data(told, config), *_made_with(told)]:
        print(f"  {line}")
    return directory, Path(config.run.output_dir) / "export"


def _data(told: Told, config: Any) -> list[str]:
    """Of each section of data, whether the bytes are those of then."""
    from pipeline.data import sources

    found = []
    for name in SECTIONS:
        section = getattr(config, name)
        if section is None:
            continue
        if name not in told.data:
            found.append(f"{name}: the card does not say which bytes were read")
            continue
        try:
            here = read_from(sources.fingerprint(section))
        except (UserError, OSError) as error:
            found.append(f"{name}: not here ({str(error).splitlines()[0]}); it was {told.data[name]}")
            continue
        same = here == told.data[name]
        found.append(f"{name}: the same bytes as then" if same else f"{name}: {here}; then {told.data[name]}")
    return found


def _made_with(told: Told) -> list[str]:
    facts = provenance.facts()["versions"]
    others = [f"{name} {then}, here {facts.get(name, 'none')}" for name, then in told.versions.items()
              if facts.get(name) != then]  # fmt: skip
    commit = provenance.commit()
    return [
        f"versions: other ones made it: {'; '.join(others)}" if others else "versions: the same as then",
        "commit: the same as then" if commit == told.commit else f"commit: {told.commit} then, {commit} here",
    ]


def compared(then: Path, now: Path) -> int:
    """0 where both directories hold the same weights, file by file, else 1."""
    names = sorted(path.name for path in then.glob(WEIGHTS))
    other = [
        name
        for name in names
        if not (now / name).is_file() or digest_of(now / name) != digest_of(then / name)
    ]
    if other:
        print(
            f"{now}: other weights than {then}: {', '.join(other)}; another processor or version adds up otherwise"
        )
        return 1
    print(f"{now}: the same weights as {then}, byte for byte")
    return 0
