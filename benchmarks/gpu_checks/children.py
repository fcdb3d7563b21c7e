"""Processes of their own: started, spoken to in lines, and never left behind."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from gpu_checks.check import Setting

TORCHRUN = "-m torch.distributed.run --standalone --nproc-per-node 1".split()
_FOLDER = Path(__file__).resolve().parent.parent


class Child:
    """The module `child` with arguments, as a context manager: it waits for the end; an error kills what still runs.

    Args:
        setting: where; without a GPU it has one thread.
        arguments: of the module.
        launcher: arguments of Python before the module.

    Raises:
        RuntimeError: at the end, when the process did not end well.
    """

    def __init__(self, setting: Setting, *arguments: object, launcher: tuple[str, ...] = ()):
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(filter(None, [str(_FOLDER), os.environ.get("PYTHONPATH")]))
        }
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
        try:
            if kind is None and self.process.wait():
                raise RuntimeError(self._last_words())
        finally:
            self._end()

    def _end(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()  # torchrun ends its own processes
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            self.process.communicate(timeout=5)
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
        raise RuntimeError(self._last_words())

    def _last_words(self) -> str:
        code = self.process.wait()
        self._log.seek(0)
        lines = self._log.read().strip().splitlines()
        return f"a process ended with {code}: {lines[-1] if lines else 'no message'}"
