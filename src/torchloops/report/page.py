"""One page for one run: a single HTML file with its pictures inside, read without a server."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from torchloops.files import write_whole

if TYPE_CHECKING:
    import pandas

__all__ = ["read_texts", "write_page"]

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 0.2rem 0.9rem; text-align: right; border-bottom: 1px solid #8884; }
img { max-width: 100%; background: white; }
pre { overflow-x: auto; padding: 0.8rem; background: #8882; }
.scroll { overflow-x: auto; }
"""


def write_page(
    path: Path,
    *,
    title: str,
    introduction: str = "",
    pictures: Mapping[str, Path] | None = None,
    tables: Mapping[str, pandas.DataFrame] | None = None,
    texts: Mapping[str, str] | None = None,
) -> Path:
    """Write the page: title, introduction, then pictures, tables and texts under their headings.

    Args:
        path: the HTML file to write.
        title: of the page.
        introduction: one paragraph of plain text.
        pictures: heading to PNG file; a file that does not exist is left out.
        tables: heading to table; floats are printed with four significant digits.
        texts: heading to text, printed as it is: a command, a configuration.
    """
    blocks = [f"<h1>{html.escape(title)}</h1>", f"<p>{html.escape(introduction)}</p>" if introduction else ""]
    blocks += [_picture(heading, file) for heading, file in (pictures or {}).items() if file.is_file()]
    blocks += [_table(heading, table) for heading, table in (tables or {}).items()]
    blocks += [_text(heading, text) for heading, text in (texts or {}).items()]
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{_STYLE}</style>'
    viewport = '<meta name="viewport" content="width=device-width, initial-scale=1">'
    body = "\n".join(blocks)
    page = f'<!doctype html>\n<html lang="en"><head>{head}{viewport}</head>\n<body>\n{body}\n</body></html>\n'
    return write_whole(path, page)


def read_texts(folder: Path) -> dict[str, str]:
    """Command and configuration of a run, as texts of its page; those that are not there are left out."""
    names = {"Command": "command.txt", "Configuration": "config.yaml"}
    files = {heading: folder / name for heading, name in names.items()}
    return {heading: file.read_text(encoding="utf-8") for heading, file in files.items() if file.is_file()}


def _picture(heading: str, file: Path) -> str:
    data = base64.b64encode(file.read_bytes()).decode("ascii")
    text = html.escape(heading, quote=True)
    return f'<h2>{text}</h2>\n<img alt="{text}" src="data:image/png;base64,{data}">'


def _table(heading: str, table: pandas.DataFrame) -> str:
    body = table.to_html(index=False, border=0, float_format="{:.4g}".format, na_rep="")
    return f'<h2>{html.escape(heading)}</h2>\n<div class="scroll">{body}</div>'


def _text(heading: str, text: str) -> str:
    return f"<h2>{html.escape(heading)}</h2>\n<pre>{html.escape(text)}</pre>"
