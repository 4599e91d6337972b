"""The programs that put a file together from chunks: desync or casync, whichever the system has."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from appliance_update.seeds import NotExposed, Seed

DEADLINE = 3600.0
TOUCHED = "Stale file handle"
"""What casync says when the time of a seed's node changed while it read: udev touches nodes at every event."""


class ToolFailed(RuntimeError):
    """The program did not put the file together; the message is the end of what it said."""


@dataclass(frozen=True)
class ChunkTool:
    """desync or casync at `program`."""

    program: str

    @property
    def name(self) -> str:
        """`desync` or `casync`."""
        return Path(self.program).name

    def extract(self, index: Path, store: Path, seeds: Sequence[Seed], target: Path) -> None:
        """Make `target` of what `index` names, from the local store and the seeds. Raises `ToolFailed`, `OSError`."""
        with ExitStack() as stack:
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="seeds-", dir=store)))
            try:
                exposed = [(seed, stack.enter_context(seed.exposed())) for seed in seeds]
            except NotExposed as error:
                raise ToolFailed(str(error)) from error
            call = self._desync(scratch, exposed) if self.name == "desync" else self._casync(exposed)
            call += [f"--store={store}", str(index), str(target)]
            try:
                self._run(call, scratch)
            except ToolFailed as error:
                if TOUCHED not in str(error):
                    raise
                target.unlink(missing_ok=True)
                self._run(call, scratch)  # the events are over; the whole artifact would cost far more

    def _desync(self, scratch: Path, exposed: Sequence[tuple[Seed, Path]]) -> list[str]:
        """A seed of desync's is an index beside its content of the same name."""
        arguments = []
        for number, (seed, content) in enumerate(exposed):
            blob = scratch / f"seed-{number}"
            blob.symlink_to(content)
            shutil.copyfile(seed.index_file, blob.with_suffix(".caibx"))
            arguments.append(f"--seed={blob.with_suffix('.caibx')}")
        # What is wrong in a seed was seen before and is in the store; desync need not stop at it.
        return [self.program, "extract", "--regenerate-invalid-seeds", "--concurrency=2", *arguments]

    def _casync(self, exposed: Sequence[tuple[Seed, Path]]) -> list[str]:
        """casync cuts its seeds into chunks itself."""
        return [self.program, "extract", "--seed-output=no", *(f"--seed={content}" for _, content in exposed)]

    def _run(self, call: list[str], scratch: Path) -> None:
        environment = {"PATH": os.environ.get("PATH", ""), "HOME": str(scratch), "TMPDIR": str(scratch)}
        try:
            done = subprocess.run(
                call, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=DEADLINE,
                check=False, env=environment,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise ToolFailed(f"{self.name} did not end in {DEADLINE:.0f} s") from error
        if done.returncode:
            said = (done.stderr or done.stdout).strip()
            raise ToolFailed(f"{self.name} failed ({done.returncode}): {said[-300:]}")


def find_tool(names: Sequence[str] = ("desync", "casync")) -> ChunkTool | None:
    """The first of these programs that is there."""
    for name in names:
        with contextlib.suppress(OSError):
            if program := shutil.which(name):
                return ChunkTool(program)
    return None
