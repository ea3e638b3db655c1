"""flatface-det: the network and the decoding of its outputs.

A single-stage, anchor-free face detector in the manner of YuNet: strides 8, 16 and 32, five
landmarks, any input whose sides are multiples of 32. It is built from pointwise and depthwise
convolutions with ReLU, because those are what the engine runs well. It does not know how it is
trained (`train_detector.py`) or exported (`export.py`).

Output, one raw map per stride, `head_S` of shape N x 15 x H/S x W/S:

    channel 0       score, a logit: probability = sigmoid(score)
    channels 1, 2   box centre:  cx = (column + dx) * S,  cy = (row + dy) * S
    channels 3, 4   box size:    w = exp(log_w) * S,      h = exp(log_h) * S
    channels 5..14  landmarks:   x = (column + dx) * S,   y = (row + dy) * S  for the eye on the
                    left of the picture, the eye on its right, nose, mouth corners left and right

Column and row count cells from 0 without a half-cell offset; lengths are input pixels.
"""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

STRIDES = (8, 16, 32)
HEAD_CHANNELS = 15
PRIOR_LOGIT = -4.0  # the score before training: about 2 % of cells hold a face


class Separable(nn.Module):
    """Pointwise, then depthwise 3x3, then batch norm and (unless it is the last layer) ReLU."""

    def __init__(self, inputs, outputs, last=False):
        super().__init__()
        self.pointwise = nn.Conv2d(inputs, outputs, 1, bias=last)
        self.depthwise = nn.Conv2d(outputs, outputs, 3, padding=1, groups=outputs, bias=last)
        self.norm = None if last else nn.BatchNorm2d(outputs)

    def forward(self, x):
        x = self.depthwise(self.pointwise(x))
        return x if self.norm is None else F.relu(self.norm(x), inplace=True)


class FlatfaceDet(nn.Module):
    """Input: N x 3 x H x W, BGR, 0..255, H and W multiples of 32. Output: three `head_S` maps."""

    def __init__(self, stem=16, fine=(32, 48, 64), width=64):
        super().__init__()
        self.stem = nn.Conv2d(3, stem, 3, stride=2, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(stem)
        self.stage2 = Separable(stem, stem)
        # Stride 4 costs most of the time: narrow at first, wider just before the pool.
        widths = (stem, *fine)
        self.stage4 = nn.Sequential(*(Separable(a, b) for a, b in zip(widths, widths[1:])))
        self.stage8 = nn.Sequential(Separable(fine[-1], width), Separable(width, width))
        self.stage16 = nn.Sequential(Separable(width, width), Separable(width, width))
        self.stage32 = nn.Sequential(Separable(width, width), Separable(width, width))
        self.lateral = nn.ModuleList(Separable(width, width) for _ in STRIDES)
        self.shared = nn.ModuleList(Separable(width, width) for _ in STRIDES)
        self.heads = nn.ModuleList(Separable(width, HEAD_CHANNELS, last=True) for _ in STRIDES)
        for head in self.heads:
            nn.init.normal_(head.pointwise.weight, std=0.05)
            nn.init.zeros_(head.depthwise.bias)
            head.depthwise.bias.data[0] = PRIOR_LOGIT

    def features(self, x):
        """The three maps that the heads read: N x width x H/S x W/S."""
        # The scale keeps the first layer's weights in a common range; export folds it away.
        x = F.relu(self.stem_norm(self.stem(x * (1 / 64))), inplace=True)
        x = F.max_pool2d(self.stage2(x), 2)
        c8 = self.stage8(F.max_pool2d(self.stage4(x), 2))
        c16 = self.stage16(F.max_pool2d(c8, 2))
        c32 = self.stage32(F.max_pool2d(c16, 2))
        p32 = self.lateral[2](c32)
        p16 = self.lateral[1](c16 + F.interpolate(p32, scale_factor=2, mode="nearest"))
        p8 = self.lateral[0](c8 + F.interpolate(p16, scale_factor=2, mode="nearest"))
        return [shared(p) for shared, p in zip(self.shared, (p8, p16, p32))]

    def forward(self, x):
        return tuple(head(f) for head, f in zip(self.heads, self.features(x)))


def grid(height, width, stride):
    """Column and row of every cell of one stride's map, each of shape (cells,)."""
    rows, columns = np.mgrid[0 : height // stride, 0 : width // stride]
    return columns.reshape(-1).astype(np.float32), rows.reshape(-1).astype(np.float32)


def decode_level(score, box, landmarks, stride, height, width, threshold):
    """One stride's maps, flattened to cells, to faces: rows of (score, x, y, w, h, 10 landmarks).

    `score` is a probability of shape (cells,), `box` (cells, 4), `landmarks` (cells, 10).
    """
    keep = np.flatnonzero(score >= threshold)
    columns, rows = grid(height, width, stride)
    cx = (columns[keep] + box[keep, 0]) * stride
    cy = (rows[keep] + box[keep, 1]) * stride
    w = np.exp(box[keep, 2]) * stride
    h = np.exp(box[keep, 3]) * stride
    points = landmarks[keep].reshape(-1, 5, 2)
    points = (points + np.stack([columns[keep], rows[keep]], 1)[:, None]) * stride
    fields = [score[keep], cx - w / 2, cy - h / 2, w, h]
    return np.concatenate([np.stack(fields, 1), points.reshape(-1, 10)], 1)


def decode_heads(heads, height, width, threshold):
    """Raw `head_S` maps of one picture (15 x H/S x W/S each) to faces, before suppression."""
    found = []
    for stride, head in zip(STRIDES, heads):
        cells = head.reshape(HEAD_CHANNELS, -1).T
        score = 1 / (1 + np.exp(-cells[:, 0]))
        found.append(decode_level(score, cells[:, 1:5], cells[:, 5:], stride, height, width, threshold))
    return np.concatenate(found)


def iou(box, boxes):
    """Overlap of one box with many, all x y w h."""
    x1 = np.maximum(box[0], boxes[:, 0])
    y1 = np.maximum(box[1], boxes[:, 1])
    x2 = np.minimum(box[0] + box[2], boxes[:, 0] + boxes[:, 2])
    y2 = np.minimum(box[1] + box[3], boxes[:, 1] + boxes[:, 3])
    both = np.clip(x2 - x1, 0, None) * np.clip(y2 - y1, 0, None)
    return both / (box[2] * box[3] + boxes[:, 2] * boxes[:, 3] - both + 1e-9)


def suppress(faces, overlap=0.45):
    """Greedy non-maximum suppression, best score first."""
    faces = faces[np.argsort(-faces[:, 0], kind="stable")]
    kept = []
    while len(faces):
        kept.append(faces[0])
        faces = faces[1:][iou(faces[0, 1:5], faces[1:, 1:5]) < overlap]
    return np.array(kept, np.float32).reshape(-1, 5 + 10)


def count_parameters(model):
    return sum(p.numel() for p in model.parameters())


if __name__ == "__main__":
    net = FlatfaceDet()
    print(count_parameters(net), [tuple(h.shape) for h in net(torch.zeros(1, 3, 256, 320))])
