"""How the report writes numbers."""

from __future__ import annotations

from typing import Any

BLEU = "BLEU"


def figure(name: str, value: float) -> str:
    """A metric's value: three decimals, BLEU one."""
    return f"{value:.1f}" if name.startswith(BLEU) else f"{value:.3f}"


def signed(name: str, value: float) -> str:
    """A metric's change with its sign; none where it rounds to zero."""
    text = figure(name, abs(value))
    sign = "" if float(text) == 0.0 else "+" if value > 0 else "−"
    return f"{sign}{text}"


def duration(seconds: float) -> str:
    """A time in the unit a person would choose."""
    if seconds < 1:
        return f"{1e3 * seconds:.0f} ms" if seconds >= 0.01 else f"{1e3 * seconds:.1f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def number(value: Any) -> float | None:
    """The value if it is a number, else None."""
    return float(value) if is_number(value) else None


def is_number(value: Any) -> bool:
    """Whether a value read from JSON is a number."""
    return isinstance(value, int | float) and not isinstance(value, bool)
