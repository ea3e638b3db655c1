"""One JPEG to faces with apparent gender: ONNX Runtime for the models, OpenCV for the pictures.

The same work as inference-service does: the same models, input sizes, thresholds and crop, all from the
same manifests. Written as for production: what has a fast way in OpenCV or numpy takes it.
"""

import math
import threading
import tomllib
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import onnxruntime

MODELS = Path(__file__).resolve().parents[2] / "inference-service/models"
TURNS = {90: cv2.ROTATE_90_CLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_COUNTERCLOCKWISE}


@dataclass
class Face:
    """One face; coordinates in pixels of the upright picture."""

    box: tuple[float, float, float, float]  # left, top, width, height
    score: float
    landmarks: list[tuple[float, float]]
    female: float  # probability that it is a woman
    gender: str  # "female", "male" or "unknown"


def load(name):
    """Manifest and session of one of the project's models."""
    manifest = tomllib.loads((MODELS / f"{name}.toml").read_text())
    options = onnxruntime.SessionOptions()
    # One request runs on one thread; as many requests as there are cores run at once.
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        str(MODELS / manifest["weights"]["file"]), options, providers=["CPUExecutionProvider"]
    )
    return manifest, session


# The tensors of each thread, one for each input size: a new one for each picture costs page faults.
kept = threading.local()


def width_and_height(text):
    return tuple(map(int, text.split("x")))


def to_input(pixels, size):
    """The pixels in the upper left corner of a model's input, plane by plane, black around them.

    Three times as fast as numpy's transpose, ten times as cv2.dnn.blobFromImage. Holds until the
    thread asks for this size again.
    """
    height, width = pixels.shape[:2]
    tensors = vars(kept)
    if size not in tensors:
        tensors[size] = np.empty((1, 3, size[1], size[0]), np.float32)
    values = tensors[size]
    values[:, :, height:] = 0
    values[:, :, :height, width:] = 0
    for plane, channel in zip(values[0], cv2.split(pixels)):
        plane[:height, :width] = channel
    return values


class Analyzer:
    """Both models. Threads may share one: sessions are safe to run at once."""

    def __init__(self, detector="flatface-det", gender="flatface-gender"):
        cv2.setNumThreads(1)
        self.detector, self.detect_session = load(detector)
        self.gender, self.gender_session = load(gender)
        sizes = self.detector["input"]["size"], *self.detector["input"].get("also", [])
        self.input_sizes = [width_and_height(size) for size in sizes]
        self.crop_size = width_and_height(self.gender["input"]["size"])
        thresholds = self.detector["thresholds"]
        self.min_score, self.nms_iou = thresholds["score"], thresholds["nms_iou"]
        self.min_logit = math.log(self.min_score / (1 - self.min_score))
        self.min_probability = self.gender["thresholds"]["probability"]
        # OpenCV puts a pixel's centre at whole numbers, the manifest its edge.
        targets = np.array(self.gender["crop"]["targets"]) - 0.5
        self.targets = targets[:, 0] + 1j * targets[:, 1]

    def analyze(self, jpeg, rotation=0):
        """Width and height of the upright picture, and its faces, best first. ValueError: not a picture."""
        picture = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        if picture is None:
            raise ValueError("not a JPEG that can be decoded")
        if rotation:
            picture = cv2.rotate(picture, TURNS[rotation])
        height, width = picture.shape[:2]
        return width, height, [self._face(picture, *found) for found in self._detect(picture)]

    def _detect(self, picture):
        """Box, score and landmarks of each face, in pixels of the picture."""
        height, width = picture.shape[:2]
        # The input that shrinks the picture least; among equals the smallest, which is the fastest.
        scale, _, size = max(
            (min(columns / width, rows / height, 1.0), -columns * rows, (columns, rows))
            for columns, rows in self.input_sizes
        )
        fitted = picture
        if scale < 1.0:
            fitted = cv2.resize(picture, (max(1, round(width * scale)), max(1, round(height * scale))))
        heads = self.detect_session.run(None, {"input": to_input(fitted, size)})
        found = []  # one array per stride: logit, box (4), landmarks (10), a column for each candidate
        for stride, head in zip(self.detector["output"]["strides"], heads):
            y, x = np.nonzero(head[0, 0] >= self.min_logit)
            if not len(x):
                continue
            cells = head[0, :, y, x].T
            cells[[1, 5, 7, 9, 11, 13]] += x
            cells[[2, 6, 8, 10, 12, 14]] += y
            cells[3:5] = np.exp(cells[3:5])
            cells[1:] *= stride
            found.append(cells)
        if not found:
            return []
        cells = np.concatenate(found, axis=1)
        scores = 1 / (1 + np.exp(-cells[0]))
        cells[1:3] -= cells[3:5] / 2
        kept = cv2.dnn.NMSBoxes(cells[1:5].T.tolist(), scores.tolist(), self.min_score, self.nms_iou)
        across, down = width / fitted.shape[1], height / fitted.shape[0]
        faces = []
        for index in kept:
            left, top = cells[1:3, index]
            right, bottom = left + cells[3, index], top + cells[4, index]
            left, right = np.clip((left * across, right * across), 0, width)
            top, bottom = np.clip((top * down, bottom * down), 0, height)
            landmarks = cells[5:, index].reshape(5, 2) * (across, down)
            if min(right - left, bottom - top) >= 1:
                faces.append(((left, top, right - left, bottom - top), scores[index], landmarks))
        return faces

    def _face(self, picture, box, score, landmarks):
        """The face with its gender, from a crop in which its landmarks lie where the classifier learnt them."""
        # Least squares for to = turn * from + shift, in the complex plane (Umeyama without reflection).
        points = landmarks[:, 0] + 1j * landmarks[:, 1] - (0.5 + 0.5j)
        centred = points - points.mean()
        turn = np.vdot(centred, self.targets - self.targets.mean()) / max(np.vdot(centred, centred).real, 1e-6)
        shift = self.targets.mean() - turn * points.mean()
        matrix = np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])
        crop = cv2.warpAffine(picture, matrix, self.crop_size, borderMode=cv2.BORDER_REPLICATE)
        logit = self.gender_session.run(None, {"input": to_input(crop, self.crop_size)})[0].item()
        female = 1 / (1 + math.exp(logit))
        gender = "unknown"
        if max(female, 1 - female) >= self.min_probability:
            gender = "female" if female >= 0.5 else "male"
        return Face(tuple(map(float, box)), float(score), landmarks.tolist(), female, gender)
