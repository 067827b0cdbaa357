"""Will an index fit? Bytes in memory and on disk, before anything is embedded."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from jsarag.errors import MemoryForecastError
from jsarag.index.shards import DTYPES, dtype_of

_CGROUP = Path("/sys/fs/cgroup")
# Measured on English passages of about 100 words, title and JSON keys included.
PASSAGE_BYTES = 700
_OFFSET_BYTES = 8


@dataclass(frozen=True, slots=True)
class IndexForecast:
    """Bytes an index of ``count`` passages of ``width`` numbers will take.

    vectors_bytes: the vectors as stored and searched. build_bytes: the peak while building (the
    encoder's f32 output and the stored copy). disk_bytes: the index folder.
    """

    count: int
    width: int
    dtype: str
    vectors_bytes: int
    build_bytes: int
    disk_bytes: int


def forecast_index(
    count: int, width: int, dtype: str = "f32", *, passage_bytes: float = PASSAGE_BYTES
) -> IndexForecast:
    """Forecast an index's memory and disk.

    Args:
        count: N passages.
        width: D numbers each.
        dtype: ``f32``, ``bf16`` or ``f16``.
        passage_bytes: mean bytes of one line of the passage store.
    """
    vectors = count * width * dtype_of(dtype).itemsize
    embedded = count * width * 4
    return IndexForecast(
        count=count,
        width=width,
        dtype=dtype,
        vectors_bytes=vectors,
        build_bytes=embedded if dtype == "f32" else embedded + vectors,
        disk_bytes=vectors + int(count * passage_bytes) + _OFFSET_BYTES * (count + 1),
    )


def require_memory(forecast: IndexForecast, available_bytes: int) -> None:
    """Refuse an index that cannot be held, naming the cheapest change that fits.

    Raises:
        MemoryForecastError: ``build_bytes`` exceeds what is available.
    """
    if forecast.build_bytes <= available_bytes:
        return
    raise MemoryForecastError(
        f"index: {forecast.count:,} passages x {forecast.width} numbers ({forecast.dtype}) need "
        f"{_gib(forecast.build_bytes)} while building, {_gib(available_bytes)} are available. "
        f"{_cheapest_change(forecast, available_bytes)}"
    )


def available_memory_bytes() -> int:
    """Memory this process may still take: the machine's free memory or the container's limit."""
    limits = [_meminfo_available()]
    for limit, used, details in _CGROUP_FILES:
        try:
            allowed = (_CGROUP / limit).read_text(encoding="ascii").strip()
            taken = int((_CGROUP / used).read_text(encoding="ascii"))
            cached = _file_cache((_CGROUP / details).read_text(encoding="ascii"))
        except OSError:
            continue
        if allowed.isdigit():
            limits.append(max(int(allowed) - max(taken - cached, 0), 0))
    return min(limits)


# Limit, use and its details, of both versions of cgroups.
_CGROUP_FILES = (
    ("memory.max", "memory.current", "memory.stat"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
)


def _file_cache(details: str) -> int:
    """Bytes of files in the container's memory, which the kernel gives back when asked."""
    fields = dict(line.split() for line in details.splitlines())
    prefix = "total_" if "total_inactive_file" in fields else ""
    return sum(int(fields.get(f"{prefix}{name}_file", 0)) for name in ("inactive", "active"))


def _meminfo_available() -> int:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    return int(fields["MemAvailable"].split()[0]) * 1024


def _cheapest_change(forecast: IndexForecast, available_bytes: int) -> str:
    for dtype in DTYPES:
        smaller = forecast_index(forecast.count, forecast.width, dtype)
        if smaller.build_bytes <= available_bytes:
            return f"Use --set index.dtype={dtype}: {_gib(smaller.build_bytes)}"
    per_passage = forecast.build_bytes / forecast.count
    fitting = int(available_bytes / per_passage)
    return (
        f"Use a machine with that much memory, or a knowledge base of at most {fitting:,} passages"
    )


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"
