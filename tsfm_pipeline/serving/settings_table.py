"""The settings of the service as a table: `python -m tsfm_pipeline.serving.settings_table`.

What belongs here: the text of docs/serving-settings.md. What does not: the settings (`settings`).
"""

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from tsfm_pipeline.serving.settings import TOKEN_NAMES, ServingSettings

HEAD = """# Settings of the service

`python -m tsfm_pipeline.serving.settings_table > docs/serving-settings.md` writes this page; do not
edit it. Each setting is an environment variable, and a key of the file of `tsfm-pipeline serve
--config FILE` (YAML; a section is a mapping). Where both set a value, the variable counts.

```yaml
port: 8080
breaker:
  failures_in_a_row: 3
```

*Before* is what the two services had that this one replaces; where ours differs, the reason is
given.

| variable | default | what it does | before | why it differs |
|---|---|---|---|---|
"""


def settings_markdown() -> str:
    """Return the page."""
    return HEAD + "".join(f"| {' | '.join(row)} |\n" for row in _rows(ServingSettings))


def _rows(
    model: type[BaseModel], path: tuple[str, ...] = ()
) -> Iterator[tuple[str, str, str, str, str]]:
    sections = []
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            sections.append((name, kind))
            continue
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        variable = "TSFM_SERVING_" + "__".join((*path, name)).upper()
        names = TOKEN_NAMES if name == "token" else (variable,)
        yield (
            "<br>".join(f"`{each}`" for each in names),
            _default(field),
            _cell(field.description or ""),
            _cell(str(extra.get("seed", ""))),
            _cell(str(extra.get("why", ""))),
        )
    for name, kind in sections:
        yield from _rows(kind, (*path, name))


def _default(field: FieldInfo) -> str:
    value: Any = field.default
    if value is None:
        return ""
    if isinstance(value, tuple):
        return f"`[{', '.join(map(str, value))}]`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    print(settings_markdown(), end="")
