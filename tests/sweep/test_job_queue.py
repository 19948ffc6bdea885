"""Jobs in a cluster's queue, which scripts play: what is submitted, anew too, what is said, and when it is given up."""

import os
import re
import signal
import time
from types import SimpleNamespace

import pytest
from sortedcontainers import SortedDict

from kdcore.sweep import cluster_file, job_queue, queue_commands
from kdcore.sweep.crew import Crew
from kdcore.sweep.dask_workers import Report
from kdcore.sweep.job_queue import JobQueue
from kdcore.sweep.queue_commands import QUESTIONS, logs, states
from kdcore.system import yamlfile
from tests import sweeps
from tests.sweeps import PAIR, cell

REFUSED = "sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified"
TIMED_OUT = "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"


class Slurm:
    """A Slurm whose jobs have the numbers 101, 102, ... and the state PENDING, until a test says otherwise."""

    def __init__(self, folder):
        self.folder = folder
        self.write(
            "sbatch",
            f"""echo >> {folder}/asked; n=$(wc -l < {folder}/asked)
[ -e {folder}/refusal-$n ] && {{ cat {folder}/refusal-$n >&2; exit 1; }}
number=$((100 + n)); cp "${{@: -1}}" {folder}/script-$number; echo "PENDING Priority" > {folder}/state-$number
[ -e {folder}/starts ] && . {folder}/starts
echo Submitted batch job $number""",
        )
        self.write("squeue", f'for file in {folder}/state-*; do echo "${{file##*-}} $(cat $file)"; done')
        self.write("scancel", f"""echo "$@" >> {folder}/cancelled
for number in "$@"; do rm {folder}/state-$number; [ -e {folder}/pid-$number ] && kill $(cat {folder}/pid-$number); done
true""")  # fmt: skip

    def write(self, name, script):
        (self.folder / name).write_text(f"#!/bin/bash\n{script}\n")
        (self.folder / name).chmod(0o755)

    def refuse(self, *numbers, words=REFUSED):
        for number in numbers:
            (self.folder / f"refusal-{number}").write_text(words)

    @property
    def submitted(self):
        return sorted(int(path.name.partition("-")[2]) for path in self.folder.glob("script-*"))

    def worker(self, number):
        return re.search(r"--name (\S+)", (self.folder / f"script-{number}").read_text())[1]

    def end(self, number):
        (self.folder / f"state-{number}").unlink()

    @property
    def cancelled(self):
        path = self.folder / "cancelled"
        return path.read_text().split() if path.is_file() else []


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return Slurm(folder)


