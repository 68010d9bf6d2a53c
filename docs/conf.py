"""Sphinx settings: MyST pages, autodoc for the reference, the furo theme."""

from collections.abc import Iterator

import torchloops

project = "torchloops"
author = "The torchloops founders"
copyright = author
release = version = torchloops.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
default_role = "code"  # docstrings write names as `name`

autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_preserve_defaults = True
napoleon_use_ivar = True
napoleon_custom_sections = [("Class attributes", "Attributes")]

html_theme = "furo"
html_title = "torchloops"
html_show_copyright = False
html_show_sphinx = False


def setup(app):
    # before napoleon, which reads sections: it runs at the default priority of 500
    app.connect("autodoc-process-docstring", _to_restructured_text, priority=400)


def _to_restructured_text(app, what, name, obj, options, lines):
    """Docstrings are written to be read as text: mark their drawings and tables for Sphinx."""
    if what == "property" and lines:
        lines[0] = lines[0].replace(": ", " – ")  # napoleon takes what stands before a colon for a type
    lines[:] = list(_marked(lines))


def _marked(lines: list[str]) -> Iterator[str]:
    """Put ``::`` before blocks that stand indented after a paragraph, and turn tables of bars into list tables."""
    previous, in_section, in_block = "", False, False
    for index, line in enumerate(lines):
        if not line.strip():
            yield line
            continue
        indented = line.startswith("    ")
        after_gap = index > 0 and not lines[index - 1].strip()
        if not indented:
            in_section = line.endswith(":") and line[:-1] in _SECTIONS
            in_block = False
        elif after_gap and not in_section and not in_block and not previous.endswith("::"):
            in_block = True
            yield from ("::", "")
        previous = line
        if line.startswith("|") and not indented:
            yield from _table_row(line, first=index == 0 or not lines[index - 1].startswith("|"))
        else:
            yield line


_SECTIONS = {"Args", "Attributes", "Class attributes", "Example", "Raises", "References", "Returns", "Yields"}


def _table_row(line: str, first: bool) -> Iterator[str]:
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    if first:
        yield from (".. list-table::", "   :header-rows: 1", "")
    if not all(set(cell) <= {"-"} for cell in cells):
        yield f"   * - {cells[0]}"
        yield from (f"     - {cell}" for cell in cells[1:])
