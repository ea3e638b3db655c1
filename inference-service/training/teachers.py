"""The third-party models that teach ours, run by ONNX Runtime.

YuNet (Apache-2.0) teaches the detector, dlib's gender classifier (CC0) the gender network. Their
weights are read from the models folder and never copied: ours start from random numbers and learn
from what the teachers say.
"""

from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime

from detector import STRIDES, decode_level, suppress

EMPTY = np.zeros((0, 15), np.float32)


def session(model, threads=1):
    """A session with a fixed number of threads, for a file or a model in memory."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    source = model.SerializeToString() if isinstance(model, onnx.ModelProto) else str(model)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


class YuNet:
    """The detection teacher: dense maps for training, decoded faces for labels and comparison."""

    def __init__(self, path, features=False):
        model = onnx.load(str(path))
        self.outputs = [f"{kind}_{s}" for kind in ("cls", "obj", "bbox", "kps") for s in STRIDES]
        if features:
            names = [head_input(model.graph, f"cls_{s}") for s in STRIDES]
            for name in names:
                model.graph.output.append(onnx.ValueInfoProto(name=name))
            self.outputs += names
        self.session = session(model)

    def dense(self, pictures):
        """N x H x W x 3 BGR bytes to, per stride, (score, box, landmarks) each N x cells x c; then features."""
        batch = np.ascontiguousarray(pictures.transpose(0, 3, 1, 2)).astype(np.float32)
        found = self.session.run(self.outputs, {"input": batch})
        levels = []
        for i in range(3):
            score = np.sqrt(np.clip(found[i][..., 0] * found[3 + i][..., 0], 0, 1))
            levels.append((score, found[6 + i], found[9 + i]))
        return levels, found[12:]

    def detect(self, picture, threshold=0.6, overlap=0.45):
        """Faces of one BGR picture of any size, in its own pixels: (score, x, y, w, h, landmarks)."""
        padded = pad32(picture)
        height, width = padded.shape[:2]
        levels, _ = self.dense(padded[None])
        found = [
            decode_level(s[0], b[0], k[0], stride, height, width, threshold)
            for stride, (s, b, k) in zip(STRIDES, levels)
        ]
        return suppress(np.concatenate(found), overlap)


def head_input(graph, output):
    """The name of the map that the head convolutions of `output` read."""
    producer = {name: node for node in graph.node for name in node.output}
    name, convolutions = output, 0
    while convolutions < 2:
        convolutions += producer[name].op_type == "Conv"
        name = producer[name].input[0]
    return name


def pad32(picture):
    """The picture on black, its sides raised to multiples of 32 to the right and below."""
    height, width = picture.shape[:2]
    return cv2.copyMakeBorder(picture, 0, -height % 32, 0, -width % 32, cv2.BORDER_CONSTANT)


def shrink(picture, max_side):
    """The picture with its longer side at most `max_side`, and the factor applied."""
    factor = min(1.0, max_side / max(picture.shape[:2]))
    if factor == 1.0:
        return picture, 1.0
    size = [max(1, round(side * factor)) for side in picture.shape[1::-1]]
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA), factor


def detect_at_scales(teacher, picture, scales, threshold):
    """Faces that the teacher finds in any of several sizes of a picture, merged."""
    found = [EMPTY]
    for scale in scales:
        size = [max(32, round(side * scale)) for side in picture.shape[1::-1]]
        method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        resized = picture if scale == 1 else cv2.resize(picture, size, interpolation=method)
        faces = teacher.detect(resized, threshold)
        faces[:, 1:] /= np.tile([size[0] / picture.shape[1], size[1] / picture.shape[0]], 7)
        found.append(faces)
    return suppress(np.concatenate(found), 0.4)


# dlib's mean face shape, as given with the converted model, with its padding of 0.2.
DLIB_SHAPE = np.array(
    [[0.2273, 0.2214], [0.7528, 0.2212], [0.4901, 0.5156], [0.2541, 0.7802], [0.7261, 0.7802]], np.float32
)
DLIB_SIDE = 32
DLIB_TARGETS = (0.2 + DLIB_SHAPE) / 1.4 * DLIB_SIDE
DLIB_MEAN = np.array([122.782, 117.001, 104.298], np.float32)


class DlibGender:
    """The gender teacher: probability of male for aligned faces."""

    side, targets = DLIB_SIDE, DLIB_TARGETS
    unknown_band = (0.5, 0.5)

    def __init__(self, path):
        self.session = session(Path(path))

    def male(self, crops):
        """N x 32 x 32 x 3 BGR bytes, aligned to `DLIB_TARGETS`, to N probabilities."""
        rgb = (crops[..., ::-1].astype(np.float32) - DLIB_MEAN) / 256
        name = self.session.get_inputs()[0].name
        return self.session.run(None, {name: np.ascontiguousarray(rgb.transpose(0, 3, 1, 2))})[0][:, 1]
