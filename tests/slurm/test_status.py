"""Status told from made-up queues, state files and logs; no cluster is needed."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.lease import lease
from harness.plan import plan
from harness.slurm import status as status_module
from harness.slurm.queue import Job, Queue, expand
from harness.slurm.records import Submission, SubmittedArray, submissions_folder
from harness.slurm.status import Row, SweepStatus, read_status
from harness.store import Store, Target
from tests.slurm.sweeping import Running

Read = Callable[[Queue], SweepStatus]


@pytest.fixture
def sweep(tmp_path: Path) -> Running:
    return Running(tmp_path)


@pytest.fixture
def training(sweep: Running) -> Target:
    return sweep.trainings[0]


@pytest.fixture
def cell(sweep: Running) -> Target:
    return sweep.cells[0]


@pytest.fixture
def submission(sweep: Running, training: Target) -> Submission:
    """The training as job 1, its two cells as array 2."""
    made = Submission(submissions_folder(sweep.store) / "s", "tiny", "source")
    cells = tuple((cell.id,) for cell in sweep.cells)
    made.arrays = [
        SubmittedArray("t", "training", ((training.id,),), job="1"),
        SubmittedArray("c", "cell", cells, dependency="afterok:1", job="2"),
    ]
    made.save()
    return made


@pytest.fixture
def read(sweep: Running, monkeypatch: pytest.MonkeyPatch) -> Read:
    def read_with(queue: Queue) -> SweepStatus:
        monkeypatch.setattr(status_module, "read_queue", lambda users, wanted: queue)
        return read_status(plan(sweep.sweep, sweep.store), sweep.store)

    return read_with


def jobs(*made: Job) -> Queue:
    return Queue({job.id: job for job in made})


def told(row: Row) -> tuple[str, str]:
    return row.state, row.reason


DEPENDENT = (Job("2_0", "c", "PENDING", "Dependency"), Job("2_1", "c", "PENDING", "Dependency"))


def test_never_submitted(sweep: Running, read: Read) -> None:
    assert {told(row) for row in read(Queue({})).rows.values()} == {("missing", "")}


def test_queued_and_waiting(submission: Submission, training: Target, cell: Target, read: Read) -> None:
    rows = read(jobs(Job("1", "t", "PENDING", "Resources"), *DEPENDENT)).rows
    assert told(rows[training]) == ("queued", "Resources")
    assert told(rows[cell]) == ("waiting", "for its training") and rows[cell].job == "2_0"


def test_running_with_progress_and_a_rate_since_the_resume(
    sweep: Running, submission: Submission, training: Target, read: Read
) -> None:
    now = time.time()
    sweep.store.set_state(
        training, state="running", job="1", started=now - 20, resumed=[40, now - 10], progress=[50, 100], attempts=2
    )
    with lease(sweep.store.lease_path(training)):
        row = read(jobs(Job("1", "t", "RUNNING"), *DEPENDENT)).rows[training]
    assert (row.state, row.progress, row.attempts) == ("running", (50, 100), 2)
    assert row.eta_seconds == pytest.approx(50, rel=0.1)  # 10 steps in 10 s, 50 to go


def test_a_requeued_job_is_queued_whatever_its_file_says(
    sweep: Running, submission: Submission, training: Target, read: Read
) -> None:
    sweep.store.set_state(training, state="running", job="1", started=time.time())
    with lease(sweep.store.lease_path(training)):
        row = read(jobs(Job("1", "t", "PENDING", "BeginTime", started=time.time() + 100), *DEPENDENT)).rows[training]
    assert row.state == "queued" and row.reason.startswith("held back by SLURM until ")


def test_failed_training_blocks_its_cells(
    sweep: Running, submission: Submission, training: Target, cell: Target, read: Read
) -> None:
    sweep.store.set_state(training, state="failed", job="1", error="ValueError: no")
    rows = read(jobs(Job("1", "t", "FAILED"), Job("2_0", "c", "CANCELLED", "DependencyNeverSatisfied"))).rows
    assert told(rows[training]) == ("failed", "ValueError: no")
    assert told(rows[cell]) == ("blocked", f"training {training.id} failed: ValueError: no")


def test_an_error_from_before_the_submission_is_not_told(
    sweep: Running, training: Target, submission: Submission, read: Read
) -> None:
    sweep.store.set_state(training, state="failed", job="0", error="an old error")
    submission.created = time.time() + 1
    submission.save()
    assert told(read(jobs(Job("1", "t", "PENDING", "Priority"), *DEPENDENT)).rows[training]) == ("queued", "Priority")


@pytest.mark.parametrize(
    ("job", "state", "reason"),
    [
        (Job("1", "t", "CANCELLED", "by 1000"), "cancelled", "by scancel"),
        (Job("1", "t", "TIMEOUT"), "failed", "the time limit was reached"),
        (Job("1", "t", "OUT_OF_MEMORY"), "failed", "the job ran out of memory"),
        (Job("1", "t", "FAILED"), "failed", "its process was killed"),
        (Job("1", "another job of that number", "RUNNING"), "lost", "SLURM no longer knows job 1"),
    ],
)
def test_how_a_job_ended(
    sweep: Running, submission: Submission, training: Target, read: Read, job: Job, state: str, reason: str
) -> None:
    sweep.store.set_state(training, state="running", job="1")
    row = read(jobs(job)).rows[training]
    assert row.state == state and row.reason.startswith(reason)


@pytest.mark.parametrize(
    ("line", "state", "reason"),
    [
        ("slurmstepd: error: *** JOB 1 ON n1 CANCELLED AT 2026-11-24T23:51:46 ***", "cancelled", "by scancel"),
        (
            "slurmstepd: error: *** JOB 1 ON n1 CANCELLED AT 2026-11-24T23:51:46 DUE TO TIME LIMIT ***",
            "failed",
            "the time limit was reached",
        ),
        ("srun: error: n1: task 0: Killed", "lost", "SLURM no longer knows job 1"),
    ],
)
def test_without_accounting_the_log_tells_the_end(
    submission: Submission, training: Target, read: Read, line: str, state: str, reason: str
) -> None:
    (submission.folder / "1_0_log.err").write_text(f"at work\n{line}\n")
    row = read(Queue({}, note="accounting is off")).rows[training]
    assert row.state == state and row.reason.startswith(reason)


def test_where_slurm_cannot_be_reached(
    sweep: Running, submission: Submission, training: Target, cell: Target, read: Read
) -> None:
    sweep.store.set_state(training, state="running", job="1", started=time.time())
    with lease(sweep.store.lease_path(training)):
        status = read(Queue({}, note="SLURM cannot be reached", is_reachable=False))
    assert status.rows[training].state == "running"
    assert told(status.rows[cell]) == ("queued", "submitted as job 2_0; SLURM cannot be asked")


def test_cancel_is_remembered(submission: Submission, training: Target, cell: Target, read: Read) -> None:
    submission.cancelled = ["1", "2_0", "2_1"]
    submission.save()
    rows = read(Queue({})).rows
    assert told(rows[training]) == ("cancelled", "by harness cancel")
    assert rows[cell].state == "blocked"


def test_a_process_of_this_machine_that_is_gone(sweep: Running, training: Target, read: Read) -> None:
    sweep.store.set_state(training, state="running", pid=1, host="here")
    assert told(read(Queue({})).rows[training]) == ("lost", "its process 1 on here is gone")


def test_ids_of_arrays_are_expanded() -> None:
    assert list(expand("12")) == ["12"]
    assert list(expand("12_3")) == ["12_3"]
    assert list(expand("12_[0-2,5%4]")) == ["12_0", "12_1", "12_2", "12_5"]
    assert list(expand("12_[0-6:3]")) == ["12_0", "12_3", "12_6"]


def test_done_is_the_last_word(sweep: Running, submission: Submission, training: Target, read: Read) -> None:
    store: Store = sweep.store
    store.cell_path(sweep.cells[0].id).parent.mkdir(parents=True)
    store.cell_path(sweep.cells[0].id).write_text("{}")
    store.set_state(training, state="failed", job="1", error="x")
    status = read(jobs(Job("1", "t", "FAILED")))
    assert status.rows[sweep.cells[0]].state == "done" and not status.is_complete
