"""What a GPU does with this project, in a quarter of an hour: `python tools/gpu.py --out FOLDER --data TINY_IMAGENET`.

Three parts, each with a time limit: smoke (2 minutes: every method × sampler × precision, compiled and not, against the
CPU's images, with every wait for the device an error), speed (3 minutes: time against FLOPs, training against the
device's peak), quality (the rest: a base on Tiny-ImageNet, made dual-rate, drawn and measured by `harness sweep`).

Each result is written to FOLDER/results.jsonl as it comes; the same command goes on where the last one was cut off, and
prints the table of all that is there. `--tiny` tries all of it on a CPU in two minutes. See docs/gpu.md.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from rich.markup import escape  # noqa: E402
from rich.table import Table  # noqa: E402

from harness.cli.console import console, main_of  # noqa: E402
from harness.errors import ConfigError  # noqa: E402

PARTS = ("smoke", "speed", "quality")
SECONDS = {"smoke": 120.0, "speed": 180.0}
"""Limits of the parts; quality has the rest of ``--minutes``."""
MINUTES, TINY_MINUTES = 15.0, 2.0
"""Of all parts, unless told."""
GRACE = 10.0
"""Seconds that an item may overstep its part's limit by before its process is ended."""
STARTING = 20.0
"""Seconds that the last part must have before its report for its sweep to be begun."""
REPORTING = 30.0
"""Seconds of the last part that are kept for its report."""
STATES = ("ok", "failed", "needs CUDA", "needs --data", "not reached")
DONE = ("ok", "needs CUDA", "needs --data")
NEWEST = "results.jsonl"
PLAN = "gpu-quality.yaml"
"""The sweep of the last part, in the folder; its name is that of its report."""


