"""The long run: each format in a process of its own, so that a crash of a library is a finding and not the end.

    python -m tests.fuzz [--inputs 10000] [--first 0] [--keep FOLDER] [FORMAT ...]

Prints a row for each format; the files of findings are kept in FOLDER.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from tests.fuzz.formats import FORMATS
from tests.fuzz.run import Outcome, fuzz


def main() -> int:
    """Run the formats one after the other; 1 when anything was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("formats", nargs="*", help="names of formats; none: all")
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir()) / "fuzz-findings")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.keep.mkdir(parents=True, exist_ok=True)
    numbers = range(arguments.first, arguments.first + arguments.inputs)
    if arguments.child:
        (name,) = arguments.formats
        with tempfile.TemporaryDirectory() as folder:
            print("outcome", json.dumps(asdict(fuzz(name, FORMATS[name], Path(folder) / "f", numbers, arguments.keep))))
        return 0
    found = 0
    print(
        "| format | inputs | read | refused | findings | time | slowest | memory |\n|---|---|---|---|---|---|---|---|"
    )
    for name in arguments.formats or FORMATS:
        options = ["--inputs", str(arguments.inputs), "--first", str(arguments.first), "--keep", str(arguments.keep)]
        command = [sys.executable, "-W", "ignore", "-m", "tests.fuzz", name, "--child", *options]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        told = [line for line in done.stdout.splitlines() if line.startswith("outcome ")]
        outcome = Outcome(**json.loads(told[-1].removeprefix("outcome "))) if told else Outcome(name=name)
        if not told:
            at = arguments.keep / f"{name}.at"
            number = int(at.read_text()) if at.exists() else -1
            outcome.findings = {f"the process ended with {done.returncode}": [number]}
            print(done.stderr[-2000:], file=sys.stderr)
        found += len(outcome.findings)
        print(outcome.line(), flush=True)
    return int(found > 0)


if __name__ == "__main__":
    sys.exit(main())
