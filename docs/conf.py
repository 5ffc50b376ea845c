"""The site: `make docs` builds it from the pages in this folder, without the network."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent

project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["name"]
extensions = ["myst_parser"]
exclude_patterns = ["requirements.txt"]
root_doc = "index"
nitpicky = True  # a reference that leads nowhere is a warning, and `make docs` fails on warnings

myst_enable_extensions = ["attrs_inline", "html_image"]
myst_heading_anchors = 4  # the anchors that the repository's host makes, too

html_theme = "furo"
html_title = project
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
pygments_style = "friendly"
