"""Read the pages of the documentation for tests: their fenced blocks, and the commands in them.

What belongs here: finding and cutting up pages. What does not: what any test expects of them.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from tsfm_pipeline.settings import PROJECT_ROOT

DOCS = PROJECT_ROOT / "docs"
PAGES = (PROJECT_ROOT / "README.md", *sorted(DOCS.glob("*.md")))
SHELLS = ("", "console", "bash", "sh", "shell")
_BLOCK = re.compile(r"^( *)```([a-z]*)([^\n]*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """One fenced block: language (`` where none is given), title, text."""

    language: str
    title: str
    text: str


def blocks(page: Path, *languages: str) -> list[Block]:
    """The fenced blocks of a page in these languages (all, if none is given), in order."""
    found = []
    for indent, language, rest, text in _BLOCK.findall(page.read_text(encoding="utf-8")):
        title = re.search(r'title="([^"]*)"', rest)
        found.append(
            Block(
                language,
                title[1] if title else "",
                re.sub(f"^{indent}", "", text, flags=re.MULTILINE),
            )
        )
    return [block for block in found if not languages or block.language in languages]


def commands(page: Path) -> list[str]:
    """Every shell command of a page, without prompt and comment: in `console` blocks the lines with
    a prompt, elsewhere every line. A command goes on to the line on which its quotes are closed.
    """
    found = []
    for block in blocks(page, *SHELLS):
        lines = _whole(re.sub(r"\\\n\s*", "", block.text).splitlines())
        prompted = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        stated = (
            prompted
            if block.language == "console"
            else [line for line in lines if not line.startswith("#")]
        )
        found += [re.sub(r"\s+#\s.*", "", line).strip() for line in stated if line.strip()]
    return found


def _whole(lines: list[str]) -> list[str]:
    """The lines, of which those within single quotes are joined to the one that opens them."""
    joined: list[str] = []
    for line in lines:
        if joined and joined[-1].count("'") % 2 and joined[-1].startswith("$ "):
            joined[-1] += f"\n{line}"
        else:
            joined.append(line)
    return joined
