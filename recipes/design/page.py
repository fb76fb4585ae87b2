"""The page to choose from: designs by request, filtered by their values; what is chosen becomes commands to copy."""

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.publish.html.element import Markup, element, page
from pipeline.publish.html.style import STYLE
from recipes.common.images.figures import image
from recipes.design.asked import ANY, Attribute, values_of

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Shown:
    """picture, nearest: uint8 (H, W, C); nearest: the training picture that is nearest to the design."""

    request: str
    picture: "np.ndarray"
    nearest: "np.ndarray"


CHOOSING = """
.filters { display: flex; flex-wrap: wrap; gap: .6rem 1.2rem; font-size: .85rem; align-items: baseline; }
.filters select { font: inherit; margin-left: .35rem; }
.designs { display: flex; flex-wrap: wrap; gap: .7rem; }
.design { border: 2px solid transparent; border-radius: 8px; background: var(--panel); padding: .45rem; cursor: pointer;
  display: grid; grid-template-columns: auto auto; gap: .3rem .5rem; align-items: end; font: inherit; color: inherit; }
.design[aria-pressed=true] { border-color: var(--c0); }
.design img { image-rendering: pixelated; width: 84px; height: 84px; display: block; }
.design img.beside { width: 42px; height: 42px; opacity: .8; }
.design span { font-size: .75rem; color: var(--soft); }
#chosen { position: sticky; bottom: 0; background: var(--paper); border-top: 1px solid var(--rule);
  padding: .8rem 0; margin-top: 2rem; }
#chosen pre { max-height: 11rem; overflow-y: auto; }
[hidden] { display: none !important; }
"""
SCRIPT = """
const designs = [...document.querySelectorAll(".design")];
const filters = [...document.querySelectorAll("select")];
const run = document.body.querySelector("main").dataset.run;
function show() {
  for (const group of document.querySelectorAll("section")) {
    const asked = JSON.parse(group.dataset.asked);
    group.hidden = filters.some(one => one.value && asked[one.name] !== one.value);
  }
}
function chosen() {
  const ids = designs.filter(one => one.getAttribute("aria-pressed") === "true").map(one => one.dataset.id);
  const lines = ids.map(id => `headwater vary ${run} ${id} vary-${id}`);
  for (let i = 1; i < ids.length; i++)
    lines.push(`headwater blend ${run} ${ids[i - 1]} ${ids[i]} blend-${ids[i - 1]}-${ids[i]}`);
  document.getElementById("count").textContent = ids.length ? `${ids.length} chosen` : "Nothing chosen: click a design";
  document.getElementById("commands").textContent = lines.join("\\n");
  history.replaceState(null, "", ids.length ? "#" + ids.join(",") : location.pathname + location.search);
}
for (const one of designs) one.addEventListener("click", () => {
  one.setAttribute("aria-pressed", one.getAttribute("aria-pressed") !== "true");
  chosen();
});
for (const one of filters) one.addEventListener("change", show);
document.getElementById("copy").addEventListener("click", () =>
  navigator.clipboard.writeText(document.getElementById("commands").textContent));
for (const id of location.hash.slice(1).split(","))
  designs.find(one => one.dataset.id === id)?.setAttribute("aria-pressed", "true");
chosen();
"""


def page_of(run: str, attributes: Sequence[Attribute], shown: Sequence[Shown]) -> str:
    """The whole page; design i is `shown[i]`. It fetches nothing; what is chosen is kept in its address."""
    asked = [values_of(one.request) for one in shown]
    filters = [
        _filter(attribute, [values.get(attribute.name) for values in asked]) for attribute in attributes
    ]
    sections = [
        _section(request, [(place, one) for place, one in group])
        for request, group in itertools.groupby(enumerate(shown), lambda pair: pair[1].request)
    ]
    return page(
        "Designs",
        STYLE + CHOOSING,
        element("h1", "Designs"),
        element(
            "p",
            "Click the designs that you like; the commands below draw others near them, and the way from one to the "
            "next. Beside each stands the training picture that is nearest to it.",
        ),
        element("div", *filters, class_="filters"),
        *sections,
        element(
            "div",
            element(
                "p", element("b", "", id="count"), " ", element("button", "Copy", id="copy", type="button")
            ),
            element("pre", "", id="commands"),
            id="chosen",
        ),
        script=SCRIPT,
        data_run=run,
    )


def _filter(attribute: Attribute, used: list[str | None]) -> Markup:
    values = [value for value in attribute.values if value in used and value != ANY]
    options = [
        element("option", "all", value=""),
        *(element("option", value, value=value) for value in values),
    ]
    return element("label", attribute.name, element("select", *options, name=attribute.name))


def _section(request: str, designs: list[tuple[int, Shown]]) -> Markup:
    cards = [
        element(
            "button",
            image(one.picture, f"design {place}"),
            image(one.nearest, "nearest training picture", "beside"),
            element("span", str(place)),
            type="button",
            class_="design",
            aria_pressed="false",
            data_id=place,
        )
        for place, one in designs
    ]
    title = element("h2", request or "anything")
    return element(
        "section", title, element("div", *cards, class_="designs"), data_asked=json.dumps(values_of(request))
    )
