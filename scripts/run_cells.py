"""The cells of a study side by side, each in a process with one thread; then the study itself, which finds them done.

    python scripts/run_cells.py pipelines/self_supervised.yaml --jobs 12

For machines with more cores, or a faster GPU, than one small run can use. A cell that generates its dataset should find
it there: run the study once for its dataset, or give it a `train.data`. Killed and started again it goes on.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from imagenet_sd.core.files import write_json
from imagenet_sd.core.typed import to_mapping
from imagenet_sd.study.grid import expand
from imagenet_sd.study.load import load_study
from imagenet_sd.study.runner import folder_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", type=Path)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, help="folder of the study; default: what it says")
    parser.add_argument("--set", action="append", default=[], dest="settings", metavar="A.B=C")
    args = parser.parse_args()
    study = load_study(args.study, args.settings)
    out = args.out or folder_of(study)
    cells = expand(study, str(args.study))
    (out / "runs").mkdir(parents=True, exist_ok=True)

    def run(number: int) -> int:
        """One cell as a study of its own beside the others; its runs move to those of the whole."""
        part = out / "parts" / str(number)
        part.mkdir(parents=True, exist_ok=True)
        if (out / "datasets").exists() and not (part / "datasets").exists():
            (part / "datasets").symlink_to((out / "datasets").resolve())
        write_json(part / "cell.yaml", to_mapping(replace(cells[number].study, out=str(part))))  # JSON is YAML
        started = time.monotonic()
        with open(part / "log.txt", "ab") as log:
            command = [sys.executable, "-m", "imagenet_sd", "run", str(part / "cell.yaml")]
            code = subprocess.run(
                command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=log, stderr=log, check=False
            ).returncode
        for folder in () if code else (part / "runs").iterdir():
            if not (out / "runs" / folder.name).exists():
                shutil.copytree(folder, out / "runs" / folder.name)
        print(
            f"cell {number}: exit {code} after {time.monotonic() - started:.0f} s, see {part / 'log.txt'}", flush=True
        )
        return code

    with ThreadPoolExecutor(args.jobs) as pool:
        failed = sum(code != 0 for code in pool.map(run, range(len(cells))))
    if failed:
        raise SystemExit(f"{failed} of {len(cells)} cells failed")
    command = [sys.executable, "-m", "imagenet_sd", "run", str(args.study), "--out", str(out)]
    raise SystemExit(
        subprocess.run([*command, *(x for s in args.settings for x in ("--set", s))], check=False).returncode
    )


if __name__ == "__main__":
    main()
