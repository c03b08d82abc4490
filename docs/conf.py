"""Sphinx configuration: `pip install .[docs]`, then `sphinx-build docs build/docs`."""

project = "ippm-ipsec"
extensions = ["myst_parser", "sphinxcontrib.mermaid"]
myst_fence_as_directive = ["mermaid"]
html_theme = "furo"
source_suffix = {".md": "markdown"}
myst_heading_anchors = 3
