"""The text for whoever drives the loop: `program.md` beside this module.

What belongs here: reading it, and writing its table of fields. What does not: any other text.

    python -m tsfm_pipeline.studies.policy_search.program    write the table again
"""

import re
import textwrap
from pathlib import Path

from tsfm_pipeline.studies.policy_search.moves import word
from tsfm_pipeline.studies.policy_search.policy import DEFAULT
from tsfm_pipeline.studies.policy_search.space import FIELDS, Field

PATH = Path(__file__).with_name("program.md")
_TABLE = re.compile(r"(?<=<!-- fields -->\n).*?(?=<!-- end of fields -->)", re.DOTALL)


def text() -> str:
    """Return program.md."""
    return PATH.read_text(encoding="utf-8")


def table() -> str:
    """Return the Markdown table of the fields that a policy may change, one line each, and below it
    the default candidates.
    """
    head = "| field | default | what drivers try | what it does |\n|---|---|---|---|\n"
    candidates = "The default list of `candidates`; a policy that changes it names all that stay:"
    listed = textwrap.fill(", ".join(DEFAULT.candidates), 96, break_on_hyphens=False)
    lines = "".join(_line(field) for field in FIELDS)
    return f"{head}{lines}\n{candidates}\n\n```text\n{listed}\n```\n\n"


def with_table(program: str) -> str:
    """Return a program with its table of fields written again. Raises ValueError if it has no place
    for one.
    """
    if not _TABLE.search(program):
        raise ValueError(
            "the program lacks the lines `<!-- fields -->` and `<!-- end of fields -->`"
        )
    return _TABLE.sub(lambda _: table(), program)


def _line(field: Field) -> str:
    default = getattr(DEFAULT, field.name)
    if isinstance(default, dict):
        shown = ", ".join(f"{name} {word(value)}" for name, value in default.items())
    elif field.name in ("candidates", "rules"):
        shown = f"all {len(default)}"
    else:
        shown = word(default)
    meaning = field.meaning.replace("|", "\\|")
    return f"| `{field.name}` | {shown} | {field.kind.words()} | {meaning} |\n"


def main() -> None:
    """Write the table of program.md again."""
    PATH.write_text(with_table(text()), encoding="utf-8")


if __name__ == "__main__":
    main()