class Results:
    """The results in a folder, a line of JSON each, of which the newest of an item counts."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / NEWEST

    def add(self, item: str, state: str, **values: Any) -> None:
        text = json.dumps({"item": item, "state": state, "at": round(time.time(), 1), **values})
        torn = self.path.exists() and not self.path.read_bytes().endswith(b"\n")
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"{chr(10) if torn else ''}{text}\n")
            file.flush()
            os.fsync(file.fileno())

    def newest(self) -> dict[str, dict[str, Any]]:
        """By item, in the order in which each was first tried; what was cut off in writing is passed over."""
        found: dict[str, dict[str, Any]] = {}
        if self.path.exists():
            for text in self.path.read_text(encoding="utf-8").splitlines():
                try:
                    line = json.loads(text)
                except json.JSONDecodeError:
                    continue
                found[line["item"]] = line
        return found

    def begun(self) -> list[str]:
        """Items that were begun and have not ended: their process is gone."""
        return [item for item, line in self.newest().items() if line["state"] == "begun"]


# ---- the process that works ------------------------------------------------------------------------------------------


def work(part: str, folder: Path, deadline: float, tiny: bool, only: str = "") -> None:
    """Try the items of a part that are not done, of those whose names have `only` in them, until `deadline`.

    Each is noted before it begins and when it ends.
    """
    from harness.engine.distributed import pick_device
    from tools import gpu_items
    from tools.made_images import make

    device, results = pick_device(), Results(folder)
    if part == "smoke":
        items = gpu_items.smoke_items(device, gpu_items.METHODS)
    else:
        data = folder / "made64.zip"
        items = gpu_items.speed_items(device, data if data.exists() else make(data, 64, 64), tiny)
    done = {item for item, line in results.newest().items() if line["state"] in DONE}
    for item in items:
        name = f"{part}/{item.name}"
        if name in done or only not in name:
            continue
        if item.needs_cuda and device.type != "cuda":
            results.add(name, "needs CUDA")
        elif time.time() >= deadline:
            results.add(name, "not reached")
        else:
            _try(item, name, results, device)
            gpu_items.free_memory()


def _try(item: Any, name: str, results: Results, device: Any) -> None:
    results.add(name, "begun")
    started = time.monotonic()
    try:
        values = item.run()
    except Exception as error:  # a result too: the others are still to be tried
        said = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        results.add(name, "failed", error=said, seconds=round(time.monotonic() - started, 3))
        return
    goals = {key: goal for key, goal in item.goals.items() if device.type == "cuda"}
    told = {
        key: {"bound": goal.bound, "is_most": goal.is_most, "met": goal.is_met_by(values[key])}
        for key, goal in goals.items()
        if values.get(key) is not None
    }
    results.add(name, "ok", seconds=round(time.monotonic() - started, 3), **values, goals=told)


# ---- the process that watches ----------------------------------------------------------------------------------------


def watched(part: str, folder: Path, seconds: float, tiny: bool, only: str = "") -> None:
    """Have a process work on a part for `seconds`. One that dies over an item is replaced, and the item has failed."""
    deadline, results = time.time() + seconds, Results(folder)
    command = [sys.executable, __file__, "--part", part, "--out", str(folder), "--only", only]
    command += ["--tiny"] if tiny else []
    while True:
        child = subprocess.Popen([*command, "--until", repr(deadline)], stdin=subprocess.DEVNULL)
        try:
            child.wait(max(1.0, deadline + GRACE - time.time()))
        except subprocess.TimeoutExpired:
            pass
        finally:
            _end(child, signal.SIGTERM)
        lost = results.begun()
        for item in lost:
            over = time.time() >= deadline
            why = "was still at it at the end of the part" if over else f"its process ended with {child.returncode}"
            results.add(item, "not reached" if over else "failed", error=why)
        if not lost or time.time() >= deadline:
            return


def _end(child: subprocess.Popen[Any], ask: int, wait: float = 5.0) -> None:
    """End a process that is still there: asked first, then by force."""
    if child.poll() is None:
        child.send_signal(ask)
        try:
            child.wait(wait)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def quality(folder: Path, data: Path | None, seconds: float, tiny: bool) -> None:
    """Plan by the measured throughput, run `harness sweep` until the time is over, and keep the rows that there are."""
    from tools.gpu_items import write_quality_plan

    results, deadline, file = Results(folder), time.time() + seconds, folder / PLAN
    if data is None and not tiny:
        results.add("quality/sweep", "needs --data")
        return
    if not file.exists():
        try:
            planned = write_quality_plan(file, None if data is None else str(data.absolute()), seconds, tiny)
        except Exception as error:
            results.add("quality/plan", "failed", error=f"{type(error).__name__}: {error}")
            return
        results.add("quality/plan", "ok", **planned)
    if deadline - REPORTING - time.time() < STARTING:
        results.add("quality/sweep", "not reached", error="the time was over; the same command goes on")
        return
    where = ["--results", str(folder / "results"), "--cluster", "inline"]
    sweep = subprocess.Popen([sys.executable, "-m", "harness.cli", "sweep", str(file), *where], cwd=ROOT)
    over = False
    try:
        sweep.wait(max(1.0, deadline - REPORTING - time.time()))
    except subprocess.TimeoutExpired:
        over = True
    finally:
        _end(sweep, signal.SIGINT, wait=REPORTING)
    keep_rows(file, folder, results)
    state = "ok" if sweep.returncode == 0 else "not reached" if over and sweep.returncode != 2 else "failed"
    told = {"error": "the time was over; the same command goes on"} if state == "not reached" else {}
    if state == "failed":
        told["error"] = f"harness sweep {file} ended with {sweep.returncode}; it says why above"
    results.add("quality/sweep", state, **told, status=sweep.returncode)


def keep_rows(file: Path, folder: Path, results: Results) -> None:
    """The rows of the report as far as they are measured."""
    import harness

    rows = harness.load_sweep(file, results=folder / "results").report()
    for row in json.loads(rows.to_json(orient="records")):
        if row["gmacs_per_image"] is not None:
            kept = {key: value for key, value in row.items() if value is not None}
            refreshes = f", {row['refreshes']:g} refreshes" if row.get("refreshes") else ""
            results.add(f"quality/{row['method']}/{row['steps']:g} steps{refreshes}", "ok", **kept)


# ---- the table -------------------------------------------------------------------------------------------------------


def show(folder: Path) -> None:
    """All results of the folder: the smoke's counted by method, the others one by one, then what failed."""
    newest, out = Results(folder).newest(), console()
    table = Table(title=str(folder), title_justify="left")
    for column in ("part", "what", "result", "goal"):
        table.add_column(column, overflow="fold")
    conditions = newest.get("conditions", {})
    for row in (*_smoke_rows(newest), *_speed_rows(newest), *_quality_rows(newest)):
        table.add_row(*map(escape, row))
    out.print(", ".join(f"{key} {conditions.get(key)}" for key in ("device", "torch", "commit")), highlight=False)
    out.print(table)
    for item, line in newest.items():
        if line["state"] == "failed":
            out.print(f"failed: {item}: {line.get('error', '')}", highlight=False, markup=False)
    states = [line["state"] for item, line in newest.items() if item != "conditions"]
    counts = ", ".join(f"{states.count(state)} {state}" for state in STATES if state in states)
    out.print(f"{counts}; {Results(folder).path}", highlight=False, markup=False)


Row = tuple[str, str, str, str]


