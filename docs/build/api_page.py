"""The page of the library: which modules are meant to be used from Python, in the order in which one needs them."""

PARTS = {
    "The library": ["kdcore"],
    "The parts of a loss": ["kdcore.objective", "kdcore.standardize", "kdcore.scales", "kdcore.numerics"],
    "Methods and networks": [
        "kdcore.methods",
        "kdcore.methods.contract",
        "kdcore.networks",
        "kdcore.networks.contract",
        "kdcore.catalog",
    ],
    "Files": ["kdcore.checkpoints", "kdcore.state_dicts", "kdcore.matrix.params", "kdcore.matrix.cell"],
    "Errors": ["kdcore.system.errors"],
}
"""Heading -> the modules below it."""
INTRODUCTION = """# Python API

Made from docstrings. Methods have [a page of their own](methods.md). [Architecture](../architecture.md) says where
to find the rest.
"""


def render() -> str:
    """Write the page in Markdown; mkdocstrings fills it in."""
    parts = [INTRODUCTION]
    for heading, modules in PARTS.items():
        parts.append(f"## {heading}\n")
        parts += [f"::: {module}\n    options:\n      heading_level: 3\n" for module in modules]
    return "\n".join(parts)
