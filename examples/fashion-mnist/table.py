"""Collect the runs of table.sh as JSON.

python examples/fashion-mnist/table.py OUT > docs/measured/fashion-mnist.json
"""

import json
import re
import sys
from pathlib import Path

from fairseq_resmlp.common.environment import environment_info


def main(out: Path) -> None:
    rows: dict[str, dict] = {}
    for run in sorted(out.glob("*-*/test.log")):
        name, _, seed = run.parent.name.rpartition("-")
        log = (run.parent / "train.log").read_text(encoding="utf-8")
        user, system = (run.parent / "seconds").read_text().split()[-2:]
        options = (run.parent / "options").read_text().replace(f"{out}/", "OUT/").split()
        row = rows.setdefault(name, {"name": name, "runs": []})
        row["options"] = " ".join(options).replace(f" --seed {seed}", "")
        row["parameters"] = int(re.search(r"num\. shared model params: ([\d,]+)", log)[1].replace(",", ""))
        row["runs"].append(
            {
                "seed": int(seed),
                "accuracy": float(re.findall(r"accuracy ([\d.]+)", run.read_text(encoding="utf-8"))[-1]),
                "cpu_seconds": round(float(user) + float(system)),
            }
        )
    environment = environment_info(["torch", "fairseq"])
    del environment["command"]  # with paths of this machine
    print(json.dumps({"rows": list(rows.values()), **environment}, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
