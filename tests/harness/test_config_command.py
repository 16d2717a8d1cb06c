"""`harness config` and docs/config.md: every key with a type, a default and a meaning, as the schema has them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from harness.cli.app import app
from harness.cli.config import every_key, markdown_of
from harness.config.keys import Key, keys_of
from harness.config.schema import every_key as every_experiment_key
from harness.config.schema import key_types, owners_of, parse_experiment
from harness.errors import ConfigError

PAGE = Path(__file__).parents[2] / "docs" / "config.md"


def test_every_key_has_a_meaning_and_a_type() -> None:
    keys = [key for keys in every_key().values() for key in keys]
    assert [key.name for key in keys if not key.meaning or not key.takes] == []
    assert sorted(key.name for key in keys_of(every_experiment_key())) == sorted(key_types())


def test_the_page_is_what_the_command_prints() -> None:
    assert PAGE.read_text(encoding="utf-8").rstrip("\n").split("\n") == list(markdown_of(every_key()))


@pytest.mark.parametrize(
    "key", [key for key in keys_of(every_experiment_key()) if {*key.range} & {*">≥"}], ids=lambda key: key.name
)
def test_the_range_that_is_told_is_the_one_that_is_checked(key: Key) -> None:
    section, _, name = key.name.partition(".")
    low = float(next(bound for bound in key.range.split(", ") if bound[0] in ">≥").split()[-1])
    outside = int(low) - 1 if "whole" in key.takes else low - 1
    value: object = [outside] * 2 if "list" in key.takes else outside
    for part in reversed(name.split(".") if name else []):
        value = {part: value}
    kind = next(iter(owners_of(key.name)), "single_rate")
    values: dict[str, Any] = {"model": {"kind": kind}}
    values[section] = {**values.get(section, {}), **value} if isinstance(value, dict) else value
    with pytest.raises(ConfigError, match=rf"{re.escape(key.name)}: (?!only)"):
        parse_experiment(values, "test")


def told(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["config", *arguments], catch_exceptions=False)
    assert done.exit_code == 0
    return done.output


def test_a_key_its_last_part_and_a_section_are_found() -> None:
    assert json.loads(told("sample.eta", "--json")) == json.loads(told("eta", "--json"))
    (key,) = json.loads(told("eta", "--json"))["experiment"]
    assert key["name"] == "sample.eta" and key["default"] == "unset" and "ddim" in key["meaning"]
    names = [key["name"] for key in json.loads(told("measure", "--json"))["experiment"]]
    assert names == [key for key in key_types() if key.startswith("measure.")]
    assert "measure.latency.repeats" in told()


def test_an_unknown_key_gets_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"etta: unknown key \(did you mean 'eta'\?\)"):
        CliRunner().invoke(app, ["config", "etta"], catch_exceptions=False)


METHOD = """
from pydantic import Field
from torch import nn

from models.methods import Method, Settings


class Keys(Settings):
    gadgets: int = Field(7, ge=1, description="how many gadgets")


class Gadgets(Method):
    model_settings = Keys

    def build_network(self, config, images):
        return nn.Identity()
"""


def test_the_keys_of_a_method_of_ones_own_are_told_where_it_is_named(tmp_path: Path) -> None:
    """In a process of its own: what is loaded once is known to all that comes after."""
    (tmp_path / "gadgets.py").write_text(METHOD, encoding="utf-8")

    def config(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "harness.cli", "config", *arguments]
        environment = {**os.environ, "HARNESS_PLUGINS_PATH": str(tmp_path)}
        return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)

    done = config("gadgets", "--kind", "gadgets:Gadgets", "--json")
    assert done.returncode == 0, done.stderr
    (key,) = json.loads(done.stdout)["experiment"]
    assert (key["name"], key["default"], key["range"]) == ("model.gadgets", "7", "≥ 1")
    assert key["meaning"] == "gadgets:Gadgets: how many gadgets"
    unknown = config("gadgets")
    assert unknown.returncode == 2 and "--kind package.module:Class" in unknown.stderr
    wrong = config("--kind", "gadgets:Gadget")
    assert wrong.returncode == 2 and "error: --kind: 'gadgets:Gadget' cannot be found" in wrong.stderr