class Clock:
    """Time that a test lets pass."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now

    def time(self):
        return time.time()

    def sleep(self, seconds):
        self.now += seconds


@pytest.fixture
def make(tmp_path, monkeypatch):
    """A queue of jobs that a test moves by hand, with its workers."""
    clock = Clock()
    monkeypatch.setattr(job_queue, "time", clock)

    def make(count, cluster="SLURMCluster", **options):
        options = {"cores": 1, "memory": "1GB", "processes": 1, "log_directory": str(tmp_path / "logs"), **options}
        scheduler = SimpleNamespace(address="tcp://here:1", workers={})
        job_class = getattr(cluster_file.jobqueue(), cluster).job_cls
        said = []
        queue = JobQueue(
            SimpleNamespace(scheduler=scheduler, job_cls=job_class, _job_kwargs=options), count, said.append
        )
        queue.said = said

        def after(seconds, *workers):
            clock.now += seconds
            scheduler.workers = {name: SimpleNamespace(name=name) for name in workers}
            queue.tick(clock.now)
            return queue

        queue.after = after
        return queue

    return make


def test_as_many_jobs_as_wanted(slurm, make):
    queue = make(3).after(0)
    assert slurm.submitted == [101, 102, 103]
    assert queue.describe() == "3 jobs submitted, the first 0 s ago: 3 just submitted"
    (slurm.folder / "state-102").write_text("RUNNING None")
    queue.after(60)
    assert queue.describe() == "3 jobs submitted, the first 1 min ago: 2 PENDING (Priority), 1 RUNNING"
    queue.after(30, slurm.worker(102))
    assert queue.describe() == "3 jobs submitted, the first 2 min ago: 2 PENDING (Priority), 1 at work"
    for _ in range(100):
        queue.after(30, slurm.worker(102), f"{slurm.worker(101)}-0")
    assert slurm.submitted == [101, 102, 103], "a job that waits is waited for"
    assert slurm.cancelled == []
    assert queue.said == []


def test_a_submission_that_times_out_is_tried_again(slurm, make):
    slurm.refuse(1, words=TIMED_OUT)
    queue = make(2).after(0)
    assert queue.said == [f"the queue did not take a job: sbatch: {TIMED_OUT}\ntrying again in 10 s"]
    assert queue.after(9).describe() == "no job is in the queue"
    assert slurm.submitted == []
    queue.after(1)
    assert slurm.submitted == [102, 103]
    assert queue.trouble == ""


def test_a_queue_that_does_not_answer(slurm, make, monkeypatch):
    """Its command is killed with what it has started."""
    monkeypatch.setattr(queue_commands, "ANSWER", 0.2)
    monkeypatch.setattr(queue_commands, "LOOK", 0.05)
    slurm.write("sbatch", "sleep 60")
    queue = make(1).after(0)
    assert "sbatch: no answer in 0.2 seconds" in queue.said[0]


def test_a_greeting_is_no_job(slurm, make):
    slurm.write("sbatch", "echo 'Welcome to cluster 7, open since 2019'; echo Submitted batch job 101")
    assert [job.number for job in make(1).after(0).jobs] == ["101"]


@pytest.mark.parametrize(("script", "words"), [
    ("exit 3", "sbatch: exit code 3"),
    ("echo $'no \\\\xff'; exit 1", "sbatch: no"),
])  # fmt: skip
def test_strange_answers(slurm, make, script, words):
    slurm.write("sbatch", script)
    assert words in make(1).after(0).said[0]


def test_a_job_without_a_number_is_the_last(slurm, make):
    """As with --quiet. Whoever submits it again has a job more each time."""
    slurm.write("sbatch", f"echo done; echo >> {slurm.folder}/asked")
    queue = make(3)
    for _ in range(3):
        queue.after(1000)
    assert queue.trouble.startswith(
        "the queue took a job and did not say its number, so it may still be there: 'done\\n'\nSee to it that"
    )
    assert len((slurm.folder / "asked").read_text()) == 1


@pytest.mark.parametrize("cluster", ["HTCondorCluster", "MoabCluster", "OARCluster"])
def test_a_job_of_which_nothing_is_said_is_the_last(slurm, make, cluster):
    for command in ("condor_submit", "msub", "oarsub"):
        slurm.write(command, "true")
    queue = make(1, cluster, **({"disk": "1GB"} if cluster == "HTCondorCluster" else {})).after(0)
    assert queue.trouble.startswith("the queue took a job and did not say its number, so it may still be there: ''")


def test_a_queue_that_refuses_always_is_given_up(slurm, make):
    slurm.refuse(*range(1, 10))
    queue = make(2)
    for pause in (0, 10, 20, 40, 80, 160):
        assert queue.trouble == ""
        queue.after(max(0, pause - 1))
        queue.after(1)
    assert queue.trouble.startswith(
        f"the queue took no job, 6 times in a row: sbatch: {REFUSED}\nMend the cluster file"
    )
    assert len(queue.said) == 5
    assert queue.said[-1].endswith("trying again in 3 min")
    queue.after(1000)
    assert len((slurm.folder / "asked").read_text()) == 6


def test_a_queue_that_takes_some_jobs_is_not_given_up(slurm, make):
    """There may be a limit of jobs for each user."""
    slurm.refuse(*range(2, 30))
    queue = make(2)
    for _ in range(30):
        queue.after(700)
    assert queue.trouble == ""
    assert slurm.submitted == [101, 130]
    assert len(queue.said) == 6, "it was said often enough"


def test_a_job_that_is_gone_before_its_worker_came_is_submitted_anew(slurm, make, tmp_path):
    queue = make(2).after(0)
    slurm.end(101)
    (tmp_path / "logs/dask-worker-101.err").write_text("bash: line 8: activate: No such file\n")
    (tmp_path / "logs/dask-worker-1012.err").write_text("of another job\n")
    queue.after(14)
    queue.after(30)
    assert queue.said == [], "that may be a slip of the queue"
    queue.after(30)
    log = f"{tmp_path}/logs/dask-worker-101.err ends with\n    bash: line 8: activate: No such file"
    assert queue.said == [
        f"job 101: its worker did not come, and the queue does not have it any more; {log}\nsubmitting anew in 10 s"
    ]
    assert slurm.submitted == [101, 102]
    queue.after(10)
    assert slurm.submitted == [101, 102, 103]
    assert slurm.cancelled == ["101"]
    assert queue.trouble == ""


def test_a_slip_of_the_queue_ends_no_job(slurm, make):
    queue = make(1).after(0)
    for number in range(10):
        (slurm.folder / "state-101").rename(slurm.folder / "hidden")
        queue.after(30)
        assert queue.describe().endswith("min ago: 1 not listed" if number else "30 s ago: 1 not listed")
        (slurm.folder / "hidden").rename(slurm.folder / "state-101")
        queue.after(30)
    assert slurm.cancelled == queue.said == []


def test_jobs_that_die_again_and_again_are_given_up(slurm, make):
    queue = make(2)
    for _ in range(40):
        queue.after(30)
        for number in slurm.submitted:
            (slurm.folder / f"state-{number}").unlink(missing_ok=True)
    assert "That was so 6 times in a row: mend what ends them" in queue.trouble
    assert "no log was found (option log_directory says where" in queue.trouble
    assert len(slurm.submitted) == 12


def test_jobs_that_die_beside_one_that_works_are_not_given_up(slurm, make):
    """A node may be broken; the pauses grow to ten minutes."""
    queue = make(2).after(0)
    worker = slurm.worker(101)
    for _ in range(400):
        queue.after(30, worker)
        for number in slurm.submitted[1:]:
            (slurm.folder / f"state-{number}").unlink(missing_ok=True)
    assert queue.trouble == ""
    assert 20 < len(slurm.submitted) < 30
    queue.after(600, worker)
    late = slurm.worker(slurm.submitted[-1])
    queue.after(1, worker, late)
    queue.after(30, worker, late)
    assert queue.died == 0


def test_a_job_whose_worker_left_is_replaced_at_once(slurm, make):
    queue = make(1).after(0)
    worker = slurm.worker(101)
    queue.after(100, worker)
    queue.after(30, worker)
    queue.after(10)
    queue.after(10, worker)
    queue.after(14)
    assert slurm.submitted == [101], "a worker may be away for a moment"
    queue.after(2)
    assert slurm.submitted == [101, 102]
    assert slurm.cancelled == ["101"]
    assert slurm.worker(102) != worker
    assert queue.said == []


def test_a_job_whose_worker_leaves_after_a_moment_counts_as_dead(slurm, make):
    queue = make(1)
    for number in range(101, 107):
        queue.after(600)
        queue.after(1, slurm.worker(number))
        queue.after(5, slurm.worker(number))
        queue.after(16)
    assert "job 101: its worker left within 30 seconds; no log was found" in queue.said[0]
    assert "That was so 6 times in a row" in queue.trouble
    assert slurm.cancelled == [str(number) for number in range(101, 107)]


def test_a_queue_that_cannot_say_what_it_has(slurm, make):
    slurm.write("squeue", "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1")
    queue = make(1).after(0)
    for _ in range(10):
        queue.after(60)
    assert slurm.submitted == [101]
    assert queue.describe() == (
        "1 job submitted, the first 10 min ago; state in the queue unknown: "
        "squeue: slurm_load_jobs error: Unable to contact slurm controller"
    )


def test_a_job_of_several_workers_that_cannot_run_stages(slurm, make):
    """Jobs that wait in the queue may be on better machines."""
    crew = Crew.__new__(Crew)
    crew.job_queue, crew.since = make(2, cores=4, processes=2), {}
    for workers in range(5):
        crew.offered = dict.fromkeys(map(str, range(workers)), 0.0)
        crew.places = dict.fromkeys(crew.offered, Report(is_apart=False, trouble="no data here"))
        assert bool(crew.trouble) == (workers == 4)


def test_a_limit_of_jobs_that_holds_for_weeks(slurm, make):
    slurm.refuse(2, 3)
    queue = make(2).after(0)
    queue.refused = 2000
    queue.after(700)
    assert queue.refused == 2001
    queue.after(599)
    assert slurm.submitted == [101]
    queue.after(1)
    assert slurm.submitted == [101, 104]


def test_a_log_that_cannot_be_read(slurm, make, tmp_path, monkeypatch):
    def deny(log, lines):
        raise PermissionError(13, "Permission denied", str(log))

    monkeypatch.setattr(job_queue, "tail", deny)
    queue = make(1).after(0)
    slurm.end(101)
    log = tmp_path / "logs/dask-worker-101.err"
    log.write_text("of root")
    queue.after(30)
    queue.after(30)
    assert f"its log cannot be read ([Errno 13] Permission denied: '{log}')\nsubmitting anew" in queue.said[0]


def test_a_user_who_lists_running_jobs_only(slurm, make, monkeypatch):
    monkeypatch.setenv("SQUEUE_STATES", "RUNNING")
    slurm.write("squeue", 'if [ -z "$SQUEUE_STATES" ]; then echo 101 PENDING Priority; fi')
    queue = make(1).after(0)
    for _ in range(5):
        queue.after(30)
    assert queue.describe().endswith("1 PENDING (Priority)")
    assert slurm.cancelled == queue.said == []


@pytest.mark.parametrize("variable", [
    *("SBATCH_WAIT", "SBATCH_ARRAY_INX", "LSB_BJOBS_FORMAT", "SCANCEL_STATE", "SCANCEL_BATCH"),
    *("BSUB_BLOCK", "BSUB_QUIET", "PBS_DPREFIX"),
])  # fmt: skip
def test_variables_that_change_what_commands_do(slurm, make, monkeypatch, variable):
    monkeypatch.setenv(variable, "1")
    slurm.write("sbatch", f'echo "Submitted batch job 10${{{variable}:-2}}"')
    assert [job.number for job in make(1).after(0).jobs] == ["102"]


def test_a_job_in_a_partition_that_is_hidden(slurm, make):
    """squeue leaves it out, unless it is told to show all."""
    slurm.write("squeue", 'case "$*" in *--all*) echo 101 PENDING Priority;; esac')
    queue = make(1).after(0)
    for _ in range(5):
        queue.after(30)
    assert queue.describe().endswith("1 PENDING (Priority)")
    assert slurm.cancelled == queue.said == []


@pytest.mark.parametrize(("cluster", "command", "answer"), [
    ("SLURMCluster", "sbatch", "Submitted batch job 101"),
    ("SGECluster", "qsub", 'Your job 101 ("dask-worker") has been submitted'),
    ("PBSCluster", "qsub", "101.pbs-head"),
    ("HTCondorCluster", "condor_submit", "Submitting job(s).\n1 job(s) submitted to cluster 101."),
    ("OARCluster", "oarsub", "[ADMISSION RULE] 64 cores\nOAR_JOB_ID=101"),
    ("MoabCluster", "msub", "\nMoab.101"),
    ("MoabCluster", "msub", "\n101"),
])  # fmt: skip
def test_a_command_that_fails_after_it_has_submitted_the_job(slurm, make, cluster, command, answer):
    """To submit another one would leave one more that nobody cancels."""
    slurm.write(command, f"cat <<'END'\n{answer}\nEND\necho cannot write to the log >&2; exit 1")
    number = "101.0" if cluster == "HTCondorCluster" else "101"
    queue = make(1, cluster, **({"disk": "1GB"} if cluster == "HTCondorCluster" else {})).after(0)
    for _ in range(3):
        queue.after(10)
    assert [job.number for job in queue.jobs] == [number]
    assert queue.said == [f"the queue took job {number}, and complained: {command}: cannot write to the log"]


def test_a_job_that_the_queue_took_without_an_answer(slurm, make):
    """Slurm may take a job though its answer comes too late. Nobody knows its number, but its worker comes."""
    slurm.refuse(1, words=TIMED_OUT)
    queue = make(1).after(0).after(10)
    for worker in ("worker-0", "worker-0-1"):
        queue.after(1, slurm.worker(102), worker)
    assert queue.said[1:] == [
        "worker-0 is there, though the queue did not confirm its job: one more than wanted, which ends with the sweep"
    ]


def test_a_worker_that_leaves_while_the_workers_are_counted(slurm, make):
    """Dask's thread may have removed it from the dictionary, and not yet from the sorted keys."""
    queue = make(2).after(0)
    queue.cluster.scheduler.workers = SortedDict(a=SimpleNamespace(name="one"), b=SimpleNamespace(name="two"))
    dict.__delitem__(queue.cluster.scheduler.workers, "a")
    assert queue._connected() == ["two"]


