from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from harness.cli.data import data_app
from harness.errors import DataError
from tests.data.making import classes, write_folder
from tests.data.test_cifar10 import write_batches


@pytest.fixture
def toy(tmp_path: Path) -> str:
    return str(write_folder(tmp_path / "toy", classes(each=4)))


def run(*arguments: str) -> str:
    result = CliRunner().invoke(data_app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_prepare_then_info(toy: str, tmp_path: Path):
    out = str(tmp_path / "out.zip")
    assert "8 images, 4×4 RGB, 2 classes" in run("prepare", toy, out, "--size", "4", "--workers", "1")
    described = json.loads(run("info", out, "--check", "--json"))
    train = described["splits"]["train"]
    assert described["kind"] == "prepared images" and described["name"] == "toy"
    assert (train["images"], train["classes"], train["images_per_class"]) == (8, 2, [4, 4])
    assert train["sizes"] == {"4×4": 8} and train["damaged"] == []


def test_prepare_as_json(toy: str, tmp_path: Path):
    made = json.loads(run("prepare", toy, str(tmp_path / "out.zip"), "--workers", "1", "--json"))
    assert (made["images"], made["size"], made["damaged"]) == (8, 8, [])


def test_info_in_words(toy: str):
    text = run("info", toy)
    assert "toy (images)" in text and "not looked for" in text


def test_info_of_cifar10(tmp_path: Path):
    described = json.loads(run("info", str(write_batches(tmp_path)), "--json"))
    assert {split: s["images"] for split, s in described["splits"].items()} == {"train": 20, "test": 4}


def test_info_check_counts_and_names_the_damaged(toy: str):
    (Path(toy) / "bee/3.png").write_bytes(b"words\n")
    result = CliRunner().invoke(data_app, ["info", toy, "--check", "--json"])
    assert result.exit_code == 1
    ((file, reason),) = json.loads(result.stdout)["splits"]["train"]["damaged"]
    assert file.endswith("bee/3.png") and "is not an image" in reason


def test_throughput(toy: str):
    measured = json.loads(run("throughput", toy, "--batch", "4", "--seconds", "0.1", "--json"))
    assert measured["images_per_second"] > 0 and measured["data"]["images"] == 8 and not measured["in_memory"]
    assert "digits 8×8" in run("throughput", "--seconds", "0.1")


def test_problems_are_data_errors(tmp_path: Path):
    with pytest.raises(DataError, match="no such file"):
        run("info", str(tmp_path / "gone"))
