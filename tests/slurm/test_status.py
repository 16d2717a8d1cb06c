"""Status told from made-up queues, state files and logs; no cluster is needed."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.cli.hints import Asked
from harness.cli.status import hints, summary_line
from harness.dispatch import status as status_module
from harness.dispatch.plan import plan
from harness.dispatch.slurm.queue import Job, Queue, expand
from harness.dispatch.slurm.submissions import Submission, SubmittedArray, submissions_folder
from harness.dispatch.status import Row, SweepStatus, read_status
from harness.store.lease import lease
from harness.store.store import Store, Target
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


def test_a_training_whose_cells_are_all_done_is_not_missing(sweep: Running, read: Read, training: Target) -> None:
    """Its weights may be removed to save room: no run would make them again, nor is it told as far as it came."""
    for cell in sweep.cells:
        sweep.store.cell_path(cell.id).parent.mkdir(parents=True, exist_ok=True)
        sweep.store.cell_path(cell.id).write_text("{}")
    sweep.store.set_state(training, state="done", progress=[30, 30])
    status = read(Queue({}))
    row = status.rows[training]
    assert told(row) == ("unneeded", "all that needs it is done") and row.progress is None
    assert status.is_complete and summary_line(status) == "trainings: 1 unneeded; cells: 2 done"
    assert not any("missing" in line for line in hints(status, Asked(sweep.file)))


def test_what_is_missing_is_not_told_as_far_as_a_result_that_is_gone(
    sweep: Running, read: Read, training: Target, cell: Target
) -> None:
    sweep.store.set_state(training, state="done", progress=[30, 30])
    sweep.store.set_state(cell, state="waiting", progress=[12, 32])
    rows = read(Queue({})).rows
    assert told(rows[training]) == ("missing", "its result was there and is gone") and rows[training].progress is None
    assert told(rows[cell]) == ("missing", "") and rows[cell].progress == (12, 32)


def test_what_was_stopped_between_its_last_step_and_its_result_says_so(
    sweep: Running, read: Read, cell: Target
) -> None:
    """All images are drawn and kept, and not yet measured."""
    sweep.store.set_state(cell, state="waiting", progress=[32, 32])
    row = read(Queue({})).rows[cell]
    assert told(row) == ("missing", "stopped with all images made, before its result was written")
    assert row.progress == (32, 32)


def test_who_cancelled_it_is_told(submission: Submission, training: Target, cell: Target, read: Read) -> None:
    rows = read(jobs(Job("1", "t", "CANCELLED"), *DEPENDENT)).rows
    assert told(rows[training]) == (
        "lost",
        "SLURM itself cancelled job 1: its queue was lost, or what the job waited for",
    )
    assert rows[cell].state == "blocked"
    assert told(read(jobs(Job("1", "t", "CANCELLED", "by scancel"))).rows[training]) == ("cancelled", "by scancel")
    other = read(jobs(Job("1", "t", "CANCELLED", "by 4000000000"))).rows[training]
    assert told(other) == ("cancelled", "by scancel of user 4000000000")
    dependent = read(jobs(Job("1", "t", "CANCELLED", "DependencyNeverSatisfied"))).rows[training]
    assert told(dependent) == ("cancelled", "with what it waited for")


SET_UP = (
    "/var/spool/job7/slurm_script: line 30: modul: command not found\nset-up failed with status 127: modul load cuda"
)
KILLED_IN_SLURM = """at work
slurmstepd-n2: error: Detected 1 oom_kill event in StepId=1.0. Some of the step tasks have been OOM Killed.
srun: error: n2: task 0: Killed
srun: Force Terminated StepId=1.0"""
TRACEBACK = """/python/site-packages/x.py:3: UserWarning: beware
  warnings.warn("beware")
Traceback (most recent call last):
  File "x.py", line 1, in <module>
    raise OSError("no space")