def test_a_job_that_could_not_be_cancelled_when_its_worker_left(slurm, make):
    """It is cancelled in the end; one that is gone by then is not spoken of."""
    for gone in (False, True):
        slurm.write("scancel", "echo Socket timed out >&2; exit 1")
        queue = make(1).after(0)
        number = slurm.submitted[-1]
        worker = slurm.worker(number)
        queue.after(1, worker)
        queue.after(31, worker)
        queue.after(16)
        assert [job.number for job in queue.jobs] == [str(number + 1)]
        slurm.write("scancel", f'echo "$@" > {slurm.folder}/cancelled')
        if gone:
            slurm.end(number)
        with queue.kept():
            pass
        assert slurm.cancelled == [str(number + 1), *([] if gone else [str(number)])]
        assert queue.said == []


def test_workers_that_cannot_run_stages_where_the_queue_takes_no_more(slurm, make):
    """Six jobs are wanted, and the queue takes two of a user; to wait for the others would be in vain."""
    slurm.refuse(*range(3, 30))
    crew = Crew.__new__(Crew)
    crew.job_queue, crew.since = make(6), {}
    crew.offered = dict.fromkeys("ab", 0.0)
    crew.places = dict.fromkeys(crew.offered, Report(is_apart=False, trouble="no data here"))
    for _ in range(job_queue.MOST):
        assert crew.trouble == ""
        crew.job_queue.after(700, slurm.worker(101) if slurm.submitted else "", "a", "worker-1")
    assert crew.trouble.startswith("no job can run stages")
    assert crew.job_queue.workers == 2


