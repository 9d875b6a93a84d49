"""The machine and the server that the figures come from."""

import os
import platform
from pathlib import Path

from benchmarks.measure import Session

SETTINGS = (
    "shared_buffers", "work_mem", "jit", "fsync", "synchronous_commit", "random_page_cost",
    "max_parallel_workers_per_gather",
)  # fmt: skip


def describe_machine(session: Session) -> dict[str, str]:
    facts = {
        "client": f"{platform.system()}, {os.cpu_count()} CPUs, {_cpu_model()}",
        "memory": _memory(),
        "load": describe_load(),
        "server": str(session.value("SHOW server_version")),
    }
    for name in SETTINGS:
        facts[name] = str(session.value("SELECT current_setting(%s)", name))
    return facts


def describe_load() -> str:
    """The load averages of 1, 5 and 15 minutes: whether neighbours disturb the figures."""
    try:
        return ", ".join(f"{x:.2f}" for x in os.getloadavg())
    except OSError:
        return "unknown"


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), "")


def _memory() -> str:
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GB"
    except (OSError, ValueError):
        return "unknown"
