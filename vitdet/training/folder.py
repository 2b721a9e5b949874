"""The folder of a run, `root/name/version_N`: who gets which, what is in it, and the loggers that write there."""

from pathlib import Path

from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from vitdet.errors import UserError

SIGNS = ("config.yaml", "metrics.csv", "best.ckpt", "last.ckpt")  # a folder with one of them is that of a run


def runs(root: str | Path, name: str) -> list[Path]:
    """The run folders of `name`, oldest first."""
    folders = [f for f in (Path(root) / name).glob("version_*") if f.name.removeprefix("version_").isdigit()]
    return sorted(folders, key=lambda f: int(f.name.removeprefix("version_")))


def reserve(root: str | Path, name: str) -> Path:
    """Makes `root/name/version_N` with the next free N. Of two that ask at once, each gets a folder of its own."""
    taken = runs(root, name)
    number = int(taken[-1].name.removeprefix("version_")) + 1 if taken else 0
    (Path(root) / name).mkdir(parents=True, exist_ok=True)
    while True:
        folder = Path(root) / name / f"version_{number}"
        try:
            folder.mkdir()
        except FileExistsError:  # somebody was faster
            number += 1
        else:
            return folder


def is_run(folder: Path) -> bool:
    """Whether it is the folder of a run, whatever it is called and wherever it lies."""
    return any((folder / sign).is_file() for sign in SIGNS)


def check_free(folder: Path, *, start: Path | None) -> None:
    """Raises:
    UserError: the folder holds checkpoints, and a training that is to go there does not go on from one of them (`start`).
    """
    held = sorted(path.name for path in folder.glob("*.ckpt"))
    if held and (start is None or start.resolve().parent != folder.resolve()):
        own = folder / ("last.ckpt" if "last.ckpt" in held else held[0])
        raise UserError(
            f"{folder} holds {' and '.join(held[:3])} of an earlier training, which this one would replace; go on with that (ckpt_path {own}), "
            "or leave trainer.version out for a folder of its own"
        )


def find(word: str, folders: list[Path], place: Path) -> Path:
    """What `last` or `best` means: the file of that name in the newest of `folders`.

    Raises:
        UserError: none has it.
    """
    found = [folder / f"{word}.ckpt" for folder in folders if (folder / f"{word}.ckpt").is_file()]
    if not found:
        raise UserError(f"there is no {word}.ckpt under {place}; train without --ckpt_path first, or name the file")
    return found[-1]


class TensorBoard(TensorBoardLogger):
    """Lightning's, which writes an `hparams.yaml` even where there are no hyperparameters."""

    def save(self) -> None:
        if self.hparams:
            super().save()
        else:
            super(TensorBoardLogger, self).save()


def make_loggers(folder: Path) -> list[Logger]:
    """TensorBoard's and CSV's, writing to `folder`; the `metrics.csv` of a run that goes on becomes `metrics_0.csv`, then `metrics_1.csv`, …"""
    earlier = folder / "metrics.csv"
    if earlier.exists():  # the logger would delete it
        earlier.rename(folder / f"metrics_{len(list(folder.glob('metrics_*.csv')))}.csv")
    place = {"name": "", "version": ""}
    return [TensorBoard(folder, **place), CSVLogger(folder, **place)]