def test_a_worker_that_waits_for_slots_ends_no_sweep(slurm, make):
    """A job follows another one to a machine, where the worker of that one still saves its states."""
    crew = Crew.__new__(Crew)
    crew.job_queue, crew.since = make(1), {}
    crew.offered, crew.places = {"a": 0.0}, {"a": Report(is_apart=False, trouble="taken", is_passing=True)}
    assert crew.troubles == ["worker a: taken"]
    assert crew.trouble == ""


def test_jobs_are_cancelled_though_the_queue_is_busy(slurm, make):
    queue = make(2).after(0)
    slurm.write(
        "scancel",
        f"""echo "$@" >> {slurm.folder}/cancelled
[ $(wc -l < {slurm.folder}/cancelled) -lt 3 ] && {{ echo Socket timed out >&2; exit 1; }}; true""",
    )
    with queue.kept():
        pass
    assert slurm.cancelled == ["101", "102"] * 3
    assert queue.said == []
    slurm.write("scancel", "echo Socket timed out >&2; exit 1")
    again = make(1).after(0)
    with again.kept():
        pass
    assert again.said == ["jobs 103 may still be in the queue: scancel: Socket timed out"]


def test_a_queue_that_complains_of_a_job_that_has_just_ended(slurm, make):
    queue = make(2).after(0).after(job_queue.SETTLED)
    slurm.end(101)
    slurm.write("scancel", f"rm -f {slurm.folder}/state-*; echo Invalid job id 101 >&2; exit 1")
    with queue.kept():
        pass
    assert queue.said == [], "the other one was cancelled"


