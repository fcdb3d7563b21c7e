"""Processes of their own: started, spoken to in lines, and never left behind."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType

from gpu_checks.check import Setting

TORCHRUN = "-m torch.distributed.run --standalone --nproc-per-node 1".split()
_FOLDER = Path(__file__).resolve().parent.parent


class Child:
    """The module `child` with arguments, as a context manager; what still runs at the end is killed.

    Args:
        setting: where; without a GPU it has one thread.
        arguments: of the module.
        launcher: arguments of Python before the module.
    """

    def __init__(self, setting: Setting, *arguments: object, launcher: tuple[str, ...] = ()):
        environment = os.environ | {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}  # products whose bits are the same each time
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_FOLDER), os.environ.get("PYTHONPATH")]))
        if not setting.on_gpu:
            environment |= {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}
        command = [sys.executable, *launcher, "-m", "gpu_checks.child", *map(str, arguments)]
        self._log = open(setting.folder / f"child-{id(self)}.log", "w+")  # noqa: SIM115  # closed with the process
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True, env=environment,
            start_new_session=True,
        )  # fmt: skip

    def __enter__(self) -> "Child":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.terminate()  # torchrun ends its own processes
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()
        self._log.close()

    def say(self, line: str) -> None:
        """Send a line."""
        assert self.process.stdin is not None
        print(line, file=self.process.stdin, flush=True)

    def expect(self, word: str) -> str:
        """Wait for a line that starts with a word, and return what follows it.

        Raises:
            RuntimeError: the process ended before; with the last line that it wrote.
        """
        assert self.process.stdout is not None
        for line in self.process.stdout:
            first, _, rest = line.strip().partition(" ")
            if first == word:
                return rest
        self._log.seek(0)
        lines = self._log.read().strip().splitlines()
        raise RuntimeError(f"a process ended with {self.process.wait()}: {lines[-1] if lines else 'no message'}")
