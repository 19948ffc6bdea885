"""Cluster files: what jobs they make, and what is refused."""

import re
from contextlib import ExitStack, nullcontext

import dask
import pytest
import yaml

from kdcore.sweep import cli, cluster_file, clusters, queue_commands
from kdcore.system.errors import UserError
from tests import sweeps
from tests.project import ROOT

SLURM = {"cluster": "SLURMCluster", "jobs": 8, "options": {
    "queue": "gpu", "account": "kd", "cores": 4, "processes": 1, "memory": "16GB", "walltime": "04:00:00",
    "job_extra_directives": ["--gres=gpu:1"], "job_script_prologue": ["source .venv/bin/activate"]}}  # fmt: skip
LEAST = {"cores": 4, "memory": "16GB"}


def written(path, **content):
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture
def script(tmp_path):
    """The script of a job with these options, as lines."""

    def write(cluster="SLURMCluster", **options):
        path = written(tmp_path / "cluster.yaml", cluster=cluster, jobs=1, options={**LEAST, **options})
        return cluster_file.script(cluster_file.read(path), path).splitlines()

    return write


def test_job_script_of_a_cluster_file(tmp_path):
    path = written(tmp_path / "cluster.yaml", **SLURM)
    content = cluster_file.read(path)
    script = cluster_file.script(content, path).splitlines()
    directives = [line.removeprefix("#SBATCH ") for line in script if line.startswith("#SBATCH")]
    assert directives == ["-J dask-worker", "-p gpu", "-A kd", "-n 1", "--cpus-per-task=4", "--mem=15G", "-t 04:00:00",
                          "--gres=gpu:1"]  # fmt: skip
    assert "source .venv/bin/activate" in script
    assert "--nthreads 4" in script[-1]
    with cluster_file.make(content, path) as cluster:
        made = cluster.job_script().splitlines()
    assert made[:-1] == script[:-1]
    without_names = re.compile(r"tcp://\S+( a free port>)?|--name \S+")
    assert without_names.sub("", made[-1]) == without_names.sub("", script[-1]).replace(" machine>:<a free port>", "")


def test_the_cluster_file_of_the_docs(tmp_path, monkeypatch):
    """docs/cluster.md shows one, and the job script that it makes."""
    monkeypatch.delenv("KDCORE_TABLES", raising=False)
    text = (ROOT / "docs/cluster.md").read_text().split("```yaml\n")[1]
    shown, script = text.split("```")[0], text.split("```bash\n")[1].split("```")[0]
    path = tmp_path / "cluster.yaml"
    path.write_text(shown)
    made = cluster_file.script(cluster_file.read(path), path).splitlines()
    assert [line for line in made if line][:-1] == script.splitlines()[:-1]
    assert script.splitlines()[-1].split(" tcp:")[0].removeprefix("python ") in made[-1]


def test_every_class_of_dask_jobqueue_is_known():
    assert {"SLURMCluster", "PBSCluster", "LSFCluster", "SGECluster", "HTCondorCluster"} <= set(cluster_file.classes())
    assert all(hasattr(cluster_file.jobqueue(), name) for name in cluster_file.classes())


SHORT = {"LSFCluster": "08:00"}


@pytest.mark.parametrize("name", cluster_file.classes())
def test_every_class_makes_a_script(script, tmp_path, name):
    options = {
        **({"disk": "1GB"} if name == "HTCondorCluster" else {"walltime": SHORT.get(name, "08:00:00")}),
        "job_extra_directives": {"MY.Colour": 7} if name == "HTCondorCluster" else ["--colour=7"],
        "job_script_prologue": ["source it", "echo 1\necho 2"],
        "log_directory": str(tmp_path / "new/logs"),
        "account" if "account" in cluster_file.allowed(name) else "python": "kd",
    }
    text = "\n".join(script(name, **options))
    assert "olour" in text
    assert "source it" in text
    assert "--nworkers" not in text, "one process, unless the file says more"
    assert "--nthreads 4" in text
    assert str(tmp_path / "new/logs") in text or name in ("OARCluster",)
    assert not (tmp_path / "new").exists(), "to show a script changes nothing"