def test_a_second_signal_leaves_no_jobs(slurm, make, monkeypatch):
    """It may come while the queue is asked."""

    def interrupted():
        raise KeyboardInterrupt(signal.SIGINT)

    monkeypatch.setenv("SCANCEL_STATE", "RUNNING")
    slurm.write("scancel", f'[ "$SCANCEL_STATE" ] || echo "$@" >> {slurm.folder}/cancelled')
    queue = make(2).after(0)
    queue.thread = SimpleNamespace(start=lambda: None, join=interrupted)
    with pytest.raises(KeyboardInterrupt), queue.kept():
        pass
    deadline = time.monotonic() + 30
    while slurm.cancelled != ["101", "102"]:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_fault_of_its_own_is_said(slurm, make):
    queue = make(1)
    queue.cluster.scheduler = None
    with queue.kept():
        deadline = time.monotonic() + 30
        while not queue.trouble:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert queue.trouble.startswith("the jobs in the queue cannot be looked after any more:\nTraceback")


@pytest.mark.parametrize(("kind", "command", "said", "found"), [
    ("slurm", "squeue", "101 PENDING Priority\n102 RUNNING None\n103 COMPLETED None\n1010 PENDING a b\n",
     {"101": "PENDING (Priority)", "102": "RUNNING"}),
    ("slurm", "squeue", "101 PENDING (Nodes required for job are DOWN, DRAINED)\n",
     {"101": "PENDING (Nodes required for job are DOWN, DRAINED)"}),
    ("slurm", "squeue", "", {}),
    ("pbs", "qstat", """Job id            Name             User              Time Use S Queue
----------------  ---------------- ----------------  -------- - -----
101.pbs-head      dask-worker      kd                00:10:03 R gpu
102.pbs-head      dask-worker      kd                       0 Q gpu
103.pbs-head      dask-worker      kd                00:00:01 C gpu
1010.pbs-head     dask-worker      other                    0 Q gpu
""", {"101": "R", "102": "Q"}),
    ("sge", "qstat", """job-ID  prior   name       user         state submit/start at     queue         slots ja-task-ID
----------------------------------------------------------------------------------------------------
    101 0.55500 dask-worke kd           r     11/29/2026 04:00:00 all.q@node1          4
    102 0.00000 dask-worke kd           Eqw   11/29/2026 04:00:00                      4
""", {"101": "r", "102": "Eqw"}),
    ("lsf", "bjobs", """JOBID   USER    STAT  QUEUE      FROM_HOST   EXEC_HOST   JOB_NAME   SUBMIT_TIME
101     kd      RUN   normal     login       node1       dask-worker Nov 29 04:00
102     kd      PEND  normal     login          -        dask-worker Nov 29 04:00
""", {"101": "RUN", "102": "PEND"}),
    ("htcondor", "condor_q", "101.0 2\n102.0 5\n103.0 4\n7.101 2\n", {"101.0": "running", "102.0": "held"}),
])  # fmt: skip
def test_what_queues_say(kind, command, said, found):
    numbers = [f"{number}{'.0' if kind == 'htcondor' else ''}" for number in (101, 102, 103)]
    assert QUESTIONS[kind].command.startswith(command)
    assert states(said, numbers, QUESTIONS[kind]) == found


