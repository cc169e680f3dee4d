"""scripts/gpu_check.sh, on the CPU and with tiny models."""

import json

import pytest
import torch

from support.commands import run
from support.paths import SCRIPTS, load_script


@pytest.mark.slow
def test_gpu_check_passes_on_the_cpu_and_makes_a_table(tmp_path):
    out = tmp_path / "gpu.json"
    done = run(SCRIPTS / "gpu_check.sh", "--device", "cpu", "--quick", "--out", out)
    assert "0 checks failed" in done.stdout
    results = json.loads(out.read_text(encoding="utf-8"))["results"]
    checks = [result["check"] for result in results if "check" in result]
    assert len(checks) == 4 + 3 and len(results) == 7 + 4 + 3  # updates, small model; training, translation
    table = load_script(SCRIPTS / "update_tables.py").gpu([out])
    assert all(f"| {check} | " in table for check in checks)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_gpu_check_without_a_gpu_says_so(tmp_path):
    done = run(SCRIPTS / "gpu_check.sh", "--out", tmp_path / "gpu.json", check=False)
    assert done.returncode == 1 and done.stderr.startswith("Error: --device cuda is not available")


def test_a_failed_check_is_marked(tmp_path):
    check = {"check": "one update, amp", "passed": False, "result": "loss differs by 1"}
    machine = {"gpu": "H200", "cpu": "EPYC"}
    found = {"results": [check], "machine": machine, "versions": {"torch": "2.13.0"}, "date": "2026-01-01T00:00"}
    (tmp_path / "gpu.json").write_text(json.dumps(found))
    table = load_script(SCRIPTS / "update_tables.py").gpu([tmp_path / "gpu.json"])
    assert "| one update, amp | loss differs by 1 | **failed** |" in table and "H200" in table