def test_what_may_be_written(script, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert "#SBATCH -t 2-12" in script(walltime="2-12")
    assert "#SBATCH -t 1-08:00:00" in script(walltime="1-08:00:00")
    assert "#SBATCH -t 100:00:00" in script(walltime="100:00:00")
    assert "#SBATCH --mem=2G" in script(memory="1.5 GiB")
    assert f"#SBATCH -o {tmp_path}/logs/dask-worker-%J.out" in script(log_directory="~/logs"), "Slurm replaces no ~"
    assert script(queue=None) == script(security=False) == script()
    assert "#SBATCH --mem=16G" in script(memory="16Gi")
    assert "#$ -tc 4" in script("SGECluster", job_extra_directives=["-tc 4"])
    assert "#SBATCH --wait-all-nodes=1" in script(job_extra_directives=["--wait-all-nodes=1"])
    assert "#SBATCH -A kd" in script(job_extra_directives=["-A kd", "--account=kd"])
    assert " =x " in script(worker_extra_args=["=x", "--lifetime 55m"])[-1]
    (last,) = [line for line in script(processes=2, death_timeout=90, nanny=False) if "dask_worker" in line]
    assert "--nworkers 2 --no-nanny --death-timeout 90" in last


def test_yaml_reads_times_as_text(tmp_path):
    """YAML 1.1 would read 08:00:00 without quotes as 28800."""
    path = tmp_path / "cluster.yaml"
    path.write_text("cluster: SLURMCluster\njobs: 1\noptions: {cores: 1, memory: 1GB, walltime: 08:00:00}\n")
    assert "#SBATCH -t 08:00:00" in cluster_file.script(cluster_file.read(path), path).splitlines()


WRONG = [
    ("SLURMCluster", {"job_extra_directives": "--gres=gpu:1"},
     "job_extra_directives: '--gres=gpu:1': must be a list of text, as in ['--gres=gpu:1']"),
    ("SLURMCluster", {"job_extra_directives": [{"--gres": "gpu:1"}]}, "{'--gres': 'gpu:1'}: must be text"),
    ("SLURMCluster", {"job_extra_directives": ["#SBATCH --gres=gpu:1"]}, "leave #SBATCH away"),
    ("SLURMCluster", {"job_extra_directives": ["-G 1\n-t 1"]}, "must be one line of text"),
    ("SLURMCluster", {"job_extra_directives": {"gres": "gpu:1"}}, "must be a list of text, with SLURMCluster"),
    ("SLURMCluster", {"job_extra_directives": ["--array=0-3"]}, "makes an array, whose jobs a sweep does"),
    ("SLURMCluster", {"job_extra": ["-M other"]}, "job_extra: '-M other': submits to a cluster that is not asked"),
    ("PBSCluster", {"job_extra_directives": ["-J 1-4"]}, "makes an array"),
    ("SGECluster", {"job_extra_directives": ["-t 1-4"]}, "makes an array"),
    ("PBSCluster", {"job_extra_directives": ["-t 1-4"]}, "makes an array"),
    ("MoabCluster", {"job_extra_directives": ["-t all[1-4]"]}, "makes an array"),
    ("LSFCluster", {"job_extra_directives": ['-J "all[1-4]"']}, "makes an array"),
    ("SLURMCluster", {"job_extra_directives": ["--gres=gpu:1 --array=0-3"]}, "makes an array"),
    ("SLURMCluster", {"job_extra_directives": ["  -a 0-3"]}, "makes an array"),
    ("OARCluster", {"job_extra_directives": ["--array 4"]}, "makes an array"),
    ("SLURMCluster", {"job_extra_directives": ["-Mfar"]}, "submits to a cluster"),
    ("SLURMCluster", {"job_extra_directives": ["--cluster=far"]}, "submits to a cluster"),
    ("SLURMCluster", {"job_extra_directives": ["--wait"]}, "lets the command that submits a job wait"),
    ("PBSCluster", {"job_extra_directives": ["-W umask=22,block=true"]}, "lets the command that submits a job wait"),
    ("SGECluster", {"job_extra_directives": ["-sync y"]}, "lets the command that submits a job wait"),
    ("LSFCluster", {"job_extra_directives": ["-K"]}, "lets the command that submits a job wait"),
    ("SLURMCluster", {"job_extra_directives": ["--arr=0-3"]}, "makes an array"),
    ("SLURMCluster", {"job_extra_directives": ["--ar 0-3"]}, "makes an array"),
    ("SLURMCluster", {"job_extra_directives": ['"--array=0-3"']}, "makes an array"),
    ("SGECluster", {"job_extra_directives": ["-sync yes"]}, "lets the command that submits a job wait"),
    ("SGECluster", {"job_extra_directives": ["-sync  y"]}, "lets the command that submits a job wait"),
    ("SGECluster", {"resource_spec": "gpu=1 -t 1-4"}, "resource_spec: 'gpu=1 -t 1-4': makes an array"),
    ("PBSCluster", {"job_extra_directives": ["-W  block=t"]}, "lets the command that submits a job wait"),
    ("PBSCluster", {"job_extra_directives": ["-Wblock=1"]}, "lets the command that submits a job wait"),
    ("OARCluster", {"job_extra_directives": ["--arr 4"]}, "makes an array"),
    ("LSFCluster", {"job_extra_directives": ['-J  "all[1-4]"']}, "makes an array"),
    ("LSFCluster", {"job_name": "all[1-4]"}, "job_name: 'all[1-4]': makes an array"),
    ("LSFCluster", {"job_extra_directives": ["-Is"]}, "lets the command that submits a job wait"),
    ("SLURMCluster", {"job_script_prologue": ["#SBATCH --array=0-3"]},
     "job_script_prologue[0]: '#SBATCH --array=0-3': belongs into job_extra_directives, there without #SBATCH"),
    ("SGECluster", {"job_script_prologue": ["module load cuda\n#$ -t 1-4"]}, "'#$ -t 1-4': belongs into job_extra"),
    ("SLURMCluster", {"job_extra": ["-G 1"], "job_extra_directives": ["-N 1"]},
     "job_extra: ['-G 1']: is ignored, for it is the old name of job_extra_directives; leave one of them away"),
    ("SLURMCluster", {"worker_extra_args": ["--lifetime 55m --name mine"]}, "worker_extra_args[0]: '--name': a sweep"),
    ("SLURMCluster", {"worker_extra_args": ["--nworkers", "2"]}, "'--nworkers': 'processes' says how many workers"),
    ("HTCondorCluster", {"disk": "1GB", "job_extra_directives": ["a = 1"]}, "must be keys and values, with HTCondorC"),
    ("HTCondorCluster", {"disk": "1GB", "job_extra_directives": {"a": [1]}}, "job_extra_directives: [1]: must be text"),
    ("HTCondorCluster", {"disk": "1GB", "job_directives_skip": ["nothing"]}, "does not take them: 'nothing'"),
    ("HTCondorCluster", {"disk": 1}, "disk: 1: has no unit"),
    ("SLURMCluster", {"job_directives_skip": "mem"}, "job_directives_skip: 'mem': must be a list of text"),
    ("SLURMCluster", {"job_directives_skip": [""]}, "job_directives_skip[0]"),
    ("SLURMCluster", {"job_script_prologue": "source .venv/bin/activate"}, "job_script_prologue: 'source .venv/bin"),
    ("SLURMCluster", {"env_extra": "export A=1"}, "env_extra: 'export A=1': must be a list of text"),
    ("SLURMCluster", {"worker_extra_args": "--no-dashboard"}, "worker_extra_args: '--no-dashboard': must be a list"),
    ("SLURMCluster", {"worker_extra_args": ["--nthreads", 2]}, "worker_extra_args[1]: 2: must be text; put it"),
    ("SLURMCluster", {"worker_extra_args": ["--name=mine"]}, "worker_extra_args[0]: '--name': a sweep knows"),
    ("SLURMCluster", {"worker_extra_args": ["--name mine"]}, "worker_extra_args[0]: '--name': a sweep knows"),
    ("SLURMCluster", {"silence_logs": "loud"}, "silence_logs: 'loud': Input should be 'critical', 'error'"),
    ("SLURMCluster", {"memory": 16}, "memory: 16: has no unit, so it would be bytes; write 16GB or 16MB"),
    ("SLURMCluster", {"memory": "16"}, "memory: '16': must be a size with its unit, such as 16GB"),
    ("SLURMCluster", {"memory": "0GB"}, "memory: '0GB': must be"),
    ("SLURMCluster", {"memory": "16 bananas"}, "memory: '16 bananas': must be"),
    ("SLURMCluster", {"job_mem": 16}, "job_mem: 16: has no unit"),
    ("LSFCluster", {"mem": 16}, "mem: 16"),
    ("LSFCluster", {"walltime": "08:00:00"}, "walltime: '08:00:00': must be written as in \"08:00\", hours and minut"),
    ("SLURMCluster", {"walltime": "08:00"}, "walltime: '08:00': must be written as in \"08:00:00\" or \"1-08:00:00\""),
    ("PBSCluster", {"walltime": "1-08:00:00"}, "walltime: '1-08:00:00': must be written as in \"08:00:00\", with PBS"),
    ("SGECluster", {"walltime": "08:60:00"}, "walltime: '08:60:00': must be"),
    ("SLURMCluster", {"walltime": "00:00:00"}, "walltime: '00:00:00': must be"),
    ("SLURMCluster", {"walltime": 28800}, "walltime: 28800: must be text; put it into quotes"),
    ("SLURMCluster", {"cores": "four"}, "cores: 'four'"),
    ("SLURMCluster", {"cores": 0}, "cores: 0"),
    ("SLURMCluster", {"cores": True}, "cores: True"),
    ("SLURMCluster", {"processes": 8}, "processes: 8: must be at most cores, 4"),
    ("SLURMCluster", {"account": 123}, "account: 123: must be text; put it into quotes"),
    ("SLURMCluster", {"shebang": "/bin/bash"}, "shebang: '/bin/bash': must begin with #!"),
    ("SLURMCluster", {"log_directory": "$NOWHERE/logs"}, "log_directory: '$NOWHERE/logs': names a folder"),
    ("SLURMCluster", {"death_timeout": -1}, "death_timeout: -1"),
    ("SLURMCluster", {"nanny": "no"}, "nanny: 'no'"),
    ("SLURMCluster", {"qeue": "gpu"}, "options: qeue: SLURMCluster has no such option. Did you mean queue?"),
    ("SLURMCluster", {"n_workers": 4}, "options: n_workers: SLURMCluster has no such option. 'jobs', beside 'options'"),
    ("SLURMCluster", {"asynchronous": True}, "options: asynchronous: SLURMCluster has no such option."),
    ("HTCondorCluster", {"disk": "1GB", "queue": "gpu"}, "options: queue: HTCondorCluster has no such option."),
    ("LSFCluster", {"job_cpu": 1}, "options: job_cpu: LSFCluster has no such option."),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options", "message"), WRONG)
def test_wrong_options(script, tmp_path, name, options, message):
    with pytest.raises(UserError) as raised:
        script(name, **options)
    assert str(raised.value).startswith(f"{tmp_path / 'cluster.yaml'}: options: ")
    assert message in str(raised.value)


def test_a_variable_that_submits_to_another_cluster(script, monkeypatch):
    monkeypatch.setenv("SBATCH_CLUSTERS", "far")
    with pytest.raises(
        UserError, match="SBATCH_CLUSTERS=far: submits to a cluster that is not asked for its jobs; set"
    ):
        script()
    assert script("PBSCluster")
    monkeypatch.setenv("SLURM_CLUSTERS", "far")
    assert script()


def test_what_looks_like_an_array_and_is_none(script):
    for cluster, directive in (
        ("SLURMCluster", "--acctg-freq=30"),
        ("SGECluster", "-sync no"),
        ("SGECluster", "-sync n"),
        ("PBSCluster", "-W block=false"),
        ("LSFCluster", "-J all"),
    ):
        assert script(cluster, job_extra_directives=[directive])
    assert script("PBSCluster", job_name="all", job_script_prologue=["# PBS is loved", "#!/bin/sh"])


@pytest.fixture
def read(tmp_path):
    """Read a cluster file; returns its options, and what is said."""

    def read(cluster="SLURMCluster", **options):
        said = []
        path = written(tmp_path / "cluster.yaml", cluster=cluster, jobs=1, options={**LEAST, **options})
        return cluster_file.read(path, said.append).options, "\n".join(said).replace(f"{path}: ", "")

    return read


def test_gpus_of_the_machine_that_submits(read, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    said = "CUDA_VISIBLE_DEVICES=1: chooses GPUs of this machine, and is not passed on to jobs"
    assert read()[1] == said
    assert "CUDA_VISIBLE_DEVICES" not in queue_commands.environment()


def test_variables_that_the_queue_obeys(read, monkeypatch):
    """sbatch takes them rather than what the script says."""
    monkeypatch.setenv("SBATCH_QOS", "low")
    monkeypatch.setenv("SBATCH_WAIT", "1")
    monkeypatch.setenv("SBATCH_PARTITION", "cpu")
    assert read(queue="cpu")[1] == read()[1] == "the queue also obeys SBATCH_PARTITION=cpu, SBATCH_QOS=low"
    with pytest.raises(UserError, match="options: queue: 'gpu': SBATCH_PARTITION=cpu overrules it; unset that variab"):
        read(queue="gpu")
    assert read("PBSCluster", queue="gpu")[1] == ""
    monkeypatch.setenv("LSB_DEFAULTQUEUE", "short")
    assert read("LSFCluster")[1] == "the queue also obeys LSB_DEFAULTQUEUE=short"


@pytest.fixture
def configure(monkeypatch):
    """Dask's own configuration of jobs for Slurm, in a file or by variables of the environment."""
    monkeypatch.delenv("KDCORE_TABLES", raising=False)

    def configure(section="slurm", **changes):
        given = {key.replace("_", "-"): value for key, value in changes.items()}
        return dask.config.set({f"jobqueue.{section}": {**dask.config.get("jobqueue.slurm"), **given}})

    return configure


def test_options_of_dasks_own_configuration(read, configure):
    """They are added to those of the file, which replaces them, and are named."""
    with configure(queue="gpu", name="mine", walltime="01:00:00", processes=3, protocol="ucx://", job_extra=["-G 1"]):
        options, said = read(walltime="02:00:00", job_extra_directives=["-G 2"])
    assert options == {**LEAST, "queue": "gpu", "job_name": "mine", "walltime": "02:00:00", "processes": 1,
                       "job_extra_directives": ["-G 2"]}  # fmt: skip
    assert said == "jobqueue.slurm of Dask's configuration adds queue: 'gpu', job_name: 'mine'"
    with configure("own", queue="gpu"):
        said = read(config_name="own")[1]
    assert said.startswith("jobqueue.own of Dask's configuration adds queue: 'gpu', ")
    assert "walltime: '00:30:00'" in said


@pytest.mark.parametrize(("changes", "options", "message"), [
    ({"job_extra_directives": ["--array=0-3"]}, {},
     "options (jobqueue.slurm of Dask's configuration): job_extra_directives: '--array=0-3': makes an array"),
    ({"job_extra_directives": "-G 1"}, {}, "cluster.yaml replaces: job_extra_directives: '-G 1': must be a list"),
    ({"account": 7}, {}, "cluster.yaml replaces: account: 7: must be text; put it into quotes"),
    ({"worker_extra_args": ["--name=mine"]}, {}, "worker_extra_args[0]: '--name': a sweep knows a job's worker by"),
    ({"job_extra_directives": ["-N 1"]}, {"job_extra": ["-G 1"]}, "job_extra: ['-G 1']: is ignored, for it is the old"),
])  # fmt: skip
def test_wrong_options_of_dasks_own_configuration(read, configure, changes, options, message):
    with configure(**changes):
        with pytest.raises(UserError) as raised:
            read(**options)
        assert message in str(raised.value)
        read(account="kd", job_extra_directives=["-G 1"], worker_extra_args=[])


def test_jobs_have_the_devices_that_the_sweep_is_told(script, monkeypatch):
    """Many queues pass no variables on. What the file's prologue sets comes later, and counts."""
    monkeypatch.setenv("KDCORE_DEVICE", "cpu")
    monkeypatch.setenv("KDCORE_TABLES", "/a b")
    monkeypatch.setenv("KDCORE_BESIDE", "cell")
    for name in ("job_script_prologue", "env_extra"):
        lines = script("PBSCluster", **{name: ["source it"]})
        start = lines.index("export KDCORE_DEVICE=cpu")
        assert lines[start : start + 3] == ["export KDCORE_DEVICE=cpu", "export KDCORE_TABLES='/a b'", "source it"]
    for shebang in (
        "/bin/tcsh",
        "/bin/csh -f",
        " /usr/bin/env -S tcsh -f",
        "/usr/bin/env A=1 csh",
        "/usr/local/bin/csh ",
    ):
        assert "setenv KDCORE_DEVICE cpu" in script(shebang=f"#!{shebang}"), shebang
    for shebang in ("/bin/bash -l", "/bin/zsh", "/usr/bin/env bash", "/opt/csh/bin/bash --rcfile /etc/csh"):
        assert "export KDCORE_DEVICE=cpu" in script(shebang=f"#!{shebang}"), shebang
    for directive in ("-S /bin/tcsh", "-S=/bin/csh", "-j y -S /bin/tcsh", "-S /bin/tcsh@node1,/bin/bash@node2"):
        assert "setenv KDCORE_DEVICE cpu" in script("SGECluster", job_extra_directives=[directive]), directive
    assert "setenv KDCORE_DEVICE cpu" in script(shebang="#!/bin/tcsh", job_extra_directives=["-S 2"])  # Slurm's cores
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
    assert "export MLFLOW_TRACKING_URI=http://server:5000" in script()
    assert "export KDCORE_DEVICE=cpu; " in "\n".join(script("HTCondorCluster", disk="1GB", shebang="#!/bin/csh -f"))
    assert "export KDCORE_DEVICE=cpu; " in "\n".join(script("HTCondorCluster", disk="1GB"))
    assert not any("KDCORE_BESIDE" in line for line in script())


@pytest.mark.parametrize(("cluster", "options"), [
    ("SLURMCluster", {"job_script_prologue": ["export OMP_NUM_THREADS=8"]}),
    ("SLURMCluster", {"env_extra": ["OMP_NUM_THREADS=8; export OMP_NUM_THREADS"]}),
    ("SLURMCluster", {"job_script_prologue": ["source it\nexport A=1 OMP_NUM_THREADS=$SLURM_CPUS_ON_NODE"]}),
    ("SLURMCluster", {"job_script_prologue": [": ${OMP_NUM_THREADS:=8}"]}),
    ("SLURMCluster", {"job_script_prologue": ["setenv OMP_NUM_THREADS 8"], "shebang": "#!/bin/csh -f"}),
    ("SLURMCluster", {"job_script_prologue": ["set -gx OMP_NUM_THREADS 8"], "shebang": "#!/usr/bin/fish"}),
    ("SLURMCluster", {"job_extra_directives": ["--export=ALL,OMP_NUM_THREADS=8"]}),
    ("PBSCluster", {"job_extra_directives": ["-v OMP_NUM_THREADS=8"]}),
    ("PBSCluster", {"python": "env OMP_NUM_THREADS=8 python"}),
    ("HTCondorCluster", {"disk": "1GB", "job_extra_directives": {"environment": '"OMP_NUM_THREADS=8"'}}),
])  # fmt: skip
def test_threads_that_cells_would_not_have(script, cluster, options):
    """Dask and the sweep give each cell its share of the cores; with `train.threads: auto` that decides results."""
    with pytest.raises(UserError, match=r"OMP_NUM_THREADS.*: does not count, for cells share the cores of a job; sta"):
        script(cluster, **options)


def test_threads_that_are_only_talked_of(script, configure):
    prologue = ["# export OMP_NUM_THREADS=8", "echo $OMP_NUM_THREADS threads", "unset OMP_NUM_THREADS MKL_NUM_THREADS"]
    lines = script(job_script_prologue=prologue)
    assert set(prologue) <= {*lines}
    with (
        configure(job_script_prologue=["export OMP_NUM_THREADS=8"]),
        pytest.raises(
            UserError, match=r"options \(jobqueue.slurm of Dask's configuration\): job_script_prologue: 'exp"
        ),
    ):
        script()


def test_several_wrong_options_at_once(script):
    with pytest.raises(UserError) as raised:
        script(memory=16, job_extra_directives="x", shebang="sh")
    assert len(str(raised.value).splitlines()) == 3


@pytest.mark.parametrize(("changes", "message"), [
    ({"cluster": "SlurmCluster"}, "cluster: 'SlurmCluster' is no class of dask_jobqueue. Allowed: .*SLURMCluster"),
    ({"jobs": 0}, "jobs"),
    ({"queue": "gpu"}, "queue"),
    ({"options": {"cores": 1, "memory": "1GB", "qeue": "gpu"}}, "options: qeue: SLURMCluster has no such option"),
    ({"options": {"memory": "1GB"}}, "options: SLURMCluster does not take them: .*cores"),
    ({"options": {"cores": 1, "memory": "1GB", "interface": "nope0"}}, "options: SLURMCluster does not take them: "),
])  # fmt: skip
def test_wrong_cluster_files(tmp_path, changes, message):
    path = written(tmp_path / "cluster.yaml", **{**SLURM, **changes})
    with pytest.raises(UserError, match=message) as raised:
        cluster_file.make(cluster_file.read(path), path)
    assert str(path) in str(raised.value)


def test_stages_at_a_time_that_a_dry_run_counts_on(tmp_path):
    path = str(written(tmp_path / "cluster.yaml", **SLURM))
    for slots, at_a_time in ((1, 8), (3, 24), (9, 32)):
        assert cli._jobs(cli.parse(["--cluster", path, "--slots-per-gpu", str(slots)], None)) == at_a_time


def test_a_device_for_workers_elsewhere(tmp_path, monkeypatch):
    """It is checked, and where it does not reach them, that is said."""
    monkeypatch.setattr(cli, "_crew", lambda options, say: nullcontext())
    monkeypatch.setenv("KDCORE_DEVICE", "cpu")
    monkeypatch.setenv("KDCORE_TABLES", "/a")
    said = []
    with ExitStack() as stack:
        cli.hiring(cli.parse(["--scheduler", "tcp://here:1"], None), stack, said.append)
    assert said == [
        "KDCORE_DEVICE=cpu, KDCORE_TABLES=/a: count for stages that run here alone; workers obey their own environment"
    ]
    monkeypatch.setenv("KDCORE_DEVICE", "banana")
    with pytest.raises(UserError, match="KDCORE_DEVICE=banana: is no device"):
        cli.sweep(cli.parse(["--cluster", str(tmp_path / "slurm.yaml")], None))


def test_a_machine_that_submits_no_jobs(tmp_path, monkeypatch):
    path = written(tmp_path / "cluster.yaml", **SLURM)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=f"--cluster {path}: there is no sbatch here"):
        clusters.check(path, print)
    (tmp_path / "sbatch").write_text("")
    (tmp_path / "sbatch").chmod(0o755)
    clusters.check(path, print)
    written(path, **{**SLURM, "options": {**LEAST, "interface": "nope0"}})
    with pytest.raises(
        UserError, match=r"'nope0' is not a valid network interface. Valid network interfaces are: .*lo"
    ):
        clusters.check(path, print)
    for wrong, reason in (
        ({"interface": "nope0"}, "'nope0' is not a valid network interface"),
        ({"protocol": "nope"}, "unknown address scheme 'nope'"),
        ({"colour": 1}, "unexpected keyword argument 'colour'"),
    ):
        written(path, **{**SLURM, "options": {**LEAST, "scheduler_options": wrong}})
        with pytest.raises(UserError, match=f"options: SLURMCluster does not take them: .*{reason}"):
            clusters.check(path, print)


@pytest.mark.slow
@pytest.mark.pipeline
def test_a_dry_run_shows_the_script(tmp_path):
    project = sweeps.make(tmp_path / "project")
    options = {**SLURM["options"], "job_extra_directives": ["--gres=gpu:v:1"]}
    written(project.folder / "slurm.yaml", **{**SLURM, "options": options})
    output = project.sweep("--dry-run", "--cluster", "slurm.yaml")
    assert "slurm.yaml: jobs: 8, each with this script:" in output
    assert re.search(r"\n#SBATCH --gres=gpu:v:1\n(export KDCORE_\S+\n)*source .venv/bin/activate\n", output)
    written(project.folder / "slurm.yaml", **{**SLURM, "options": {**LEAST, "memory": 16}})
    before = project.run("git", "status", "--porcelain")
    for arguments in ([], ["--dry-run"]):
        assert "slurm.yaml: options: memory: 16: has no unit" in project.sweep(
            *arguments, "--cluster", "slurm.yaml", "-S", "seeds=[7]", code=2
        )
    assert project.run("git", "status", "--porcelain") == before, "nothing was done before"
