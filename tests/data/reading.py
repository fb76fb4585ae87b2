"""What the tests of sources share: files made in a line, everything read."""

import json

from pipeline.data import sources
from pipeline.data.config import Corpus


def read(section):
    """(items, skipped rows) of a corpus or chat section."""
    skipped = []
    reader = sources.documents if isinstance(section, Corpus) else sources.conversations
    return list(reader(section, skipped)), skipped


def write(folder, **files):
    """Files by name with `__` for the dot and `_in_` for a folder: bytes or text."""
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        path = folder / name.replace("_in_", "/").replace("__", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(folder)


def as_lines(*values):
    return "".join(json.dumps(value) + "\n" for value in values)
