"""The pages of docs/: every Python block runs as pasted, and prints what the page says it prints."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.parts)
BLOCK = re.compile(r"^```python\n(?P<code>.*?)^```\n(?:\n```text\n(?P<output>.*?)^```\n)?", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(DOCS).as_posix())
def test_blocks_run_in_order(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = page.read_text(encoding="utf-8")
    names = {"__name__": "docs_page"}
    for block in BLOCK.finditer(text):
        lines_before = text.count("\n", 0, block.start()) + 1
        exec(compile("\n" * lines_before + block["code"], page, "exec"), names)
        printed = capsys.readouterr().out
        if block["output"] is not None:
            assert printed == block["output"], f"{page}:{lines_before}"


def test_there_are_blocks_and_all_are_found():
    texts = [page.read_text(encoding="utf-8") for page in PAGES]
    found = sum(len(BLOCK.findall(text)) for text in texts)
    assert found == sum(len(re.findall(r"^\s*[`~]{3,}\{?python", text, re.MULTILINE)) for text in texts)
    assert found > 20


def test_pages_link_to_each_other_only_where_there_is_something():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).is_file(), f"{page.name}: {target}"
