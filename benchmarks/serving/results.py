"""Medians of the turns, and the table."""

from __future__ import annotations

import statistics
from collections import Counter
from typing import Any

from .contenders import CONTENDERS

__all__ = ["disturbance", "markdown", "summary"]

TITLES = {
    "reference": "onnxruntime batch 1 + PNG, 2 threads, no server",
    "ceiling": "two callers of 1 thread, batch 8 + PNG, no server",
    **{name: contender.title for name, contender in CONTENDERS.items()},
}


def summary(turns: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Each contender's medians over the rounds, by name."""
    names = dict.fromkeys(one["name"] for one in turns)
    return {name: _medians([one for one in turns if one["name"] == name]) for name in names}


def _medians(turns: list[dict[str, Any]]) -> dict[str, Any]:
    if "levels" not in turns[0]:
        return {"levels": [_level(turns, turns)]}
    by_level = zip(*(one["levels"] for one in turns), strict=True)
    last = [one["levels"][-1] for one in turns]
    return {
        "start_s": statistics.median(one["start_s"] for one in turns),
        "peak_rss_mib": statistics.median(level["peak_rss_mib"] for level in last),
        "levels": [_level(turns, levels) for levels in by_level],
    }


def _level(turns: list[dict[str, Any]], levels: Any) -> dict[str, Any]:
    """Of one concurrency in every round; ``part`` is of the reference around it."""
    parts = [
        level["images_per_s"] / one["reference"]["images_per_s"]
        for one, level in zip(turns, levels, strict=True)
    ]
    found: dict[str, Any] = {
        "concurrency": levels[0].get("concurrency"),
        "part": statistics.median(parts),
        "part_range": [min(parts), max(parts)],
    }
    for key in ("images_per_s", "cpu_ms_per_image"):
        found[key] = statistics.median(level[key] for level in levels)
    if "latency_ms" in levels[0]:
        answered = [level["latency_ms"] for level in levels if level["latency_ms"]]
        for key in ("p50", "p99"):
            found[f"{key}_ms"] = statistics.median([at[key] for at in answered] or [float("nan")])
        found["wrong"] = sum(level["wrong"] for level in levels)
        found["errors"] = dict(sum((Counter(level["errors"]) for level in levels), Counter()))
    return found


def disturbance(turns: list[dict[str, Any]]) -> str:
    """What the reference got of the machine: well below its 2 cores, others were at work too."""
    paces = [one["reference"]["images_per_s"] for one in turns]
    cores = statistics.median(
        one["reference"]["images_per_s"] * one["reference"]["cpu_ms_per_image"] / 1000
        for one in turns
    )
    return (
        f"The reference made {statistics.median(paces):.0f} images/s ({min(paces):.0f} to "
        f"{max(paces):.0f}) on {cores:.2f} cores."
    )


def markdown(medians: dict[str, dict[str, Any]]) -> str:
    """Parts of the reference, with p50 / p99 in ms; CPU and memory are of the highest load."""
    callers = max((len(one["levels"]) for one in medians.values()), default=1)
    measured = next((one for one in medians.values() if len(one["levels"]) == callers), None)
    names = [f"c = {level['concurrency']}" for level in measured["levels"]] if measured else []
    head = ["", *names, "CPU ms/image", "peak MiB", "start s", "errors"]
    lines = [head, ["---"] * len(head)]
    lines += [_row(name, one, callers) for name, one in medians.items()]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _row(name: str, one: dict[str, Any], callers: int) -> list[str]:
    levels, last = one["levels"], one["levels"][-1]
    cells = [_cell(level) for level in levels]
    errors = sum((Counter(level.get("errors", {})) for level in levels), Counter())
    return [
        TITLES[name],
        *([""] * (callers - len(cells))),  # without a server there is but one load
        *cells,
        f"{last['cpu_ms_per_image']:.1f}",
        f"{one['peak_rss_mib']:.0f}" if "peak_rss_mib" in one else "",
        f"{one['start_s']:.1f}" if "start_s" in one else "",
        ", ".join(f"{count} × {code}" for code, count in errors.items()),
    ]


def _cell(level: dict[str, Any]) -> str:
    part = f"{level['part']:.2f}"
    if "p50_ms" not in level:
        return f"{part} ({level['images_per_s']:.0f}/s)"
    return f"{part} ({level['p50_ms']:.1f} / {level['p99_ms']:.0f})"
