"""Files that take minutes come first, so that no process sits idle while another ends the last."""

from __future__ import annotations

import pytest

LONGEST = (
    "kernels/test_sanitizers.py",
    "kernels/test_passage_logp.py",
    "integration/test_training.py",
    "parallel/test_training.py",
    "cli/test_index.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Move them to the front, in that order; all others stay as they were."""

    def place(item: pytest.Item) -> int:
        name = "/".join(item.path.parts[-2:])
        return LONGEST.index(name) if name in LONGEST else len(LONGEST)

    items.sort(key=place)
