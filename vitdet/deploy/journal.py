"""What a run over many images has done, in files that outlive it, so that another run can go on.

A folder inside the output folder holds, until the run is finished:

    run.json              what the run is: the model, the images, and all options that its results depend on
    0-of-2.lines          what process 0 of 2 has done: a line for each batch, its number and a JSON object
    predictions.json …    results that are being put together

A batch is done when its line ends. Files of single images are written before that, and in the same way again where a
run was stopped in between.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

from vitdet.deploy.ranks import Ranks
from vitdet.errors import UserError, short

FOLDER = ".unfinished"
RUN = "run.json"


class Journal:
    """The batches of a run that are done.

    Args:
        output: Folder of the results.
        about: What the results depend on, for `run.json`.
        ranks: This process among those that share the run.

    Attributes:
        folder: the folder of what is unfinished.
        done: for each batch that is done, the file with its line and where the line begins.

    Raises:
        UserError: the folder has an unfinished run of something else, or another process is at work on this part.
    """

    def __init__(self, output: Path, about: Mapping[str, Any], ranks: Ranks) -> None:
        self.output, self.folder, self.ranks = output, output / FOLDER, ranks
        self.done: dict[int, tuple[Path, int]] = {}
        shutil.rmtree(self._emptied, ignore_errors=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._claim(json.loads(json.dumps(about)))
        own = self.folder / f"{ranks.rank}-of-{ranks.world}.lines"
        self._lock = FileLock(f"{own}.lock", timeout=0)
        try:
            self._lock.acquire()
        except Timeout as error:
            raise UserError(
                f"another process is predicting into {output}; wait for it, or give another output"
            ) from error
        except NotImplementedError:
            # a file system without locks
            pass
        for part in sorted(self.folder.glob("*.lines")):
            end = self._read(part)
            if part == own and end < part.stat().st_size:
                # the end of a line is missing: its process was stopped
                os.truncate(part, end)
        self._own = own
        self._file: BinaryIO | None = None

    @property
    def _emptied(self) -> Path:
        return self.output / f"{FOLDER}-done"

    def _claim(self, about: dict[str, Any]) -> None:
        """Writes `run.json`, or compares it with what is there."""
        path, draft = self.folder / RUN, self.folder / f"{RUN}.{self.ranks.rank}.{os.getpid()}"
        draft.write_text(json.dumps(about, indent=1), encoding="utf-8")
        try:
            # unlike a renaming, never replaces what another process has written
            os.link(draft, path)
        except FileExistsError:
            pass
        except OSError:
            if not path.exists():
                os.replace(draft, path)
        draft.unlink(missing_ok=True)
        known = json.loads(path.read_text(encoding="utf-8"))
        if known != about:
            keys = [key for key in {**known, **about} if known.get(key) != about.get(key)]
            was, now = short(known.get(keys[0]), 120), short(about.get(keys[0]), 120)
            raise UserError(
                f"{self.output} holds an unfinished run with {keys[0]} {was}, and this one has {now}: repeat that run "
                f"to go on with it, give another output, or delete {self.folder} to begin anew"
            )

    def _read(self, part: Path) -> int:
        """Takes note of the batches in a file, and returns where its last whole line ends."""
        end = 0
        with open(part, "rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self.done.setdefault(int(line[: line.index(b" ")]), (part, end))
                end += len(line)
        return end

    def add(self, batch: int, record: Mapping[str, Any]) -> None:
        """Says that a batch is done.

        Args:
            batch: its number.
            record: what the end of the run needs of it.
        """
        if self._file is None:
            self._file = open(self._own, "ab")  # noqa: SIM115
        self.done[batch] = (self._own, self._file.tell())
        self._file.write(f"{batch} {json.dumps(record)}\n".encode())
        self._file.flush()

    def records(self, batches: int) -> Iterator[dict[str, Any]]:
        """What was added of each batch, in their order."""
        files: dict[Path, BinaryIO] = {}
        try:
            for batch in range(batches):
                path, start = self.done[batch]
                if path not in files:
                    files[path] = open(path, "rb")  # noqa: SIM115
                files[path].seek(start)
                yield json.loads(files[path].readline().partition(b" ")[2])
        finally:
            for file in files.values():
                file.close()

    def close(self) -> None:
        """Lets go of this process's part, which stays for another run."""
        if self._file is not None:
            self._file.close()
        self._lock.release()

    def finish(self, batches: int, write: Any) -> bool:
        """Puts the results together, if all batches are done and no other process has done it.

        Args:
            batches: their number.
            write: a function that is called with this journal; it writes into `folder` and returns the files to be put
                into the output folder.

        Returns:
            Whether this process did it.
        """
        self.close()
        lock = FileLock(f"{self.folder}.lock")
        with lock:
            try:
                if not (self.folder / RUN).exists():
                    return False
                for part in sorted(self.folder.glob("*.lines")):
                    self._read(part)
                if any(batch not in self.done for batch in range(batches)):
                    return False
                for path in write(self):
                    os.replace(path, self.output / path.relative_to(self.folder))
                self.folder.rename(self._emptied)
                shutil.rmtree(self._emptied, ignore_errors=True)
                return True
            finally:
                Path(lock.lock_file).unlink(missing_ok=True)
