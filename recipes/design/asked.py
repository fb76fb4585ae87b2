"""Requests as labels of a net: `garment=Dress, tone=dark` is one number. An export takes this file with it.

A label is a number of mixed radix with a digit an attribute, the first one lowest. Every attribute has a value `any`.
It imports the standard library alone.
"""

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ANY = "any"
FILE = "attributes.json"


class NoSuchRequest(ValueError):
    """The request names what the model does not know; the message says what it knows."""


@dataclass(frozen=True)
class Attribute:
    """values: one of them is `any`."""

    name: str
    values: tuple[str, ...]

    @property
    def open(self) -> int:
        """The digit of `any`."""
        return self.values.index(ANY)


def attributes_of(directory: Path | str) -> tuple[Attribute, ...]:
    """Those in DIRECTORY/attributes.json."""
    return attributes_in(Path(directory) / FILE)


def attributes_in(file: Path) -> tuple[Attribute, ...]:
    """Those that a JSON file lists as `attributes`."""
    found = json.loads(file.read_text("utf-8"))["attributes"]
    return tuple(Attribute(one["name"], tuple(one["values"])) for one in found)


def label_of(attributes: Sequence[Attribute], request: str) -> int:
    """The label of a request such as `garment=Dress, tone=dark`; what is not named is open.

    Raises:
        NoSuchRequest: an attribute or a value that the model does not know.
    """
    check_request({attribute.name: attribute.values for attribute in attributes}, request)
    values = values_of(request)
    digits = [attribute.values.index(values.get(attribute.name, ANY)) for attribute in attributes]
    return number_of(attributes, digits)


def values_of(request: str) -> dict[str, str]:
    """`garment=Dress, tone=dark` as a mapping."""
    parts = (part.partition("=") for part in request.split(",") if part.strip())
    return {name.strip(): value.strip() for name, _, value in parts}


def check_request(known: Mapping[str, Sequence[str]], request: str) -> None:
    """Raises NoSuchRequest for an attribute that `known` lacks, or a value that its list does, where it has one."""
    for name, value in values_of(request).items():
        if name not in known:
            raise NoSuchRequest(
                f"no attribute {name!r} in the request {request!r}\n{_nearest(name, [*known])}"
            )
        if known[name] and value not in known[name]:
            raise NoSuchRequest(
                f"no {name} {value!r} in the request {request!r}\n{_nearest(value, known[name])}"
            )


def request_of(attributes: Sequence[Attribute], label: int) -> str:
    """The inverse of label_of; what is open is not named."""
    parts = [
        f"{attribute.name}={attribute.values[digit]}"
        for attribute, digit in zip(attributes, digits_of(attributes, label), strict=True)
        if digit != attribute.open
    ]
    return ", ".join(parts)


def number_of(attributes: Sequence[Attribute], digits: Sequence[int]) -> int:
    """The label with these digits; of arrays of digits the array of labels."""
    number = 0
    for attribute, digit in zip(reversed(attributes), reversed(digits), strict=True):
        number = number * len(attribute.values) + digit
    return number


def digits_of(attributes: Sequence[Attribute], label: int) -> list[int]:
    """The digits of a label; of an array of labels an array of digits each."""
    digits = []
    for attribute in attributes:
        label, digit = divmod(label, len(attribute.values))
        digits.append(digit)
    return digits


def labels_in(attributes: Sequence[Attribute]) -> int:
    """How many labels there are."""
    count = 1
    for attribute in attributes:
        count *= len(attribute.values)
    return count


def _nearest(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"choices: {', '.join(known)}"[:300] + (f"; did you mean {close[0]!r}?" if close else "")
