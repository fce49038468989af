"""The code in README.md, so that tests can run what people read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

TEXT = (Path(__file__).resolve().parents[1] / "README.md").read_text()


def section(title: str) -> str:
    """From a heading to the next one of any level."""
    found = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#+ )", TEXT, re.MULTILINE | re.DOTALL)
    assert found, f"README.md has no section {title!r}"
    return found[1]


def blocks(title: str) -> list[str]:
    """The Python blocks of a section."""
    return re.findall(r"^```python\n(.*?)^```$", section(title), re.MULTILINE | re.DOTALL)


def recipes(title: str) -> dict[str, str]:
    """The Python block after each line in bold."""
    pattern = r"^\*\*([^*\n]+)\*\*\n(?:(?!^\*\*).)*?^```python\n(.*?)^```$"
    return dict(re.findall(pattern, section(title), re.MULTILINE | re.DOTALL))


def run(code: str, names: dict[str, Any]) -> dict[str, Any]:
    """Executes a block with `names` defined; what is defined afterwards."""
    exec(compile(code, "README.md", "exec"), names)
    return names
