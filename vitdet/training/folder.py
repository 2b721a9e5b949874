"""The run folder, `root/name/version_N`: how it is chosen and recognised, and the loggers that write to it."""

from pathlib import Path

from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from vitdet.errors import UserError

# a folder that holds any of these files is a run folder
SIGNS = ("config.yaml", "metrics.csv", "best.ckpt", "last.ckpt")


def runs(root: str | Path, name: str) -> list[Path]:
    """Returns the run folders of `name`, oldest first."""
    folders = [f for f in (Path(root) / name).glob("version_*") if f.name.removeprefix("version_").isdigit()]
    return sorted(folders, key=lambda f: int(f.name.removeprefix("version_")))


def reserve(root: str | Path, name: str) -> Path:
    """Creates `root/name/version_N` with the next free N. Concurrent processes get different folders."""
    taken = runs(root, name)
    number = int(taken[-1].name.removeprefix("version_")) + 1 if taken else 0
    (Path(root) / name).mkdir(parents=True, exist_ok=True)
    while True:
        folder = Path(root) / name / f"version_{number}"
        try:
            folder.mkdir()
        except FileExistsError:
            # another process has just taken this number
            number += 1
        else:
            return folder


def is_run(folder: Path) -> bool:
    """Whether a folder is a run folder, judged by its files, not by its name or place."""
    return any((folder / sign).is_file() for sign in SIGNS)


def check_free(folder: Path, *, start: Path | None) -> None:
    """Checks that a training which starts from checkpoint `start`, or from none, may write to the folder.

    Raises:
        UserError: the folder holds checkpoints of another training, and `start` is not among them.
    """
    held = sorted(path.name for path in folder.glob("*.ckpt"))
    if held and (start is None or start.resolve().parent != folder.resolve()):
        checkpoint = folder / ("last.ckpt" if "last.ckpt" in held else held[0])
        raise UserError(
            f"{folder} holds {' and '.join(held[:3])} of an earlier training, which this one would replace; "
            f"go on with that (ckpt_path {checkpoint}), or leave trainer.version out for a folder of its own"
        )


def find(word: str, folders: list[Path], place: Path) -> Path:
    """Returns the checkpoint that `last` or `best` refers to: the file of that name in the newest of `folders`.

    Raises:
        UserError: no folder holds such a file.
    """
    found = [folder / f"{word}.ckpt" for folder in folders if (folder / f"{word}.ckpt").is_file()]
    if not found:
        raise UserError(f"there is no {word}.ckpt under {place}; train without --ckpt_path first, or name the file")
    return found[-1]


class TensorBoard(TensorBoardLogger):
    """Lightning's TensorBoard logger, which writes no `hparams.yaml` here if there are no hyperparameters."""

    def save(self) -> None:
        if self.hparams:
            super().save()
        else:
            super(TensorBoardLogger, self).save()


def make_loggers(folder: Path) -> list[Logger]:
    """Creates the loggers for TensorBoard and CSV, which write to `folder`.

    The `metrics.csv` of a resumed run is renamed to `metrics_0.csv`, then `metrics_1.csv`, …
    """
    earlier = folder / "metrics.csv"
    # the CSV logger would delete the file
    if earlier.exists():
        earlier.rename(folder / f"metrics_{len(list(folder.glob('metrics_*.csv')))}.csv")
    return [TensorBoard(folder, name="", version=""), CSVLogger(folder, name="", version="")]
