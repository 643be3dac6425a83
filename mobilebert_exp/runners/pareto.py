"""Models compared: the main metric against size against latency, as a table and as a plot."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Milliseconds of one run, by the number of threads they were measured with."""

    threads: int
    p50: float
    p90: float
    p99: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A measured model.

    Attributes:
      bytes: size of its files.
      peak_bytes: the most memory its process had; `model_bytes` of that came with the model.
      metric: the main metric; None where it was not evaluated.
    """

    name: str
    bytes: int
    latencies: Sequence[Latency]
    peak_bytes: int
    model_bytes: int
    metric: float | None

    @property
    def latency(self) -> float:
        """The median with the most threads: what the comparison is about."""
        return max(self.latencies, key=lambda each: each.threads).p50


def front(points: Sequence[Point]) -> set[str]:
    """Names of the points that no other surpasses: none is as good in all and better in one."""
    return {one.name for one in points if not any(_surpasses(other, one) for other in points)}


def _surpasses(a: Point, b: Point) -> bool:
    """Metrics count where both have one; what was not evaluated surpasses nothing that was."""
    if a.metric is None and b.metric is not None:
        return False
    pairs = [(b.bytes, a.bytes), (b.latency, a.latency)]
    if a.metric is not None and b.metric is not None:
        pairs.append((a.metric, b.metric))
    return all(x >= y for x, y in pairs) and any(x > y for x, y in pairs)


def table(points: Sequence[Point], *, metric: str) -> str:
    """A row a model; `*` marks those that no other surpasses in metric, size and latency (median, most threads)."""
    best = front(points)
    heads = ["model", "MB", metric, "threads", "p50 ms", "p90 ms", "p99 ms", "peak MiB", "of the model", ""]
    rows = [heads]
    for point in sorted(points, key=lambda each: each.latency):
        for latency in point.latencies:
            first = latency is point.latencies[0]
            shown = "" if point.metric is None else f"{point.metric:.2f}"
            rows.append([
                *((point.name, f"{point.bytes / 1e6:.2f}", shown) if first else ("", "", "")),
                *(str(latency.threads), f"{latency.p50:.2f}", f"{latency.p90:.2f}", f"{latency.p99:.2f}"),
                *((f"{point.peak_bytes / 2**20:,.0f}", f"{point.model_bytes / 2**20:,.0f}") if first else ("", "")),
                "*" if first and point.name in best else "",
            ])  # fmt: skip
    widths = [max(len(row[column]) for row in rows) for column in range(len(heads))]
    lines = []
    for row in rows:
        cells = [
            f"{cell:{'>' if at else '<'}{width}}" for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def plot(points: Sequence[Point], *, metric: str) -> bytes:
    """A PNG: latency to the right, the metric upwards (the size where there is none), size as the area of the mark."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    best = front(points)
    has_metric = any(point.metric is not None for point in points)
    shown = [point for point in points if point.metric is not None] if has_metric else list(points)
    figure = Figure(figsize=(9, 5), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    largest = max(point.bytes for point in shown)
    for point in shown:
        height = point.metric if has_metric else point.bytes / 1e6
        assert height is not None
        axes.scatter(
            point.latency,
            height,
            s=40 + 560 * point.bytes / largest,
            alpha=0.6,
            edgecolors="black" if point.name in best else "none",
            label=f"{point.name}, {point.bytes / 1e6:.1f} MB",
        )
    threads = max(latency.threads for point in shown for latency in point.latencies)
    axes.set_xlabel(f"latency, median of one run with {threads} thread(s), ms")
    axes.set_ylabel(metric if has_metric else "size, MB")
    axes.set_title("area: size; with an edge: surpassed by no other")
    axes.margins(0.15)
    axes.grid(alpha=0.3)
    for handle in figure.legend(loc="outside right upper", frameon=False).legend_handles:
        handle.set_sizes([60])  # type: ignore[union-attr]
    content = io.BytesIO()
    FigureCanvasAgg(figure).print_png(content, metadata={"Software": None})
    return content.getvalue()


def as_record(point: Point) -> dict[str, object]:
    """For JSON."""
    return dataclasses.asdict(point)
