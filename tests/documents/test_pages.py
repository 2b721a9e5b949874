"""What is written on a page is found, and what nobody runs is refused: the tests of the pages tested."""

import pages
import pytest
import test_blocks
import test_tables
import test_tasks
from commands import simple_commands

PAGE = """# A page

    vitdet frobnicate \\
        --loudly && pytest    # a comment

Prose with `vitdet train`, and with
`a word
that goes on`.

| to | say |
|---|---|
| fly | `--wings 2` |

```yaml
base: x
```
"""


@pytest.fixture
def page(tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "ROOT", tmp_path)
    path = tmp_path / "page.md"
    path.write_text(PAGE)
    return list(pages.pieces(path))


def test_all_pieces_are_found(page):
    block, row, yaml, *words = page
    assert list(simple_commands(block.text)) == [["vitdet", "frobnicate", "--loudly"], ["pytest"]]
    assert (row.cells, row.table, str(row)) == (("fly", "`--wings 2`"), ("to", "say"), "page.md:12")
    assert (yaml.kind, yaml.text) == ("yaml", "base: x")
    assert [(word.text, word.line) for word in words] == [
        ("vitdet train", 6),
        ("a word that goes on", 7),
        ("--wings 2", 12),
    ]


def test_what_nobody_runs_is_refused(page, site):
    block, row, *_ = page
    with pytest.raises(AssertionError, match="say in KINDS"):
        test_blocks.kind_of(block)
    with pytest.raises(AssertionError, match="say in CHECKS"):
        test_tasks.test_what_it_says_does_it(row, site)
    with pytest.raises(AssertionError, match="say in TABLES"):
        test_tables.test_row(row._replace(table=("other", "table")), site)
    with pytest.raises(AssertionError, match="no verb"):
        site.say("vitdet frobnicate")
    with pytest.raises(AssertionError, match="say in PROGRAMS"):
        site.say("frobnicate")
