"""MATLAB files, read in a process of its own: scipy's reader can crash on damaged ones, and take the program with it.

Run as a program it prints the values of the file that it is given as JSON.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

_SECONDS, _BYTES = 120, 2 << 30


def read_mat(path: Path) -> dict[str, Any]:
    """The variables of a MATLAB file: lists of numbers and texts, and for structures a list for each field.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged; the message is one line.
    """
    if not path.is_file():
        raise FileNotFoundError(2, "missing", str(path))
    command = [sys.executable, "-W", "ignore", "-m", "imagenet_sd.data.matfile", str(path)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise ValueError(f"it was not read within {_SECONDS} seconds") from None
    return parse_output(done.returncode, done.stdout)


def parse_output(code: int, output: bytes) -> dict[str, Any]:
    """What the process said.

    Raises:
        ValueError: it found the file damaged, or crashed.
    """
    if code:
        said = output.decode(errors="replace").split("\n")[0] if code == 1 else "the reader crashed"
        raise ValueError(said[:200] or "it cannot be read")
    return json.loads(output)


def mat_json(path: str) -> str:
    """The variables as JSON."""
    import numpy as np
    from scipy.io import loadmat

    def plain(value: Any) -> Any:
        value = np.atleast_1d(value)
        if value.dtype.names:
            return {name: plain(value[name]) for name in value.dtype.names}
        return [item if isinstance(item, str | int | float) else str(item) for item in value.ravel().tolist()]

    content = loadmat(path, squeeze_me=True)
    return json.dumps({key: plain(value) for key, value in content.items() if not key.startswith("__")})


def _main() -> int:
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (_BYTES, _BYTES))
    try:
        print(mat_json(sys.argv[1]))
        return 0
    except Exception as error:  # scipy raises many kinds on damaged files; they all mean one thing here
        print(" ".join(str(error).split()))
        return 1


if __name__ == "__main__":
    sys.exit(_main())
