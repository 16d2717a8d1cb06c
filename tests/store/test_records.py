"""Records: what is read, upgraded and refused, on a record that an earlier version of this project wrote."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.errors import StoreError
from harness.report.panel import condition_of
from harness.store.records import CellRecord, DamagedRecord, parse_cell, parse_training, refreshing

OLD = json.loads(Path(__file__).with_name("schema-1.json").read_text(encoding="utf-8"))
"""dual-rate on the digits, 16 steps of DDIM with refresh interval 4, as schema 1 had it."""
TRAINING = {"training": "a", "steps": 3, "weights_bytes": 10, "device": "AMD EPYC", "ranks": 1}


def changed(change: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    record = copy.deepcopy(OLD)
    change(record)
    return record


def test_a_record_of_schema_1_keeps_every_figure_and_gains_what_was_derived() -> None:
    record = parse_cell(json.dumps(OLD), "old")
    assert (record.schema_, record.id, record.training) == (3, OLD["id"], OLD["training"])
    assert record.config == OLD["config"]
    for seed, old in zip(record.quality.per_seed, OLD["quality"]["per_seed"], strict=True):
        assert seed.seed == old["seed"] and seed.values["frechet"] == old["frechet"]
        assert seed.values["kernel_std"] == old["kernel_std"]
        assert seed.standard_errors == {"frechet": old["frechet_standard_error"]}
    labels = {name: measure.label for name, measure in record.quality.measures.items()}
    assert labels == {"frechet": "FD-digits", "kernel": "KD-digits"}
    assert record.compute.gmacs_per_image == OLD["compute"]["gmacs_per_image"]
    assert (record.compute.refreshes, record.compute.refresh_interval) == (4, 4)
    assert record.compute.evaluations == {"encoder": 4, "denoiser": 16}
    assert record.time is not None and record.time.seconds_per_image == OLD["time"]["seconds_per_image"]
    assert record.provenance.commit == OLD["provenance"]["commit"]
    assert (record.data.name, record.data.size, record.data.channels) == ("digits 8×8", 8, 1)


def test_what_an_older_record_does_not_tell_of_its_training_stays_unknown() -> None:
    """Without a start it inherits nothing; with one nobody knows what, which is not nothing."""
    second = {**parse_cell(OLD, "old").plain, "schema": 2}
    for old in (OLD, second):
        record = parse_cell(old, "old")
        assert record.compute.training_gmacs_inherited == record.provenance.training_seconds_inherited == 0
        assert record.provenance.training_seconds is None
    del second["compute"]["training_gmacs_inherited"], second["provenance"]["training_seconds_inherited"]
    second["config"] = {**second["config"], "train": {**second["config"]["train"], "start": "training:0123"}}
    record = parse_cell(second, "old")
    assert record.compute.training_gmacs_inherited is record.provenance.training_seconds_inherited is None
    assert "training_gmacs_inherited" not in record.plain["compute"]
    training = parse_training(json.dumps({**TRAINING, "schema": 1}), "done.json")
    assert training.schema_ == 2 and training.inherited is training.seconds is None


def test_what_is_written_is_read_again_to_the_bit() -> None:
    record = parse_cell(OLD, "old")
    text = json.dumps(record.plain)
    assert CellRecord.model_validate_json(text) == record
    assert parse_cell(text, "new").plain == record.plain == json.loads(text)


def test_a_part_that_is_not_known_is_kept() -> None:
    record = parse_cell(changed(lambda r: r["provenance"].update(queue="short")), "old")
    assert record.plain["provenance"]["queue"] == "short"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.pop("quality"), "has no quality"),
        (lambda r: r["quality"].pop("reference"), r"has no quality\.reference"),
        (lambda r: r.pop("compute"), "has no compute"),
        (lambda r: r.pop("time"), "has no time"),
        (lambda r: r.pop("provenance"), "has no provenance"),
        (lambda r: r["compute"].update(gmacs_per_image="many"), r"compute\.gmacs_per_image"),
        (lambda r: r["compute"].update(gmacs_per_image="1.5"), r"compute\.gmacs_per_image"),
        (lambda r: r["quality"].update(images="500"), r"quality\.images"),
        (lambda r: r["quality"]["per_seed"][0].update(frechet="1.2"), r"quality\.per_seed\.0\.values\.frechet"),
        (lambda r: r["time"].update(compiled="yes"), r"time\.compiled"),
        (lambda r: r["compute"].update(training_steps=True), r"compute\.training_steps"),
        (lambda r: r.update(schema=0), "schema 0"),
        (lambda r: r.update(schema="1"), "schema '1'"),
        (lambda r: r.pop("schema"), "schema None"),
    ],
)
def test_a_record_that_lacks_something_is_refused_with_the_cure(change: Any, message: str) -> None:
    for content in (changed(change), json.dumps(changed(change))):
        with pytest.raises(DamagedRecord, match=rf"cells/x: .*{message}.*; move it away and run again"):
            parse_cell(content, "cells/x")


def test_a_newer_record_is_refused_and_not_called_damaged() -> None:
    for parse, content in ((parse_cell, {**OLD, "schema": 4}), (parse_training, {**TRAINING, "schema": 3})):
        with pytest.raises(StoreError, match=r"newer version of this project .*; update the project, or") as raised:
            parse(json.dumps(content), "x")
        assert not isinstance(raised.value, DamagedRecord)


def test_a_training_that_did_not_say_its_schema_is_read() -> None:
    record = parse_training(json.dumps(TRAINING), "done.json")
    assert (record.training, record.weights_bytes, record.device) == ("a", 10, "AMD EPYC")
    with pytest.raises(DamagedRecord, match=r"done\.json: has no weights_bytes; move it away"):
        parse_training('{"training": "a", "steps": 1}', "done.json")


@pytest.mark.parametrize(
    ("sample", "expected"),
    [
        ({"steps": 32, "refresh_interval": 5}, (7, 5)),
        ({"steps": 32, "refreshes": 8}, (8, 4.0)),
        ({"steps": 32, "refresh_steps": [0, 3, 20, 31]}, (4, 8.0)),
        ({"steps": 32}, (None, None)),
    ],
)
def test_refreshes_and_interval(sample: dict[str, Any], expected: tuple[Any, Any]) -> None:
    assert refreshing(sample) == expected


def condition_with(change: Callable[[dict[str, Any]], Any]) -> Any:
    return condition_of(parse_cell(changed(change), "x"))


def test_channels_that_are_the_datas_own_are_the_same_condition_named_or_not() -> None:
    """The old hash does not cover size and channels: they stand beside it."""
    unset = condition_with(lambda r: r["config"]["data"].pop("channels", None))
    assert unset == condition_with(lambda r: r["config"]["data"].update(channels=1))
    assert unset != condition_with(lambda r: r["config"]["data"].update(channels=3))
    assert unset != condition_with(lambda r: r["quality"]["reference"].update(name="digits 16×16 train"))
    assert unset != condition_with(lambda r: r["quality"]["reference"].update(name="digits 8×8 test"))


def test_ten_thousand_records_are_read_in_a_few_seconds_at_most() -> None:
    content = json.dumps(parse_cell(OLD, "old").plain).encode()
    started = time.process_time()
    for _ in range(1000):
        parse_cell(content, "x")
    assert time.process_time() - started < 1.0  # 0.05 measured: a thousand take as long as twenty would be allowed


def test_text_in_the_place_of_a_training_s_numbers_is_damage() -> None:
    with pytest.raises(DamagedRecord, match=r"done\.json: steps: .*; move it away and run again"):
        parse_training(json.dumps({**TRAINING, "steps": "10"}), "done.json")
