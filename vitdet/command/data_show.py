"""`vitdet data show`: training samples as pictures, from the loader that training uses."""

import itertools
from pathlib import Path

from vitdet.command.files import ConfigError
from vitdet.command.parser import Parser


def run(argv: list[str]) -> None:
    """Draws the first training batches of `CONFIG --key value …`.

    Raises:
        UserError: the config is wrong, or gives no training data.
    """
    parser = Parser("data show", "draw training samples exactly as the model sees them, before training")
    parser.add_argument("config", help="a config, with --data.key value … as for training")
    parser.add_argument("--output", default="samples", help="the folder for the pictures (%(default)s)")
    parser.add_argument("--batches", type=int, default=2, help="how many training batches (%(default)s)")
    options, words = parser.parse_known_args(argv)
    if options.batches < 1:
        raise ConfigError(f"--batches is {options.batches}; wanted a whole number from 1")
    # these take seconds to import
    from vitdet.command.run import read_command
    from vitdet.data.samples import caption, draw_sample, file_names

    cli = read_command("show", [options.config, *words])
    task, data = cli.model, cli.datamodule
    task.use_data(data)
    print(data.describe())
    names, output = file_names(data.index("train")), Path(options.output)
    output.mkdir(parents=True, exist_ok=True)
    for batch, (images, targets) in enumerate(itertools.islice(data.train_dataloader(), options.batches)):
        print(f"batch {batch}: {len(images)} images")
        for k, (image, target) in enumerate(zip(images, targets)):
            picture = draw_sample(
                image,
                target,
                names=data.classes,
                mean=data.mean,
                std=data.std,
                outline=data.kind == "instances",
            )
            path = output / f"batch{batch}_{k:02d}_{target.image_id}.jpg"
            picture.save(path, quality=90)
            print(f"  {path}: {caption(target, names.get(target.image_id, ''))}")
