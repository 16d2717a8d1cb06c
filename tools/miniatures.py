"""Run the sweeps at the paper's scale in miniature, on made images: `python tools/miniatures.py [NAME…]`.

They differ from the sweeps that they stand for in sizes alone: compiled, bfloat16, guided, with workers and Inception's
features (of random weights). `harness flops` tells a cost first, then the sweep runs to its report, then what it has
made is held against the same uncompiled. Most of the time goes into compiling C++, so feature maps, widths and batches
are the same in all of them: what one of them has compiled the next finds in torch's cache.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from harness.data import open_data  # noqa: E402
from harness.dispatch.sweep import Sweep, load_sweep  # noqa: E402
from harness.engine.estimate import expected_runs, planned_costs  # noqa: E402
from harness.measure.flops import sampling_macs  # noqa: E402
from harness.store.store import Store  # noqa: E402
from tools.made_images import make, make_cifar10  # noqa: E402
from tools.made_inception import make_inception  # noqa: E402
from tools.same_compiled import differences  # noqa: E402

SIDES = {"imagenet64": 64, "imagenet128": 128, "cifar10": None, "tiny_imagenet": 64, "imagenet64_mmd": 64}
"""Side of the made images of each sweep; CIFAR-10 has its own archive."""
IMAGES = 64


def run(name: str, folder: Path, workers: int) -> None:
    """One miniature, from its costs to its report, `workers` of its trainings or cells at once.

    Raises CalledProcessError where a command fails, SystemExit where compiling has changed what is made.
    """
    side = SIDES[name]
    if side is None:
        data = make_cifar10(folder / "made-cifar10.tar.gz", IMAGES)
    else:
        data = make(folder / f"made{side}.zip", IMAGES, side)
    overrides = ["--set", f"data.path={data}"]
    if name != "tiny_imagenet":
        weights = folder / "made-inception.pth"
        overrides += ["--set", f"measure.weights={weights if weights.exists() else make_inception(weights)}"]
    file = ROOT / "sweeps" / "miniature" / f"{name}.yaml"
    harness = [sys.executable, "-m", "harness.cli"]
    arm = load_sweep(file, overrides[1::2]).config.report.subject or "base"
    subprocess.run([*harness, "flops", file, "--arm", arm, *overrides, "--json"], check=True, stdout=subprocess.DEVNULL)
    place = ["--cluster", "inline"] if workers == 1 else ["--cluster", "local", "--workers", str(workers)]
    subprocess.run([*harness, "sweep", file, *overrides, *place, "--results", folder / "results"], check=True)
    check_compiled(file, overrides[1::2], folder)


def check_compiled(file: Path, overrides: list[str], folder: Path) -> None:
    """Hold what the sweep has made, compiled, against what it says and against the same uncompiled."""
    sweep, store = load_sweep(file, overrides), Store(folder / "results")
    if told := list(wrong_records(sweep, store)):
        raise SystemExit("\n".join(["the records are not those of this sweep:", *told]))
    if told := list(differences(sweep, store, folder / "uncompiled")):
        raise SystemExit("\n".join(["compiled networks are not what they are uncompiled:", *told]))


def wrong_records(sweep: Sweep, store: Store) -> Iterator[str]:
    """What the records say otherwise than the sweep does: compute as planned without weights, compiled times of its
    precision, and no distance called FID, since the extractor's weights are random ones."""
    for cell in sweep.cells.values():
        record, asked = store.read_cell(cell.id), cell.experiment
        planned = sampling_macs(planned_costs(asked, open_data(asked.data).info), expected_runs(asked))
        if record.compute.macs_per_image != planned:
            yield f"cell {cell.id}: {record.compute.macs_per_image} multiply-adds an image, of {planned} planned"
        if record.time is None or (record.time.compiled, record.time.dtype) != (True, asked.sample.precision):
            yield f"cell {cell.id}: its times are not those of compiled networks in {asked.sample.precision}"
        if "FID" in (label := record.quality.measures["frechet"].label):
            yield f"cell {cell.id}: {label} of random features"


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(SIDES), metavar="NAME", help=", ".join(SIDES))
    parser.add_argument("--workers", type=int, default=1, help="trainings or cells at once, each in a process")
    chosen = parser.parse_args(arguments)
    names = chosen.names
    if unknown := set(names) - set(SIDES):
        parser.error(f"{', '.join(sorted(unknown))}: choices are {', '.join(SIDES)}")
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            started = time.monotonic()
            run(name, Path(folder), chosen.workers)
            print(f"{name}: from its configuration to its report in {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
