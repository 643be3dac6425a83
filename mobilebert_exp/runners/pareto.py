"""Models compared: the main metric against size against latency, as a table and as a plot."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Sequence
from dataclasses import dataclass

from mobilebert_exp import layout
from mobilebert_exp.layout import Column


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


def table(points: Sequence[Point], *, metric: str, width: int) -> str:
    """A row a model and number of threads; `*` marks models that no other surpasses (median, most threads).

    In lines of at most `width`: where there is no room for all columns, the last line names those that are left out.
    """
    best = front(points)
    rows = []
    for point in sorted(points, key=lambda each: each.latency):
        for latency in point.latencies:
            of_model = {
                "model": point.name,
                "MB": f"{point.bytes / 1e6:.2f}",
                metric: "" if point.metric is None else f"{point.metric:.2f}",
                "peak MiB": f"{point.peak_bytes / 2**20:,.0f}",
                "own MiB": f"{point.model_bytes / 2**20:,.0f}",
                "best": "*" if point.name in best else "",
            }
            of_threads = {"threads": str(latency.threads)}
            of_threads |= {f"{share} ms": f"{getattr(latency, share):.2f}" for share in ("p50", "p90", "p99")}
            rows.append(of_threads | (of_model if latency is point.latencies[0] else dict.fromkeys(of_model, "")))
    ranks = {"model": 0, "MB": 2, metric: 1, "threads": 0, "p50 ms": 0, "p90 ms": 5, "p99 ms": 3, "peak MiB": 4,
             "own MiB": 6, "best": 0}  # fmt: skip
    columns = [
        Column(name=name, cells=[row[name] for row in rows], rank=rank, is_figure=name not in ("model", "best"))
        for name, rank in ranks.items()
    ]
    title = f"*: surpassed by no other in {metric}, MB and p50 ms"
    return layout.drawn(columns, title=title, width=width)


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
