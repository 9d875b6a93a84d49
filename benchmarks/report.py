"""Results as lines of text and as data, one system beside the other."""

from collections.abc import Iterator, Sequence

from benchmarks.measure import Finding, Note, Result, Sample, median
from benchmarks.workbench import Workbench


def line(bench: Workbench, finding: Finding) -> str:
    """Limits are printed beside tsrollup's own figures only."""
    start = f"{bench.system:>11}  {finding.benchmark:>15}"
    if isinstance(finding, Note):
        return f"{start}  {finding.what}: {finding.text}"
    unit = finding.unit if finding.reference is None else "x "
    text = f"{start}  {finding.value:9.2f} {unit}  {finding.what}"
    if finding.variant:
        text += f", {finding.variant}"
    if finding.cpu_value is not None:
        text += f", CPU {finding.cpu_value:.2f}"
    if finding.reference is not None:
        text += f" ({_ms(finding.samples)} / {_ms(finding.reference)} {finding.unit})"
    if finding.planning is not None:
        text += f", planning {finding.planning:.2f} ms"
    if finding.answer:
        text += f", answers: {finding.answer}"
    if type(bench) is Workbench and finding.passed is not None:
        text += f"  {'ok' if finding.passed else 'OVER'}: limit {_limit(finding)}"
    return text


def summary(ours: Sequence[Finding], theirs: Sequence[Finding]) -> Iterator[str]:
    """What both did: tsrollup's time / TimescaleDB's, and each one's ratio to its own reference."""
    yield "tsrollup / TimescaleDB: times in ms, then each one's ratio to its own reference"
    for their in theirs:
        key = (their.benchmark, their.what)
        our = next((x for x in ours if (x.benchmark, x.what) == key), None)
        if isinstance(our, Note) and isinstance(their, Note):
            yield f"{'':9}  {their.what}: {our.text} / {their.text}"
        elif isinstance(our, Result) and isinstance(their, Result):
            yield f"{median(our.samples) / median(their.samples):9.2f}  {_beside(our, their)}"


def _beside(our: Result, their: Result) -> str:
    text = f"{our.what}{f', {their.variant}' if their.variant else ''}"
    text += f" ({_ms(our.samples)} / {_ms(their.samples)})"
    if our.reference is not None:
        text += f"  {our.value:.2f} / {their.value:.2f}"
    if our.answer:
        text += f"  answers: {our.answer} / {their.answer}"
    return text


def raw(finding: Finding) -> dict[str, object]:
    """Every measurement, in seconds."""
    if isinstance(finding, Note):
        return {"benchmark": finding.benchmark, "what": finding.what, "note": finding.text}
    return {
        "benchmark": finding.benchmark,
        "what": finding.what,
        "variant": finding.variant,
        "limit": finding.limit,
        "limit_ms": finding.limit_ms,
        "value": finding.value,
        "planning_ms": finding.planning,
        "answer": finding.answer,
        "cpu_value": finding.cpu_value,
        "seconds": _seconds(finding.samples),
        "reference_seconds": _seconds(finding.reference),
    }


def _seconds(samples: Sequence[Sample] | None) -> list[float]:
    return [round(x.wall, 6) for x in samples or ()]


def _ms(samples: Sequence[Sample]) -> str:
    value = 1000 * median(samples)
    return f"{value:,.2f}" if value < 100 else f"{value:,.0f}"


def _limit(result: Result) -> str:
    limits = [] if result.limit is None else [f"{result.limit:g}"]
    if result.limit_ms is not None:
        limits.append(f"{result.limit_ms:g} ms")
    return " or ".join(limits)
