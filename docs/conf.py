"""The guide as a site: `make docs` builds it from the pages in this folder, without the network."""

import re
import tomllib
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).parent.parent
SECTION = re.compile(r"^## (.+)\n((?:.|\n)*?)(?=^## |\Z)", re.MULTILINE)
PAGE = re.compile(r"\]\(([\w/-]+)\.md\)")

project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["name"]
extensions = ["myst_parser"]
root_doc = "index"
nitpicky = True  # a reference that leads nowhere is a warning, and `make docs` fails on warnings

myst_heading_anchors = 4  # the same anchors as where the repository is hosted

html_theme = "furo"
html_title = f"{project}: the guide"
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
html_theme_options = {"navigation_with_keys": True}
pygments_style = "friendly"


def read(app: Sphinx, name: str, source: list[str]) -> None:
    """Change a page before it is built.

    The contents beside the pages are the links of index.md. A link to a Markdown file outside of
    this folder leads to the file itself, as it is no page of the site.
    """
    if name == "index":
        for title, text in SECTION.findall(source[0]):
            listed = "\n".join(PAGE.findall(text))
            source[0] += f"\n```{{toctree}}\n:hidden:\n:caption: {title}\n\n{listed}\n```\n"
    folder = (Path(app.srcdir) / name).parent

    def link(match: re.Match[str]) -> str:
        inside = (folder / match[1]).resolve().is_relative_to(app.srcdir)
        return match[0] if inside else f"](path:{match[1]})"

    source[0] = re.sub(r"\]\(((?:\.\./)+[\w/.-]+\.md)(?:#[\w-]+)?\)", link, source[0])


def setup(app: Sphinx) -> None:
    """Register what changes the pages."""
    app.connect("source-read", read)