def test_condor_is_asked_where_the_jobs_are(slurm, make):
    slurm.write("condor_submit", "echo '1 job(s) submitted to cluster 101.'")
    slurm.write("condor_q", 'case "$*" in *"-name far -pool farm") echo 101.0 1;; esac')
    slurm.write("condor_rm", f'echo "$@" > {slurm.folder}/cancelled')
    for option in ("-name", "-remote"):
        far = [option, "far", "-verbose", "-pool", "farm"]
        queue = make(1, "HTCondorCluster", disk="1GB", submit_command_extra=far).after(0)
        for _ in range(5):
            queue.after(30)
        assert queue.describe().endswith("1 idle")
        with queue.kept():
            pass
        assert queue.said == []
        assert " ".join(slurm.cancelled) == "-name far -pool farm 101.0"
    own = {"submit_command_extra": far, "cancel_command_extra": ["-name", "near"]}
    assert make(1, "HTCondorCluster", disk="1GB", **own).cancel_command == ["condor_rm", "-name", "near"]


def test_lsf_has_words_where_it_has_no_jobs(slurm, make):
    slurm.write("bsub", 'echo "$(head -1)" >&2; [ -e refuse ] || echo "Job <101> is submitted to default queue <gpu>."')
    slurm.write("bjobs", "echo No unfinished job found >&2; exit 255")
    slurm.write("bkill", "true")
    queue = make(1, "LSFCluster").after(0)
    assert [job.number for job in queue.jobs] == ["101"], "the script came by its standard input"
    queue.after(60).after(60)
    assert "job 101: its worker did not come" in queue.said[0]
    slurm.write("bsub", "echo 'Bad queue. Job not submitted.' >&2; exit 255")
    queue.after(60)
    assert "the queue did not take a job: sh: Bad queue. Job not submitted." in queue.said[1]


