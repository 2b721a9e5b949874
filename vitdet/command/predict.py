"""`vitdet predict`: its options, and which function runs it."""

import os
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any

from vitdet.cli import VERBS
from vitdet.command.parser import Parser
from vitdet.errors import UserError


def parser() -> Parser:
    """The options of the verb; those that are given are the arguments of `predict_files`."""
    parser = Parser("predict", VERBS["predict"])
    parser.add_argument("checkpoint", help="a checkpoint of a run, or the name of a published model")
    parser.add_argument(
        "images",
        nargs="+",
        metavar="image",
        help="image files, folders, globs, URLs, or - for standard input; video files, streams (rtsp://…), or 0, 1, … "
        "for a camera",
    )
    parser.add_argument(
        "--output", default="predictions", help="folder for drawings and predictions.json (%(default)s)"
    )
    parser.add_argument(
        "--format",
        dest="formats",
        type=lambda text: [name for name in text.split(",") if name],
        help="coco, yolo, labelme, labelstudio, csv or crops; several with commas between (coco)",
    )
    parser.add_argument("--no_drawings", dest="drawings", action="store_false", help="don't draw on the images")
    known = "those that were chosen on validation data, by class, else 0.3"
    parser.add_argument("--threshold", type=float, help=f"draw and count what scores at least this ({known})")
    parser.add_argument("--annotations", help="a COCO file whose images these are: the results then have its image ids")
    parser.add_argument("--batch_size", type=int, default=8, help="images at a time (%(default)s)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, …; the best there is, if not given")
    parser.add_argument(
        "--tile", type=int, help="see images larger than this in overlapping tiles of this side, in pixels"
    )
    parser.add_argument("--overlap", type=float, help="… which overlap by at least this share of the side (0.2)")
    parser.add_argument("--whole", action="store_true", default=None, help="… and see the whole image, too")
    parser.add_argument("--every", type=int, help="of a video, see one of so many frames (1)")
    parser.add_argument(
        "--track",
        nargs="?",
        const="bytetrack",
        choices=["bytetrack", "ocsort", "sort"],
        help="number the objects of a video (bytetrack)",
    )
    return parser


def run(argv: list[str]) -> None:
    """Runs the verb; the exit status is 1 where nothing could be read."""
    options = {key: value for key, value in vars(parser().parse_args(argv)).items() if value is not None}
    tiling = {key: options.pop(key) for key in ("tile", "overlap", "whole") if key in options}
    if tiling and "tile" not in tiling:
        raise UserError(f"--{min(tiling)} is about tiles; give their side, such as --tile 640")
    of_videos = {key: options.pop(key) for key in ("every", "track") if key in options}
    from vitdet.deploy.frames import divide

    videos, options["images"] = divide(options["images"])
    if of_videos and not videos:
        raise UserError(f"--{min(of_videos)} is about videos, and none is given; give a video file, or a camera as 0")
    read = _videos(videos, options, tiling, of_videos) if videos else 0
    if options["images"]:
        from vitdet.deploy import predict_files

        done = predict_files(**options, tiling=tiling or None)
        read += done.read or not done.unreadable
    if not read:
        # what could not be read has been said
        raise SystemExit(1)


def _videos(
    videos: Sequence[str], options: Mapping[str, Any], tiling: Mapping[str, Any], of_videos: Mapping[str, Any]
) -> int:
    """Predicts on videos, of which each process has its share, and returns how many could be read."""
    from vitdet.deploy.files import _device
    from vitdet.deploy.predict import load
    from vitdet.deploy.ranks import Ranks
    from vitdet.deploy.tiles import TiledDetector
    from vitdet.deploy.video import predict_video, stem

    if unused := sorted({"annotations", "formats"} & options.keys()):
        words = " and ".join({"annotations": "--annotations", "formats": "--format"}[key] for key in unused)
        print(f"{words}: about images alone, a video has a file NAME.jsonl")
    names: dict[str, None] = {}
    for name in map(stem, videos):
        # videos of the same name in several folders
        tried = (f"{name}-{i}" if i > 1 else name for i in count(1))
        names[next(one for one in tried if one not in names)] = None
    made = {os.path.realpath(os.path.join(options["output"], f"{name}.mp4")) for name in names}
    if lost := [video for video in videos if os.path.realpath(video) in made]:
        raise UserError(f"a result would overwrite the video {lost[0]}; give another output folder")
    ranks = Ranks.find()
    mine = list(zip(videos, names))[ranks.rank :: ranks.world]
    if not mine:
        # there are more processes than videos
        return 1
    detector = load(options["checkpoint"], device=_device(options["checkpoint"], options.get("device"), ranks))
    detector = TiledDetector(detector, **tiling) if tiling else detector
    kept = {key: options[key] for key in ("output", "drawings", "threshold", "batch_size") if key in options}
    read = 0
    for video, name in mine:
        try:
            read += predict_video(detector, video, name=name, **kept, **of_videos).frames > 0
        except UserError as error:
            if len(videos) == 1:
                raise
            print(f"left out: {error}")
    return read
