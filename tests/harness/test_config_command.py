"""`harness config` and docs/config.md: every key with a type, a default and a meaning, as the schema has them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from harness.cli.app import app
from harness.cli.config import every_key, markdown_of
from harness.config.dotted import KEYS
from harness.config.keys import Key, keys_of
from harness.config.schema import Experiment, parse_experiment
from harness.errors import ConfigError

PAGE = Path(__file__).parents[2] / "docs" / "config.md"


def test_every_key_has_a_meaning_and_a_type() -> None:
    keys = [key for keys in every_key().values() for key in keys]
    assert [key.name for key in keys if not key.meaning or not key.takes] == []
    assert [key.name for key in keys_of(Experiment)] == list(KEYS)


def test_the_page_is_what_the_command_prints() -> None:
    assert PAGE.read_text(encoding="utf-8").rstrip("\n").split("\n") == list(markdown_of(every_key()))


@pytest.mark.parametrize(
    "key", [key for key in keys_of(Experiment) if {*key.range} & {*">≥"}], ids=lambda key: key.name
)
def test_the_range_that_is_told_is_the_one_that_is_checked(key: Key) -> None:
    section, _, name = key.name.partition(".")
    low = float(next(bound for bound in key.range.split(", ") if bound[0] in ">≥").split()[-1])
    outside = int(low) - 1 if "whole" in key.takes else low - 1
    value: object = [outside] * 2 if "list" in key.takes else outside
    for part in reversed(name.split(".") if name else []):
        value = {part: value}
    with pytest.raises(ConfigError, match=key.name.replace(".", r"\.")):
        parse_experiment({section: value}, "test")


def told(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["config", *arguments], catch_exceptions=False)
    assert done.exit_code == 0
    return done.output


def test_a_key_its_last_part_and_a_section_are_found() -> None:
    assert json.loads(told("sample.eta", "--json")) == json.loads(told("eta", "--json"))
    (key,) = json.loads(told("eta", "--json"))["experiment"]
    assert key["name"] == "sample.eta" and key["default"] == "unset" and "ddim" in key["meaning"]
    names = [key["name"] for key in json.loads(told("measure", "--json"))["experiment"]]
    assert names == [key for key in KEYS if key.startswith("measure.")]
    assert "measure.latency.repeats" in told()


def test_an_unknown_key_gets_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"etta: unknown key \(did you mean 'eta'\?\)"):
        CliRunner().invoke(app, ["config", "etta"], catch_exceptions=False)
