"""Number of threads: affinity, quota of the cgroup and OMP_NUM_THREADS, and the environment of commands."""

import math
import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

from fairseq_resmlp.cli.main import main
from fairseq_resmlp.common import threads
from fairseq_resmlp.common.errors import InputError


def write(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


V1 = "9:name=systemd:/\n3:cpuset:/\n2:cpu,cpuacct:/job/step\n0::/\n"
CPU = "sys/fs/cgroup/cpu"


@pytest.mark.parametrize(
    "files, quota",
    [
        ({}, math.inf),  # no cgroups
        ({"proc/self/cgroup": "0::/\n"}, math.inf),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, math.inf),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1.5),
        (
            {
                "proc/self/cgroup": "0::/job/step\n",
                "sys/fs/cgroup/job/cpu.max": "200000 100000\n",
                "sys/fs/cgroup/job/step/cpu.max": "300000 100000\n",
                "sys/fs/cgroup/cpu.max": "max 100000\n",
            },
            2,
        ),
        ({"proc/self/cgroup": V1, f"{CPU}/job/cpu.cfs_quota_us": "-1", f"{CPU}/job/cpu.cfs_period_us": "9"}, math.inf),
        ({"proc/self/cgroup": V1, f"{CPU}/job/cpu.cfs_quota_us": "5", f"{CPU}/job/cpu.cfs_period_us": "2"}, 2.5),
        ({"proc/self/cgroup": V1, f"{CPU}/cpu.cfs_quota_us": "50000", f"{CPU}/cpu.cfs_period_us": "100000"}, 0.5),
    ],
)
def test_the_quota_is_the_smallest_of_all_groups_above_the_process(tmp_path, files, quota):
    write(tmp_path, files)
    assert threads.cpu_quota(tmp_path) == quota


@pytest.mark.parametrize("quota, cores", [(math.inf, 4), (1.5, 2), (0.5, 1), (64, 4)])
def test_available_cores_are_those_of_the_affinity_and_of_the_quota_rounded_up(monkeypatch, quota, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2, 3})
    monkeypatch.setattr(threads, "cpu_quota", lambda: quota)
    assert threads.available_cores() == cores


@pytest.mark.parametrize("value, count", [("3", 3), (" 3,2", 3), ("", 7), (None, 7)])
def test_omp_num_threads_comes_first(monkeypatch, value, count):
    monkeypatch.setattr(threads, "available_cores", lambda: 7)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if value is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert threads.default_threads() == count


@pytest.mark.parametrize("value", ["two", "0", "-1", "1.5", "99999"])
def test_an_invalid_omp_num_threads_is_refused(monkeypatch, value):
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    with pytest.raises(InputError, match="OMP_NUM_THREADS is .*: set it to a number from 1 to 1024, or unset it"):
        threads.default_threads()


@pytest.mark.parametrize(
    "given, used",
    [
        ({}, {"OMP_NUM_THREADS": "7", "GOMP_SPINCOUNT": "1000"}),
        ({"OMP_NUM_THREADS": "3", "OMP_WAIT_POLICY": "PASSIVE"}, {}),
        ({"GOMP_SPINCOUNT": "5"}, {"OMP_NUM_THREADS": "7"}),
    ],
)
def test_a_command_sets_what_the_caller_has_not_set_before_torch_is_loaded(monkeypatch, given, used):
    monkeypatch.setattr(threads, "available_cores", lambda: 7)
    monkeypatch.setattr(os, "environ", dict(given))
    assert "torch" in sys.modules
    threads.set_thread_environment()
    assert os.environ == given  # too late: nothing would read it
    monkeypatch.delitem(sys.modules, "torch")
    CliRunner().invoke(main, ["--version"])
    assert os.environ == {**given, **used}


def test_importing_the_library_changes_no_environment():
    code = "import os; before = dict(os.environ); import fairseq_resmlp.inference; assert before == dict(os.environ)"
    subprocess.run([sys.executable, "-c", code], check=True)
