"""Markdown syntax for tables and text.

What belongs here: tables and text as markdown. What does not: what they say (each report's
`words`), which tables a summary shows (`reports.page.markdown`).
"""

from tsfm_pipeline.reports.shared.table import Table


def table_markdown(table: Table) -> str:
    """Return a table in GitHub's markdown: caption above, emphasised rows in bold."""
    rule = [":---" if i in table.text_columns else "---:" for i in range(len(table.columns))]
    lines = [
        f"**{escape(table.caption)}**",
        "",
        _line([escape(column) for column in table.columns]),
        _line(rule),
    ]
    for i, row in enumerate(table.rows):
        cells = [escape(cell) for cell in row]
        lines.append(
            _line(
                [f"**{cell}**" if cell else "" for cell in cells]
                if i in table.emphasised
                else cells
            )
        )
    return "\n".join(lines)


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def escape(text: str) -> str:
    """Return text without markup and line breaks: names are data and must not change the page."""
    for character in "\\`*_|[]":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").split())
