"""placeholder"""
from __future__ import annotations
from typing import Any
def check_evidence(parts: Any, config: Any, windows: Any) -> Any:
    return None
