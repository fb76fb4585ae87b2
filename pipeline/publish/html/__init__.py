"""Self-contained pages: elements that escape what they are given, charts drawn as SVG, the sections of a report."""
