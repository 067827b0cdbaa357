"""The page of all settings, docs/settings.md, from the schema; ``scripts/settings`` writes it."""

from __future__ import annotations

from typing import Any, get_args

from jsarag.config.keys import Key, group_names, known_keys
from jsarag.config.schema import Config

# Inside a cell.
_BAR = "\\|"
_HEAD = """\
<!-- Made by scripts/settings from jsarag/config/schema.py; edit there and run it again. -->

# Settings

Each has one name everywhere: `train.seed` in a file is

```yaml
train:
  seed: 7
```

`--set train.seed=7` on the command line, and `JSARAG_TRAIN__SEED=7` in the environment. Later ones
win: default, recipe, file, environment, flag. `jsarag train --dry-run` shows what a run would take,
and where each value came from. A setting marked *yes* under *resume* may be changed when a run is
continued; changing another is refused.
"""


def settings_page() -> str:
    """All settings in Markdown: one table a group."""
    parts = [_HEAD]
    for group in sorted(group_names(), key=_position):
        keys = [key for key in known_keys().values() if key.name.rpartition(".")[0] == group]
        parts.append(
            f"## {group}\n\n{_meaning(group)}\n\n"
            "| setting | takes | default | flag | unit | resume | meaning |\n"
            "|---|---|---|---|---|---|---|\n" + "".join(f"{_row(key)}\n" for key in keys)
        )
    return "\n".join(parts)


def _position(group: str) -> int:
    """Where the group's first setting stands in the schema."""
    return next(n for n, name in enumerate(known_keys()) if name.startswith(f"{group}."))


def _meaning(group: str) -> str:
    model: Any = Config
    for part in group.split("."):
        annotation = model.model_fields[part].annotation
        # An optional group is united with None.
        model = get_args(annotation)[0] if get_args(annotation) else annotation
    return str(model.__doc__).replace("``", "`")


def _row(key: Key) -> str:
    flag = f"`--{key.flag}`" if key.flag else ""
    takes = key.expectation.replace(", or none", " or none")
    resume = "yes" if key.resume else ""
    cells = (f"`{key.name}`", takes, _default(key), flag, key.unit, resume, key.description)
    return f"| {' | '.join(cell.replace('|', _BAR) for cell in cells)} |"


def _default(key: Key) -> str:
    value = key.default
    if value is None:
        return "none"
    if value == "" or value == [] or value == {}:
        return "empty"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, (list, tuple)):
        return f"`{','.join(map(str, value))}`"
    text = str(value).replace("\n", "\\n")
    return f"`{text}`"
