"""Which of several processes this one is, under torchrun, SLURM, or as the environment says."""

import itertools
import os
import time
import uuid
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

from vitdet.errors import UserError

# the seconds that processes may start after the first of them
PATIENCE = 600.0
_calls = itertools.count()


class Ranks(NamedTuple):
    """A process among those that share the work.

    Attributes:
        rank: its number, from 0.
        world: the number of processes.
        local: its number on this machine, from 0.
        run: what all processes of this start share and those of another don't; `None` where nothing tells.
    """

    rank: int = 0
    world: int = 1
    local: int = 0
    run: str | None = None

    @classmethod
    def find(cls) -> "Ranks":
        """Reads `RANK` and `WORLD_SIZE`, as torchrun sets them, or `SLURM_PROCID` and `SLURM_NTASKS` of a SLURM step.

        Raises:
            UserError: they are no numbers, or the rank is none of this many.
        """
        names = [("RANK", "WORLD_SIZE", "LOCAL_RANK"), ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID")]
        env = os.environ
        found = next((names for names in names if names[0] in env and names[1] in env), None)
        # the script of a batch job has a number, too, though there is only one of it; what srun starts is a step
        alone = "RANK" not in env and "SLURM_JOB_ID" in env and "SLURM_STEP_ID" not in env
        if found is None or (found[0].startswith("SLURM") and alone):
            return cls()
        values = [env.get(name, "0") for name in found]
        said = ", ".join(f"{name}={value}" for name, value in zip(found, values))
        if not all(value.isdigit() for value in values) or int(values[0]) >= int(values[1]):
            raise UserError(
                f"the environment has {said}; wanted the number of a process, from 0, and how many there are"
            )
        rank, world, local = map(int, values)
        run = None
        if found[0].startswith("SLURM") and "SLURM_JOB_ID" in env:
            parts = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")
            run = "-".join(["slurm", *(env.get(name, "0") for name in parts), str(next(_calls))])
        elif world > 1 and "MASTER_ADDR" in env and "MASTER_PORT" in env:
            run = _agree(rank, world)
        return cls(rank, world, local, run)

    def wait(self, folder: Path, *, patience: float = PATIENCE) -> None:
        """Waits until all processes of this start have come, so that none finishes before another has begun.

        Args:
            folder: a folder that all of them see.
            patience: the seconds to wait.

        Raises:
            UserError: some have not come.
        """
        if self.world == 1 or self.run is None:
            return
        (folder / f"{self.run}.{self.rank}.here").touch()
        end = time.monotonic() + patience
        while (here := len(list(folder.glob(f"{self.run}.*.here")))) < self.world:
            if time.monotonic() > end:
                raise UserError(
                    f"only {here} of {self.world} processes came to {folder} within {patience:g} s; start all of them "
                    "on machines that share this folder, or a single one without RANK and SLURM_PROCID"
                )
            time.sleep(0.05)


def _agree(rank: int, world: int) -> str:
    """A name that all processes of this start get from the first."""
    from torch.distributed.rendezvous import rendezvous

    store, _, _ = next(iter(rendezvous("env://", rank, world, timeout=timedelta(seconds=PATIENCE))))
    # a restart by torchrun keeps what is in the store
    key = f"vitdet/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{next(_calls)}"
    if rank == 0:
        store.set(key, uuid.uuid4().hex)
    name = store.get(key).decode()
    # the first process holds the store, and must not leave before all have read it
    store.set(f"{key}/{rank}", "read")
    store.wait([f"{key}/{other}" for other in range(world)])
    return name