def _smoke_rows(newest: dict[str, dict[str, Any]]) -> Iterator[Row]:
    """Of each method and kind: how many are well, and the largest difference from the CPU's images."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for item, line in newest.items():
        part, *name = item.split("/")
        if part == "smoke":
            kind, method, precision, way = name[0], name[1], name[-2], name[-1]
            groups.setdefault((f"{kind}, {precision}, {way}", method), []).append(line)
    kinds: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for (kind, method), lines in groups.items():
        kinds.setdefault(kind, {})[method] = lines
    for kind, methods in kinds.items():
        lines = [line for of_method in methods.values() for line in of_method]
        counts = {state: sum(line["state"] == state for line in lines) for state in STATES}
        told = [f"{counts['ok']} of {len(lines)}", *(f"{counts[s]} {s}" for s in STATES[1:] if counts[s])]
        differences = [line["difference"] for line in lines if "difference" in line]
        if differences:
            told.append(f"differs by up to {max(differences):.1g}")
        tolerance = max((line["tolerance"] for line in lines if "tolerance" in line), default=None)
        yield "smoke", kind, ", ".join(told), "all" if tolerance is None else f"all, ≤ {tolerance:g}"


def _speed_rows(newest: dict[str, dict[str, Any]]) -> Iterator[Row]:
    shown: dict[str, Callable[[dict[str, Any]], str]] = {
        "sampling": lambda r: (
            f"{r['speed_up']:.2f}× as fast for {r['flops_ratio']:.2f}× fewer FLOPs: {r['efficiency']:.2f}, "
            f"loop {r['loop_share']:.1%}, {r['images_per_second']:.4g} images/s"
        ),
        "training": lambda r: (
            f"{r['images_per_second']:.4g} images/s, {r['tflops_achieved']:.3g} TFLOP/s"
            + (f", {r['share_of_reference']:.0%} of {r['reference']}" if r["share_of_reference"] else "")
        ),
    }
    for item, line in newest.items():
        part, _, rest = item.partition("/")
        if part == "speed":
            kind, *name = rest.split("/")
            told = shown[kind](line) if line["state"] == "ok" else line["state"]
            yield part, ", ".join((kind, *name)), told, _goals(line)


def _goals(line: dict[str, Any]) -> str:
    if line["state"] == "ok" and not line["goals"]:
        return "needs CUDA"
    return ", ".join(
        f"{key.replace('_', ' ')} {'≤' if goal['is_most'] else '≥'} {goal['bound']:g}: {'yes' if goal['met'] else 'no'}"
        for key, goal in line.get("goals", {}).items()
    )


def _quality_rows(newest: dict[str, dict[str, Any]]) -> Iterator[Row]:
    for item, line in newest.items():
        part, _, name = item.partition("/")
        if part != "quality":
            continue
        if name == "plan" and line["state"] == "ok":
            told = ", ".join(f"{arm} {steps:,} steps" for arm, steps in line["steps"].items())
        elif line["state"] != "ok" or name == "sweep":
            told = f"{line['state']} {line.get('error', '')}"
        else:
            distances = [f"{key} {value:.4g}" for key, value in line.items() if key.startswith(("FD-", "FID"))]
            told = ", ".join([*distances, f"{line['gmacs_per_image']:.4g} GMACs per image"])
        yield part, name.replace("/", ", "), told.strip(), ""


# ---- all of it -------------------------------------------------------------------------------------------------------


def conditions() -> dict[str, Any]:
    """Device, versions and commit that the results hold for."""
    import torch

    from harness.engine.distributed import pick_device
    from harness.measure.latency import device_name
    from harness.store.provenance import provenance

    made = provenance()
    return {
        "device": device_name(pick_device()),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "commit": made.get("commit"),
        "dirty": made.get("dirty"),
    }


def run(folder: Path, data: Path | None, minutes: float, tiny: bool, parts: list[str], only: str = "") -> int:
    """The parts one after another, then the table. Returns 1 where something has failed."""
    started = time.time()
    folder.mkdir(parents=True, exist_ok=True)
    results = Results(folder)
    earlier, now = results.newest().get("conditions", {}), conditions()
    for key in ("device", "commit"):
        if earlier.get(key, now[key]) != now[key]:
            raise ConfigError(
                "--out", [f"{folder} has results of {key} {earlier[key]}, this is {now[key]}; name another folder"]
            )
    results.add("conditions", "ok", **now)
    try:
        for part in parts:
            left = 60 * minutes - (time.time() - started)
            if part == "quality":
                quality(folder, data, max(REPORTING, left), tiny)
            else:
                watched(part, folder, min(SECONDS[part], max(0.0, left)), tiny, only)
    finally:
        show(folder)
    return int(any(line["state"] == "failed" for line in results.newest().values()))


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the results; the same goes on there")
    parser.add_argument("--data", type=Path, help="Tiny-ImageNet: what data.path takes, a folder of zips or one zip")
    parser.add_argument("--minutes", type=float, help=f"all parts together; {MINUTES:g}, or {TINY_MINUTES:g}")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--only", default="", metavar="TEXT", help="of smoke and speed, items with this in their names")
    parser.add_argument("--tiny", action="store_true", help="the smallest of everything, on a CPU too")
    parser.add_argument("--part", choices=PARTS[:2], help=argparse.SUPPRESS)
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.part:
        work(given.part, given.out, given.until, given.tiny, given.only)
        return
    minutes = given.minutes if given.minutes is not None else TINY_MINUTES if given.tiny else MINUTES
    if minutes <= 0:
        raise ConfigError("--minutes", [f"{minutes:g} is not more than 0"])
    if given.data is not None and not given.data.exists():
        raise ConfigError("--data", [f"{given.data}: there is no such folder or file"])
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: what works is ended, the table is printed
    sys.exit(run(given.out.absolute(), given.data, minutes, given.tiny, given.parts, given.only))


if __name__ == "__main__":
    main_of(main, sys.argv[1:])
