"""The conditions that every figure of a panel was measured under, in words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from harness.report.panel import Panel
from harness.report.rows import Condition, Row, count, show
from harness.report.tables.numbers import number
from harness.report.timing import MARK, untrusted, why
from harness.wording import count_of

WITH_DECODER = (
    "GMACs/image, s/image, speed-ups and frontiers count the decoder, which makes images of latents; sampling GMACs "
    "and sampling s are those of the latents alone."
)


def conditions(panel: Panel) -> str:
    """The conditions of every figure of a panel: data, N, features, reference, seeds, device, dtype, batch, threads."""
    if panel.condition is None:
        return "Nothing has been measured yet."
    if "conditions" not in panel.memory:
        panel.memory["conditions"] = _conditions(panel, panel.condition)
    words: str = panel.memory["conditions"]
    return words


def _conditions(panel: Panel, condition: Condition) -> str:
    singular = any(record.quality.covariance_singular for row in panel.measured for record in row.records)
    warning = " Fewer images than features: the distances are a rough guide." if singular else ""
    told = f"{condition.text}; {_seeds(panel.measured)}; {timing(panel.measured)}."
    return f"{told}{reconstructions(panel)}{warning}"


def reconstructions(panel: Panel) -> str:
    """How near the panel's autoencoders come themselves, in words; empty where no row samples latents."""
    found: dict[str, str] = {}
    for record in (record for row in panel.measured for record in row.records):
        told, latents = record.quality.reconstruction, record.data.latents
        if told is None or latents is None:
            continue
        value, error = told.values.get(panel.metric), told.standard_errors.get(panel.metric)
        shown = "not measured" if value is None else f"{number(value)}{f' (se {error:.2g})' if error else ''}"
        shape = "×".join(map(str, latents.shape))
        found[latents.digest] = (
            f"{count_of(count(told.images), 'image')} of the reference through the {latents.autoencoder} of "
            f"{shape} latents ({latents.digest[:8]}) and back: {panel.distance} {shown}, PSNR {told.psnr:.3g} dB"
        )
    return f" What perfect samples of the latents would have: {'; '.join(found.values())}." if found else ""


def _seeds(rows: Sequence[Row]) -> str:
    trainings = sorted({len(row.records) for row in rows})
    samplings = sorted({len(record.quality.per_seed) for row in rows for record in row.records})
    unknown = " (what another training would change is not known)" if trainings == [1] else ""
    return f"{count_of(_range(trainings), 'training')} × {count_of(_range(samplings), 'sampling seed')}{unknown}"


def timing(rows: Iterable[Row]) -> str:
    """How the rows were timed, in words."""
    times = [time for row in rows for time in row.times]
    if not times:
        return "not timed"
    parts = [
        " / ".join(sorted({str(time.device) for time in times})),
        " / ".join(sorted({str(time.dtype) for time in times})),
        f"batch {_range(sorted({time.batch for time in times if time.batch}))}",
        count_of(_range(sorted({time.threads for time in times if time.threads})), "thread"),
        " and ".join(sorted({"compiled" if time.compiled else "not compiled" for time in times})),
        f"median of {count_of(_range(sorted({time.repeats for time in times if time.repeats})), 'repeat')}",
    ]
    return "timed on " + ", ".join(parts)


def _range(values: Sequence[float]) -> str:
    if not values:
        return "?"
    return show(values[0]) if len(values) == 1 else f"{show(values[0])} to {show(values[-1])}"


def doubt(panel: Panel, command: str) -> str:
    """The footnote on times that are not to be trusted; empty where there are none."""
    timed = [row for row in panel.measured if row.seconds > 0]
    return f" {MARK}: a time that is not to be trusted; {why(timed, command)}" if untrusted(timed) else ""
