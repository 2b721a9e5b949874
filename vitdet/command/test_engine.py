"""`vitdet test … --engine FILE`: scores an exported model in its engine."""

import argparse
from pathlib import Path

from vitdet.command.parser import Parser

TEXT = "[CONFIG|CHECKPOINT] --engine FILE [--data FOLDER | --data.key value …]: score an exported model in its engine"


def run(argv: list[str]) -> None:
    """Scores an exported model on its own data, or those that are given, and writes the predictions beside it.

    Raises:
        UserError: the model or the data can't be used, or do not fit each other.
    """
    parser = Parser("test", TEXT)
    parser.add_argument("--engine", required=True, help="a file of vitdet export: model.onnx, model.xml or model.pt2")
    add_options(parser)
    parser.add_argument("--images", type=int, help="score only about so many images")
    # argparse would take the value of an unknown key for an optional config
    config = argv[0] if argv and not argv[0].startswith("-") else None
    options, words = parser.parse_known_args(argv if config is None else argv[1:])
    # these take seconds to import
    from vitdet.command.data_only import read_data
    from vitdet.deploy.engines import EngineDetector
    from vitdet.deploy.score import score
    from vitdet.metrics import print_scores

    choice = {"device": options.device, "engine": options.runtime, "threads": options.threads}
    detector = EngineDetector(options.engine, **choice)
    data = read_data("test", words, config=config, saved=detector.data, name=options.engine)
    found = score(detector, data, images=options.images)
    print("\n".join([data.describe(), *data.files.summary()]))
    print_scores(found.values, found.protocol)
    print(f"{found.images} images in {found.seconds:.1f} s, without reading and scoring them")
    if found.metric.saves:
        path = Path(options.engine).with_suffix(".predictions.json")
        found.metric.save(path)
        print(f"predictions, in the data set's own ids: {path}")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of engines to those of a verb."""
    parser.add_argument("--device", help="a device of the engine: cpu, cuda, gpu, …; the best there is, if not given")
    parser.add_argument("--runtime", choices=["onnxruntime", "openvino"], help="what runs an ONNX file (onnxruntime)")
    parser.add_argument("--threads", type=int, help="threads of the engine; one for each core, if not given")
