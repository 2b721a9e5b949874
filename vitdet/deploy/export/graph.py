"""The model as one dense graph: images of equal size in, decoded outputs out. Batch, height and width are dynamic.

B images, H×W their size in pixels, D detections, Q queries, K classes, h×w a map of a stride that the metadata names

Inputs
    images   `(B, 3, H, W)` float32, normalised by mean and std; or, with pre-processing inside, `(B, H, W, 3)` uint8 RGB

Outputs, by the kind of head (`decode` in the metadata)
    detections (DETRHead, PlainDETRHead, DEIMHead), best score first
        boxes    `(B, D, 4)` float32, corners x1, y1, x2, y2 in pixels of the input image, inside of it
        scores   `(B, D)` float32 in [0, 1]
        labels   `(B, D)` int64, classes 0..K-1
        masks    `(B, D, h, w)` float32, the logits of the masks, if the head has masks
    queries (MaskDecoderHead, EoMTHead)
        scores   `(B, Q, K)` float32 in [0, 1], of each class and query
        masks    `(B, Q, h, w)` float32, the logits of the queries' masks
    pixels (SemanticHead)
        logits   `(B, K, h, w)` float32

`finish` of `vitdet.deploy.export.finish` turns these outputs into the predictions that PyTorch's model makes: it brings
masks and maps to the size of the original image, and combines queries to instances, a semantic map or segments, with
the functions of `vitdet.heads.masks`.

Metadata: a JSON object under the key `vitdet`
    format          1
    version         the version of vitdet that wrote the graph
    kind            `boxes`, `masks`, `semantic` or `panoptic`: what is predicted and scored
    classes         names, indexed by label
    category_ids    the data set's ids of the classes, indexed by label
    eval_transform  the arguments of `EvalTransform`
    preprocessing   whether the graph takes uint8 RGB images, and normalises them itself
    thresholds      K scores, see `Detector.thresholds`
    decode          what `finish` needs: `head` (`detections`, `queries` or `pixels`), `stride` of masks and maps in
                    pixels, and, for queries and pixels, `task`, `things`, `rules` and `tile`
"""
