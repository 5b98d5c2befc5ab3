"""Pictures of the results. matplotlib is needed here alone, and loaded only when a picture is asked for."""

import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from tests.tools.benchmark.cases import CASES
from tests.tools.benchmark.load import Result

COLOURS = {
    "ours": "#d1495b",
    "bun": "#30638e",
    "node": "#6a994e",
    "websockets": "#edae49",
    "aiohttp": "#9d8ca1",
    "naive": "#8d99ae",
}
BASE = "naive"
TIMES = "\N{MULTIPLICATION SIGN}"


def load_matplotlib() -> Any:
    """Its pyplot. Ends the program with a sentence where it is not installed."""
    try:
        import_module("matplotlib").use("agg")  # draws without a display
        return import_module("matplotlib.pyplot")
    except ImportError:
        sys.exit("--plot draws with matplotlib, which is not installed: pip install matplotlib")


def plot_cases(path: str, results: Mapping[str, Mapping[str, Result]], titles: Mapping[str, str]) -> None:
    """For each case, how many times less CPU than the naive peer each server needs for a delivery."""
    plt = load_matplotlib()
    names = [name for name in titles if name != BASE]
    pitch = len(names) + 1  # bars, and a gap, from one case to the next
    figure, axes = plt.subplots(figsize=(9, 1.4 + 0.21 * pitch * len(results)), layout="constrained")
    for row, name in enumerate(names):
        # Longer is better; a server that needs more than the naive one has its bar to the left of 1.
        times = [_times_less(rows, name) for rows in results.values()]
        places = [case * pitch + row for case in range(len(results))]
        bars = axes.barh(
            places, [value - 1 for value in times], left=1, height=0.85, color=COLOURS[name], label=titles[name]
        )
        axes.bar_label(bars, [f"{value:.3g}{TIMES}" for value in times], padding=4, fontsize=8)
    labels = ["\n".join([name, *CASES[name].description().split(", ")]) for name in results]
    axes.set_yticks([case * pitch + (len(names) - 1) / 2 for case in range(len(results))], labels, fontsize=8)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.margins(x=0.08, y=0.02)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}{TIMES}")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_title("CPU per delivery: how many times less than the naive FastAPI loop (log scale)", loc="left", pad=34)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(names), frameon=False, fontsize=8, borderaxespad=0.2)
    _tidy(axes, "x")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _times_less(rows: Mapping[str, Result], name: str) -> float:
    return rows[BASE].cpu_us / rows[name].cpu_us if rows[name].cpu_us else 1.0


def plot_growth(
    path: str, results: Mapping[str, tuple[Sequence[int], Mapping[str, Sequence[Result]]]], titles: Mapping[str, str]
) -> None:
    """CPU per delivery as rooms grow, and as their number grows: one panel for each."""
    plt = load_matplotlib()
    figure, panels = plt.subplots(1, len(results), figsize=(10, 4.2), layout="constrained", sharey=True, squeeze=False)
    for axes, (what, (sizes, servers)) in zip(panels[0], results.items()):
        for name, curve in servers.items():
            cpu = [result.cpu_us for result in curve]
            axes.plot(sizes, cpu, marker="o", markersize=4, color=COLOURS[name], label=titles[name])
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axes.minorticks_off()
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_xlabel(what)
        _tidy(axes, "both")
    panels[0][0].set_ylabel("CPU per delivery, µs")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=len(labels), frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _tidy(axes: Any, grid: str) -> None:
    axes.grid(axis=grid, color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
