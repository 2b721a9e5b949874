"""`vitdet replay`: runs a step again whose loss or gradients were not finite, and names where it begins."""

from vitdet.cli import VERBS
from vitdet.command.parser import Parser


def run(argv: list[str]) -> None:
    """Replays the step of a folder, and prints what is not finite.

    Raises:
        UserError: the folder does not exist, or can't be used.
    """
    parser = Parser("replay", VERBS["replay"])
    parser.add_argument("folder", help="the folder `diverged` of a run, or the folder of the run")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, …; a GPU if there is one, if not given")
    options = parser.parse_args(argv)
    from vitdet.training.replay import replay

    for line in replay(options.folder, device=options.device):
        print(line, flush=True)
