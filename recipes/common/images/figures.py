"""Pictures in a page, as part of it: nothing is fetched."""

import base64
from typing import TYPE_CHECKING

from pipeline.publish.html.element import Markup, element

if TYPE_CHECKING:
    import numpy as np


def image(pixels: "np.ndarray", alt: str, class_: str | None = None) -> Markup:
    """One picture uint8 (H, W, C), with what it is for whoever points at it or cannot see it."""
    from recipes.common.images.sheet import encoded

    content = base64.b64encode(encoded(pixels, "PNG")).decode()
    return element("img", src=f"data:image/png;base64,{content}", alt=alt, title=alt, class_=class_)


def figure(pixels: "np.ndarray", caption: str) -> Markup:
    """A picture with words below it."""
    return element("figure", image(pixels, caption), element("figcaption", caption))