OSError: no space
srun: error: n1: task 0: Exited with exit code 1
slurmstepd-n1: error: *** STEP 1.0 ON n1 CANCELLED AT 2026-11-27T08:40:02 ***"""


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        (
            SET_UP,
            "the job ended without a result: set-up failed with status 127: modul load cuda: modul: command not found",
        ),
        (TRACEBACK, "the job ended without a result: OSError: no space"),
        (
            "srun: error: n2: task 0: Segmentation fault",
            "the job ended without a result: n2: task 0: Segmentation fault",
        ),
        ("IndexError: of the run before\n== run 2\nKeyError: 'x'\n", "the job ended without a result: KeyError: 'x'"),
        ("", "the job ended without a result; see `harness logs`"),
    ],
)
def test_the_last_telling_line_of_its_log_is_quoted(
    submission: Submission, training: Target, read: Read, log: str, reason: str
) -> None:
    (submission.folder / "1_0_log.err").write_text(log)
    assert told(read(jobs(Job("1", "t", "FAILED", "NonZeroExitCode"))).rows[training]) == ("failed", reason)
    forgotten = read(Queue({}, note="accounting is off")).rows[training]
    assert forgotten.state == "lost" and forgotten.reason.endswith(reason.partition(": ")[2])


def test_out_of_memory_is_told_whoever_notices(
    sweep: Running, submission: Submission, training: Target, read: Read
) -> None:
    sweep.store.set_state(training, state="running", job="1")
    (submission.folder / "1_0_log.err").write_text(KILLED_IN_SLURM)
    for state, reason in (("OUT_OF_MEMORY", "the job ran out of memory"), ("FAILED", "its process was killed")):
        row = read(jobs(Job("1", "t", state))).rows[training]
        assert row.state == "failed" and row.reason.startswith(reason) and "1 oom_kill event" in row.reason


@pytest.mark.parametrize("how", ["JobLaunchFailure", "exit code 0:53", "RaisedSignal:53(Real-time_signal_19)"])
def test_a_job_that_its_node_could_not_begin(submission: Submission, training: Target, read: Read, how: str) -> None:
    row = read(jobs(Job("1", "t", "FAILED", how))).rows[training]
    assert told(row) == ("failed", f"its node could not begin it: it cannot write to {submission.folder} ({how})")


@pytest.fixture
def stopped(sweep: Running, submission: Submission, training: Target) -> Callable[[str], None]:
    """The training's job has stopped at step 12 and saved, and then said the rest of its log."""

    def stop(said: str) -> None:
        sweep.store.set_state(training, state="waiting", job="1", progress=[12, 60], stopped=[12, 60])
        text = f"SIGTERM: saving at the end of this step\n{said}srun: error: n3: task 0: Exited with exit code 75\n"
        (submission.folder / "1_0_log.err").write_text(text)

    return stop


SAVED = "stopped, saved at step 12 of 60; harness sweep goes on from there"


def test_a_job_that_was_told_to_stop_says_where_it_saved(
    stopped: Callable[[str], None], training: Target, cell: Target, read: Read
) -> None:
    stopped("")
    rows = read(jobs(Job("1", "t", "FAILED", "NonZeroExitCode"), Job("2_0", "c", "CANCELLED", "Dependency"))).rows
    assert told(rows[training]) == ("cancelled", SAVED)
    assert told(rows[cell]) == ("blocked", f"training {training.id} cancelled: {SAVED}")
    assert told(read(Queue({}, note="accounting is off")).rows[training]) == ("cancelled", SAVED)
    timed_out = read(jobs(Job("1", "t", "TIMEOUT"))).rows[training]
    assert timed_out.state == "failed" and timed_out.reason.endswith(SAVED)


def test_what_kept_a_stopped_job_from_being_requeued_is_told(
    stopped: Callable[[str], None], training: Target, read: Read
) -> None:
    why = "scontrol requeue 1: Requested operation is presently disabled"
    stopped(f"{why}\n")
    assert told(read(jobs(Job("1", "t", "FAILED"))).rows[training]) == ("cancelled", f"{SAVED} ({why})")


def test_the_rank_that_failed_is_quoted_not_the_one_that_lost_it(
    sweep: Running, submission: Submission, training: Target, read: Read
) -> None:
    lost = "RuntimeError: [gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.1.1]:3300"
    sweep.store.set_state(training, state="failed", job="1", error=lost)
    for rank, log in enumerate((f"Traceback\n{lost}\n", TRACEBACK)):
        (submission.folder / f"1_{rank}_log.err").write_text(log)
    row = read(jobs(Job("1", "t", "FAILED"))).rows[training]
    assert told(row) == ("failed", "another rank failed: OSError: no space")
    (submission.folder / "1_1_log.err").write_text("")
    crashed = "srun: error: n1: task 0: Exited with exit code 1\nsrun: error: n2: task 1: Segmentation fault\n"
    (submission.folder / "1_0_log.err").write_text(f"Traceback\n{lost}\n{crashed}")
    row = read(jobs(Job("1", "t", "FAILED"))).rows[training]
    assert told(row) == ("failed", "another rank failed: n2: task 1: Segmentation fault")


def test_a_job_that_starts_again_after_a_failure_is_queued(
    sweep: Running, submission: Submission, training: Target, read: Read
) -> None:
    """As after the loss of a rank: the error that is noted is of the run before."""
    sweep.store.set_state(training, state="failed", job="1", error="RuntimeError: lost")
    assert told(read(jobs(Job("1", "t", "PENDING", "BeginTime"), *DEPENDENT)).rows[training]) == ("queued", "BeginTime")


def test_the_end_of_a_step_is_no_cancellation_of_the_job(submission: Submission, training: Target, read: Read) -> None:
    """srun ends a step whose rank has failed in the same words; nobody has called scancel."""
    log = "slurmstepd-n1: error: *** STEP 1.0 ON n1 CANCELLED AT 2026-11-27T08:40:02 ***\n"
    (submission.folder / "1_0_log.err").write_text(log)
    assert read(Queue({}, note="accounting is off")).rows[training].state == "lost"
