"""HTML by construction: text is escaped unless it already is markup, so that no sample can break out of the page."""

from base64 import b64encode
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from html import escape

VOID = ("br", "img", "meta")


class Markup(str):
    """Text that is HTML already."""


def element(tag: str, /, *children: str, **attributes: object) -> Markup:
    """`<tag key="value">children</tag>`; `class_` is class, other underscores are hyphens, None is left out."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{tag}{written}>" if tag in VOID else f"<{tag}{written}>{join(children)}</{tag}>")


def join(children: Iterable[str]) -> Markup:
    """The children one after the other, each escaped unless it is markup."""
    return Markup("".join(child if isinstance(child, Markup) else escape(child) for child in children))


def separated(parts: Iterable[Markup], separator: str) -> Markup:
    """The parts with `separator` between them."""
    return Markup(escape(separator).join(parts))


@dataclass(frozen=True)
class Part:
    """A titled section of a page; identifier: what a link to it names."""

    identifier: str
    title: str
    body: Markup

    def markup(self) -> Markup:
        return element("section", element("h2", self.title), self.body, id=self.identifier)

    def link(self) -> Markup:
        return element("a", self.title, href=f"#{self.identifier}")


def folded(summary: str, *children: str, open_: bool = False) -> Markup:
    """A part that opens on a click, without a script."""
    return element("details", element("summary", summary), *children, open="" if open_ else None)


def table(
    head: list[str], rows: list[list[str]], numeric: tuple[int, ...] = (), class_: str | None = None
) -> Markup:
    """A table that scrolls by itself where the page is too narrow. numeric: columns set flush right."""
    sides = ["number" if column in numeric else None for column in range(max(len(head), *map(len, rows), 1))]
    header = [
        element("th", title, class_=side, scope="col") for title, side in zip(head, sides, strict=False)
    ]
    body = [
        element("tr", *(element("td", cell, class_=side) for cell, side in zip(row, sides, strict=False)))
        for row in rows
    ]
    top = [element("thead", element("tr", *header))] if head else []
    return element("div", element("table", *top, element("tbody", *body), class_=class_), class_="scroll")


def exact(shown: str, value: object) -> Markup:
    """A rounded figure that gives its full value when pointed at."""
    return element("span", shown, title=str(value))


def page(title: str, style: str, *children: str, script: str = "", **attributes: object) -> str:
    """A whole document that fetches nothing: its own policy forbids it, and to run anything but `script`.

    attributes: of the element around the children.
    """
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src data:"
    if script:
        policy += f"; script-src 'sha256-{b64encode(sha256(script.encode()).digest()).decode()}'"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        Markup(f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">'),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("style", Markup(style)),
    )
    body = [element("main", *children, **attributes)]
    body += [element("script", Markup(script))] if script else []
    return "<!doctype html>\n" + element("html", head, element("body", *body), lang="en") + "\n"