@pytest.mark.parametrize(("cluster", "commands", "answer"), [
    ("PBSCluster", ("qsub", "qdel"), "101.pbs-head"),
    ("MoabCluster", ("msub", "canceljob"), "Moab.101"),
    ("PBSCluster", ("qsub", "qdel"), "Welcome to PBS 2022\n7.12.: maintenance\n101.pbs-head"),
    ("PBSCluster", ("qsub", "qdel"), "24.3 is new here\n101.pbs-head"),
    ("SGECluster", ("qsub", "qdel"), "Your job 101 (\"dask-worker\") has been submitted"),
    ("SGECluster", ("qsub", "qdel"), "7 jobs at most\nYour job 101 (\"dask-worker\") has been submitted"),
    ("OARCluster", ("oarsub", "oardel"), "[ADMISSION RULE] 64 cores\nOAR_JOB_ID=101"),
    ("HTCondorCluster", ("condor_submit", "condor_rm"), "1 job(s) submitted to cluster 101."),
])  # fmt: skip
def test_every_queue_takes_jobs_and_cancels_them(slurm, make, cluster, commands, answer):
    submit, cancel = commands
    number = "101.0" if cluster == "HTCondorCluster" else "101"
    slurm.write(submit, f"cat <<'END'\n{answer}\nEND")
    slurm.write(cancel, f'echo "$@" > {slurm.folder}/cancelled')
    queue = make(1, cluster, **({"disk": "1GB"} if cluster == "HTCondorCluster" else {})).after(0)
    assert [job.number for job in queue.jobs] == [number]
    queue.after(31, queue.jobs[0].worker)
    queue.after(31, queue.jobs[0].worker)
    slurm.write(submit, "echo 'this queue is closed' >&2; exit 1")
    queue.after(16)
    assert slurm.cancelled == [number]
    assert queue.said == [f"the queue did not take a job: {submit}: this queue is closed\ntrying again in 10 s"]


def test_logs(tmp_path):
    for name in ("slurm-7.out", "dask-worker.o7", "slurm-17.out", "table7.csv"):
        (tmp_path / name).write_text("text")
    (tmp_path / "worker-7.err").touch()
    os.utime(tmp_path / "table7.csv", (1, 1))
    assert {path.name for path in logs("7", tmp_path, time.time() - 60)} == {"slurm-7.out", "dask-worker.o7"}
    assert logs("8", tmp_path / "nowhere", 0.0) == []


# Sweeps


@pytest.fixture
def project(tmp_path):
    """A project with a cluster file, whose sweeps are in a hurry."""
    project = sweeps.make(tmp_path / "project")
    for old, new in (
        ("LOOK = 30.0", "LOOK = 0.2"),
        ("SETTLED = 15.0", "SETTLED = 0.1"),
        ("PAUSE, LONGEST_PAUSE = 10.0", "PAUSE, LONGEST_PAUSE = 0.1"),
        ("MOST = 6", "MOST = 3"),
    ):
        project.edit("kdcore/sweep/job_queue.py", old, new)
    project.edit("kdcore/sweep/display.py", "FIRST_PAUSE, LONGEST_PAUSE = 60.0", "FIRST_PAUSE, LONGEST_PAUSE = 0.5")
    options = {"cores": 1, "memory": "2GB", "interface": "lo"}
    yamlfile.write(project.folder / "slurm.yaml", {"cluster": "SLURMCluster", "jobs": 1, "options": options})
    return project


STARTS = "setsid bash {0}/script-$number > {0}/slurm-$number.out 2>&1 & echo $! > {0}/pid-$number"


@pytest.mark.slow
@pytest.mark.pipeline
def test_a_sweep_whose_first_submission_times_out(project, slurm):
    slurm.refuse(1, words=TIMED_OUT)
    # The job begins when all is done that the sweep does itself, so that it has to wait.
    begins = f"(until test -e {project.folder}/data/digits; do sleep 0.1; done; sleep 2; exec setsid bash"
    (slurm.folder / "starts").write_text(
        STARTS.format(slurm.folder).replace("setsid bash", begins).replace(" >", ") >", 1)
    )
    output = project.sweep("--cluster", "slurm.yaml", f"baseline@{PAIR}-vanilla-base-0")
    assert f"the queue did not take a job: sbatch: {TIMED_OUT}\ntrying again in 1 s" in output
    assert output.count("waiting for workers\n") == 1
    assert " done" in output.splitlines()[-1]
    assert slurm.cancelled == ["102"], "the job ends with the sweep"


@pytest.mark.slow
@pytest.mark.pipeline
def test_a_sweep_whose_account_is_refused(project, slurm):
    slurm.refuse(*range(1, 10))
    output = project.sweep("--cluster", "slurm.yaml", code=1)
    assert f"the queue took no job, 3 times in a row: sbatch: {REFUSED}" in output
    assert "Traceback" not in output
    assert re.search(r"\d stopped", output.splitlines()[-1])
    assert "again" in output
    assert slurm.submitted == slurm.cancelled == []


