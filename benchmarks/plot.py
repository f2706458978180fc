"""What `make bench` measured, as a picture.

    .venv/bin/python benchmarks/plot.py

Reads `results/end_to_end.json` and writes `results/end_to_end.png` beside it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

RESULTS = Path(__file__).with_name("results")


def plot(found: dict[str, Any]) -> Figure:
    """Rates, CPU time and latency side by side."""
    figure = Figure(figsize=(15, 4.5), layout="constrained")
    rates, used, times = figure.subplots(1, 3)

    for name, values in found["rounds"].items():
        bar = rates.barh(name, found["events_per_second"][name], color="tab:blue" if name == "fleet" else "tab:gray")
        rates.bar_label(bar, fmt="{:,.0f}", padding=3)
        rates.plot(values, [name] * len(values), "k.", markersize=4)
    rates.set_title("events a second; dots are rounds")

    micros = dict(sorted(found["cpu_us_per_event"].items(), key=lambda pair: pair[1]))
    bars = used.barh(list(micros), list(micros.values()), color="tab:orange")
    labels = [f"{micros[name]:,.0f} ({found['cpu_share'][name]:.0%})" for name in micros]
    used.bar_label(bars, labels, padding=3)
    used.set_title("CPU µs an event (share of the machine)")

    for place, values in found["latency_ms"].items():
        times.plot(list(values), list(values.values()), marker="o", label=place)
    times.set_yscale("log")
    times.set_title("published to readable, ms")
    times.legend()

    for axes in (rates, used):
        axes.margins(x=0.25)
    machine = found["machine"]
    figure.suptitle(f"{found['events']:,} events, {machine['cpus']} CPUs, {machine['memory_gib']} GiB, {found['at']}")
    return figure


def main() -> None:
    found = json.loads((RESULTS / "end_to_end.json").read_text(encoding="utf-8"))
    plot(found).savefig(RESULTS / "end_to_end.png", dpi=110)


if __name__ == "__main__":
    main()
