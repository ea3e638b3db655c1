"""What a service uses."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True)
class BudgetPart:
    """One part of the memory budget."""

    name: str
    formula: str
    bound_bytes: int


@dataclass(frozen=True)
class BoundedPlace:
    """A place where data can wait, in items."""

    name: str
    live: int
    cap: int


@dataclass(frozen=True)
class StageTime:
    """Time of one frame in a stage, over all frames since start."""

    name: str
    frames: int
    p50: timedelta
    p99: timedelta


@dataclass(frozen=True)
class MemorySample:
    """Resident memory at one instant."""

    uptime: timedelta
    rss_bytes: int


@dataclass(frozen=True)
class Resources:
    """What a service uses, and may use."""

    software: str
    uptime: timedelta
    rss_bytes: int | None
    rss_peak_bytes: int | None
    swap_bytes: int | None
    open_files: int | None
    threads: int | None
    children: int | None
    restarts: int | None
    budget_bytes: int
    budget: tuple[BudgetPart, ...]
    places: tuple[BoundedPlace, ...]
    ledger_balance: int
    """0 unless there is a defect."""
    cgroup_limit_bytes: int | None
    cgroup_used_bytes: int | None
    allocator_held_bytes: int | None
    allocator_in_use_bytes: int | None
    allocator_mapped_bytes: int | None
    memory: tuple[MemorySample, ...]
    """Over the life of the process, oldest first."""
    slope_bytes_per_hour: float | None
    slope_ci_bytes_per_hour: float | None
    memory_short_for: timedelta | None
    """None when memory is not short."""
    memory_shortages: int
    soft_limit_bytes: int | None
    stages: tuple[StageTime, ...]
