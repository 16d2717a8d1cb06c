"""What an iteration of a distillation costs beside one of ordinary training, as the benchmark prints it."""

from __future__ import annotations

import pytest

from harness.benchmarks.distilling import main, measured
from tests.harness.tiny_experiments import MODEL, tiny

TEACHER = "training:0123456789abcdef"


def test_an_iterations_cost_is_told_beside_that_of_ordinary_training() -> None:
    student = tiny(
        train={"start": TEACHER, "batch": 4},
        distill={"method": "moment_matching", "teacher": TEACHER, "steps": 2},
        teacher={"model": {"kind": "single_rate", **MODEL}},
    )
    rows = measured(student, steps=2)
    by_name = {row["what"]: row["gmacs_per_step"] / rows[0]["gmacs_per_step"] for row in rows}
    assert by_name == {
        "ordinary training": 1,
        "moment_matching, alternating": pytest.approx(5 / 3),  # student 2·E, teacher E, its copy 2·E
        "moment_matching, instant": pytest.approx(5.5 / 3),  # student 3·E, teacher 3·E / 2 and 2·E / 2
        "moment_matching, alternating, activations recomputed": pytest.approx(5 / 3),  # the model's, by convention
    }
    assert all(row["seconds_per_step"] > 0 for row in rows)


def test_an_arm_that_distils_nothing_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["sweeps/digits/mmd.yaml", "--arm", "base"])
    assert "nothing is distilled there" in capsys.readouterr().err