@pytest.mark.slow
@pytest.mark.pipeline
def test_a_sweep_whose_jobs_die(project, slurm):
    (slurm.folder / "starts").write_text(
        f"echo 'activate: No such file' > slurm-$number.out; rm {slurm.folder}/state-$number"
    )
    output = project.sweep("--cluster", "slurm.yaml", code=1)
    for number in (101, 102, 103):
        assert f"job {number}: its worker did not come, and the queue does not have it any more" in output
    assert "slurm-103.out ends with\n    activate: No such file\nThat was so 3 times in a row" in output
    assert slurm.submitted == [101, 102, 103]


@pytest.mark.slow
@pytest.mark.pipeline
def test_a_sweep_whose_job_pends_for_ever(project, slurm):
    with project.sweeping("--cluster", "slurm.yaml") as process:
        again = "still waiting for workers, for 2 s now\n1 job submitted, the first "
        project.wait_for(lambda: again in project.said())
        assert sweeps.stop(process, signal.SIGINT) == 130
    assert re.search(r"the first \d+ s ago: 1 PENDING \(Priority\)", project.said())
    assert "stopped" in project.said().splitlines()[-1]
    assert slurm.cancelled == ["101"]
    assert slurm.submitted == [101]


@pytest.mark.slow
@pytest.mark.pipeline
def test_a_sweep_that_is_ended_at_once(project, slurm, tmp_path, monkeypatch):
    """The second Ctrl-C waits for nothing, and still leaves no job, and no folder of multiprocessing."""
    (tmp_path / "t").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "t"))
    waiting = cell("kd", 1)
    project.behave(**{waiting: "wait"})
    (slurm.folder / "starts").write_text(STARTS.format(slurm.folder))
    with project.sweeping("--cluster", "slurm.yaml") as process:
        project.wait_for(lambda: waiting in project.ran)
        process.send_signal(signal.SIGSTOP)
        for number in (signal.SIGINT, signal.SIGTERM):
            process.send_signal(number)
        process.send_signal(signal.SIGCONT)
        assert process.wait(30) in (128 + signal.SIGINT, 128 + signal.SIGTERM)
        assert len(list((tmp_path / "t").glob("pymp-*"))) <= 1, "only its worker has one"
        project.wait_for(lambda: slurm.cancelled == ["101"])


@pytest.mark.slow
@pytest.mark.pipeline
def test_a_sweep_that_is_ended_at_once_while_it_connects(project, slurm):
    """Jobs are in the queue before the sweep knows its workers."""
    project.edit("kdcore/sweep/crew.py", "        self._claim()\n", "        time.sleep(60)\n        self._claim()\n")
    with project.sweeping("--cluster", "slurm.yaml") as process:
        project.wait_for(lambda: slurm.submitted == [101])
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 128 + signal.SIGTERM
        project.wait_for(lambda: slurm.cancelled == ["101"])


@pytest.mark.slow
@pytest.mark.pipeline
def test_a_sweep_whose_jobs_cannot_run_stages(project, slurm):
    """They have come with a variable of the environment that no job can satisfy."""
    script = "export KDCORE_DEVICE=cuda:1 CUDA_VISIBLE_DEVICES=0"
    content = yamlfile.read(project.folder / "slurm.yaml")
    content["options"]["job_script_prologue"] = [script]
    yamlfile.write(project.folder / "slurm.yaml", content)
    (slurm.folder / "starts").write_text(STARTS.format(slurm.folder))
    output = project.sweep("--cluster", "slurm.yaml", code=1)
    assert "no job can run stages; mend that, and run it again\nworker tcp://" in output
    assert "KDCORE_DEVICE=cuda:1: no such GPU here, for 1 can be seen, with CUDA_VISIBLE_DEVICES=0" in output
    assert slurm.cancelled == ["101"]


@pytest.mark.slow
@pytest.mark.pipeline
def test_a_sweep_that_is_stopped_while_a_cell_runs(project, slurm):
    waiting = cell("kd", 1)
    project.behave(**{waiting: "wait"})
    (slurm.folder / "starts").write_text(STARTS.format(slurm.folder))
    with project.sweeping("--cluster", "slurm.yaml") as process:
        project.wait_for(lambda: waiting in project.ran)
        assert sweeps.stop(process) == 128 + signal.SIGTERM
    assert f"stopping: train@{waiting} may save their states" in project.said()
    assert slurm.cancelled == ["101"]
