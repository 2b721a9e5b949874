"""`vitdet push`: uploads a model to the Hugging Face hub."""

import tempfile
from pathlib import Path

from vitdet.cli import VERBS
from vitdet.command.card_options import add_options, of_card
from vitdet.command.parser import Parser


def run(argv: list[str]) -> None:
    parser = Parser("push", VERBS["push"])
    parser.add_argument("model", help="a folder of `vitdet export --format safetensors`, or a checkpoint")
    parser.add_argument("name", help="the repository of the hub, user/name")
    parser.add_argument("--public", action="store_true", help="everybody may read a repository that is created")
    parser.add_argument("--revision", help="the branch to upload to; by default main")
    add_options(parser)
    options = parser.parse_args(argv)
    from vitdet.model_folder import is_shared, split_name
    from vitdet.share import push_to_hub, save

    split_name(f"hf://{options.name.removeprefix('hf://')}")
    with tempfile.TemporaryDirectory() as work:
        folder = options.model
        if not is_shared(folder):
            folder = Path(work, options.name.rpartition("/")[2])
            for line in save(options.model, folder, **of_card(options)).lines:
                print(line.replace(f"{folder}: ", ""))
        address = push_to_hub(folder, options.name, private=not options.public, revision=options.revision)
    who = "everybody may read it" if options.public else "a new repository is private; --public makes it public"
    print(f"uploaded: {address} ({who})\nnext: vitdet predict hf://{options.name.removeprefix('hf://')} IMAGE")
