"""`vitdet report`: scores a model on the validation images, and writes a page that says where it fails, and why."""

from pathlib import Path
from typing import Any

from vitdet.cli import VERBS
from vitdet.command.parser import Parser
from vitdet.errors import UserError


def run(argv: list[str]) -> None:
    """Validates a model and writes the report.

    Raises:
        UserError: there is no such checkpoint, or it does not fit the data.
    """
    parser = Parser("report", VERBS["report"])
    parser.add_argument("model", help="a checkpoint of a run; or a config, with --ckpt_path CHECKPOINT")
    parser.add_argument("--data", metavar="FOLDER", help="a folder of labelled images (that of the training)")
    parser.add_argument("--output", default="report.html", help="the page (%(default)s)")
    parser.epilog = "Keys of a config change the rest, such as --data.size 512 or --trainer.accelerator cpu."
    options, rest = parser.parse_known_args(argv)
    if Path(options.output).is_dir():
        raise UserError(f"--output is {options.output}, which is a folder; wanted a file, such as report.html")
    # before the minutes of a validation
    Path(options.output).parent.mkdir(parents=True, exist_ok=True)
    from vitdet.checkpoint import Checkpoint
    from vitdet.command.run import read_command
    from vitdet.training.callbacks import Report, Thresholds

    data = ["--data", options.data] if options.data else []
    cli = read_command("report", [options.model, *data, *rest])
    if cli.ckpt_path is None and cli.model.new_classes:
        raise UserError("report needs a checkpoint: --ckpt_path runs/…/best.ckpt, or --ckpt_path last")
    page = Report(options.output, validated=True)
    if cli.ckpt_path is not None:
        page.load_state_dict(Checkpoint.read(cli.ckpt_path).callback(page.state_key) or {})
    # the thresholds are those of the checkpoint, and not chosen anew
    trainer: Any = cli.trainer
    trainer.callbacks = [*(one for one in trainer.callbacks if not isinstance(one, (Report, Thresholds))), page]
    trainer.validate(cli.model, cli.datamodule, ckpt_path=cli.ckpt_path, weights_only=True, verbose=False)
