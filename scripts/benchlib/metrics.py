"""The server's own figures over the measured window, from two readings of /metrics.

Runs in: scripts/bench. Pure: text in, numbers out.
Rules: only `roomtone_*`; a counter is its growth, a gauge its last value, a histogram its growth and two upper bounds.
"""

from prometheus_client.parser import text_string_to_metric_families

PREFIX = "roomtone_"


def samples(text: str) -> dict[tuple[str, str, tuple[tuple[str, str], ...]], float]:
    """{(type, sample name, sorted labels): value} of our own metrics."""
    return {
        (family.type, sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        if family.name.startswith(PREFIX)
        for sample in family.samples
    }


def label(name: str, labels: tuple[tuple[str, str], ...]) -> str:
    inside = ",".join(f"{key}={value}" for key, value in labels)
    return f"{name}{{{inside}}}" if inside else name


def upper_bound(buckets: dict[float, float], share: float) -> float:
    """The smallest bucket bound below which that share of the observations lies; `buckets` is cumulative."""
    total = buckets[max(buckets)]
    return min(bound for bound, count in buckets.items() if count >= share * total)


def growth(before: str, after: str) -> dict[str, float | str]:
    """Name with labels -> growth, value, or for histograms `count n, p50 <= x, p99 <= y`."""
    earlier, figures = samples(before), {}
    histograms: dict[str, dict[float, float]] = {}
    for (kind, name, labels), value in samples(after).items():
        grown = value - earlier.get((kind, name, labels), 0.0)
        if kind == "histogram" and name.endswith("_bucket"):
            plain = tuple(pair for pair in labels if pair[0] != "le")
            key = label(name.removesuffix("_bucket"), plain)
            histograms.setdefault(key, {})[float(dict(labels)["le"])] = grown
        elif kind == "counter" and not name.endswith("_created"):
            figures[label(name, labels)] = grown
        elif kind == "gauge":
            figures[label(name, labels)] = value
    texts = {
        key: f"count {buckets[max(buckets)]:g}, p50 <= {upper_bound(buckets, 0.5):g}, p99 <= {upper_bound(buckets, 0.99):g}"
        for key, buckets in histograms.items()
        if buckets[max(buckets)]
    }
    return {**figures, **texts}
