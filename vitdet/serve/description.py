"""What the description of the interface (OpenAPI) says of `/predict`."""

from typing import Any

from vitdet.serve.asking import FORM, JSON, MASKS, OUTPUTS, RAW

ABOUT = "Finds objects in images. Refusals have the form {error: a sentence, status: the number}."
REFUSALS = {
    400: "the form or JSON can't be read",
    401: "the key is missing or wrong",
    408: "the request was not received in time",
    413: "too many bytes or pixels",
    415: "the content type is none of those that are taken",
    422: "no image, a damaged one, or a wrong option",
    429: "too many images are waiting; Retry-After says when to try again",
    503: "the server starts or stops; Retry-After says when to try again",
    504: "no answer in time",
}
_THRESHOLD = {
    "description": "lowest score of an object that is told, or {class: score}; the model's own by default",
    "anyOf": [
        {"type": "number", "minimum": 0, "maximum": 1},
        {"type": "object", "additionalProperties": {"type": "number", "minimum": 0, "maximum": 1}},
    ],
}
_OPTIONS: dict[str, Any] = {
    "threshold": _THRESHOLD,
    "masks": {"type": "string", "enum": list(MASKS), "default": MASKS[0], "description": "how masks are told"},
    "output": {
        "type": "string",
        "enum": list(OUTPUTS),
        "default": OUTPUTS[0],
        "description": "JSON, or the image with what was found",
    },
}
_FILE = {"type": "string", "format": "binary", "description": "the file"}
_URL = {"type": "string", "description": "its address, where the server allows addresses"}
_BOX = {"type": "array", "items": {"type": "number"}, "description": "left, top, right, bottom in pixels"}
_OBJECT = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "label": {"type": "integer", "description": "from 0"},
        "category_id": {"type": "integer", "description": "the data set's id of the class"},
        "score": {"type": "number"},
        "box": _BOX,
        "area": {"type": "number", "description": "of semantic maps: the fraction of the image, in place of a box"},
        "mask": {
            "type": "object",
            "description": "size [height, width], with counts (run lengths of COCO) or polygons [[x1, y1, …], …], "
            "to be filled by the even-odd rule",
        },
    },
}
_ANSWER = {
    "type": "object",
    "properties": {
        "model": {"type": "object", "description": "name, version (of the file's SHA-256) and vitdet"},
        "size": {"type": "object", "description": "width and height of the upright image"},
        "threshold": {"description": "that was used: a score, or one for each class"},
        "objects": {"type": "array", "items": _OBJECT},
        "timing": {
            "type": "object",
            "description": "milliseconds of each stage, and the images of the batch",
        },
    },
}
_BODY = {
    "required": True,
    "content": {
        "image/*": {"schema": _FILE},
        RAW: {"schema": _FILE},
        FORM: {"schema": {"type": "object", "properties": {"image": _FILE, "url": _URL, **_OPTIONS}}},
        JSON: {
            "schema": {
                "type": "object",
                "properties": {
                    "image": {"type": "string", "description": "the file in base64"},
                    "url": _URL,
                    **_OPTIONS,
                },
            }
        },
    },
}
# arguments of the route
PREDICT: dict[str, Any] = {
    "summary": "Find objects in an image",
    "tags": ["predict"],
    "responses": {
        200: {
            "description": "what was found",
            "content": {JSON: {"schema": _ANSWER}, "image/jpeg": {"schema": _FILE}, "image/png": {"schema": _FILE}},
        },
        **{status: {"description": text} for status, text in REFUSALS.items()},
    },
    "openapi_extra": {
        "requestBody": _BODY,
        "parameters": [
            {"name": name, "in": "query", "required": False, "schema": schema} for name, schema in _OPTIONS.items()
        ],
    },
}
# answers of the paths of health
STATES: dict[int | str, Any] = {200: {"description": "it is"}, 503: {"description": "it is not"}}
