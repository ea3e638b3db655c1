"""flatface-gender: alignment of a face, the network, and its exported form.

Alignment: the similarity (turn, scale, shift; no mirroring) that carries the five landmarks nearest
to `TARGETS` in the least-squares sense. The crop is `SIDE` pixels square; coordinates count pixel
centres, so the first pixel's centre is (0, 0). Each crop pixel is the mean of k x k bilinear samples
spread evenly over it, k = the number of picture pixels per crop pixel, rounded, from 1 to 4.
Samples outside the picture take the nearest pixel of its edge.
"""

import cv2
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from teachers import DLIB_SHAPE, session

SIDE = 48
PADDING = 0.45  # of the unit square that holds the mean face shape, on each side
TARGETS = ((PADDING + DLIB_SHAPE) / (1 + 2 * PADDING) * SIDE).astype(np.float32)
MAX_SAMPLES = 4


def similarity(points, targets):
    """The 2x3 matrix of the similarity that carries points nearest to targets."""
    mean_p, mean_t = points.mean(0), targets.mean(0)
    p, t = points - mean_p, targets - mean_t
    size = max((p**2).sum(), 1e-9)
    a = (p * t).sum() / size
    b = (p[:, 0] * t[:, 1] - p[:, 1] * t[:, 0]).sum() / size
    linear = np.array([[a, -b], [b, a]])
    return np.concatenate([linear, (mean_t - linear @ mean_p)[:, None]], 1)


def align(picture, points, targets=TARGETS, side=SIDE):
    """The aligned crop, side x side x 3 bytes, of the face with these five landmarks."""
    return sample(picture, similarity(points.astype(np.float64), targets.astype(np.float64)), side)


def sample(picture, matrix, side):
    """The crop that a picture-to-crop similarity shows, area-averaged as described above."""
    per_pixel = 1 / max(np.hypot(matrix[0, 0], matrix[1, 0]), 1e-6)
    k = int(np.clip(np.rint(per_pixel), 1, MAX_SAMPLES))
    fine = matrix * k
    fine[:, 2] += (k - 1) / 2  # (u + 0.5) * k - 0.5
    crop = cv2.warpAffine(picture, fine, (side * k, side * k), borderMode=cv2.BORDER_REPLICATE)
    if k == 1:
        return crop
    mean = crop.reshape(side, k, side, k, 3).mean((1, 3), dtype=np.float32)
    return np.rint(mean).astype(np.uint8)


def largest(faces):
    """The face with the largest box, or None."""
    return faces[(faces[:, 3] * faces[:, 4]).argmax()] if len(faces) else None


class Block(nn.Module):
    """Pointwise and depthwise 3x3, each with batch norm and ReLU; adds its input where shapes agree."""

    def __init__(self, inputs, outputs, stride=1):
        super().__init__()
        self.pointwise = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.depthwise = nn.Conv2d(outputs, outputs, 3, stride=stride, padding=1, groups=outputs, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.adds = inputs == outputs and stride == 1

    def forward(self, x):
        y = F.relu(self.norm1(self.pointwise(x)))
        y = F.relu(self.norm2(self.depthwise(y)))
        return x + y if self.adds else y


class FlatfaceGender(nn.Module):
    """Input: N x 3 x 48 x 48, BGR, 0..255. Output: N x 1, a logit; sigmoid(logit) = P(male)."""

    def __init__(self, stem=16, widths=(40, 80, 160), dropout=0.2):
        super().__init__()
        a, b, c = widths
        self.stem = nn.Conv2d(3, stem, 3, stride=2, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(stem)
        self.blocks = nn.Sequential(
            Block(stem, a),  # 24 x 24
            Block(a, b, stride=2),  # 12 x 12
            Block(b, b),
            Block(b, b),
            Block(b, c, stride=2),  # 6 x 6
            Block(c, c),
            Block(c, c),
            Block(c, c, stride=2),  # 3 x 3
        )
        self.dropout = nn.Dropout(dropout)
        self.last = nn.Linear(c * 3 * 3, 1)

    def forward(self, x):
        # The scale keeps the first layer's weights in a common range; export folds it away.
        x = F.relu(self.stem_norm(self.stem(x * (1 / 64))))
        return self.last(self.dropout(self.blocks(x).flatten(1)))


class GenderNet:
    """flatface-gender from its ONNX file, with the interface of `teachers.DlibGender`.

    The crop's side, the alignment and the unknown band are read from the file, so that models
    exported with other settings can be compared.
    """

    def __init__(self, path):
        self.session = session(path)
        self.side = self.session.get_inputs()[0].shape[2]
        metadata = self.session.get_modelmeta().custom_metadata_map
        points = [[float(v) for v in point.split()] for point in metadata["targets"].split(";")]
        self.targets = np.array(points, np.float32)
        self.unknown_band = tuple(float(v) for v in metadata["unknown_band"].split(","))

    def male(self, crops):
        """N x side x side x 3 BGR bytes to N probabilities of male."""
        batch = np.ascontiguousarray(crops.transpose(0, 3, 1, 2)).astype(np.float32)
        logits = [self.session.run(None, {"input": one[None]})[0].reshape(()) for one in batch]
        return 1 / (1 + np.exp(-np.array(logits)))


if __name__ == "__main__":
    net = FlatfaceGender()
    print(sum(p.numel() for p in net.parameters()), net(torch.zeros(2, 3, SIDE, SIDE)).shape)
    print(TARGETS.round(4).tolist())
