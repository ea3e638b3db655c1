#!/usr/bin/env python3
"""Writes expected.toml: what the third-party models say with ONNX Runtime.

    pip install onnxruntime numpy pillow
    python make_expected.py            # in any folder; needs ../shared beside the repository

Written from the models' own documentation (shared/models/README.md) and not from our manifests or
our code, so that the engine suite compares two readings of the same models. Decodes with Pillow
(libjpeg-turbo), resizes with Pillow's BILINEAR (antialiased).
"""

import io
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

HERE = Path(__file__).resolve().parent
SERVICE = HERE.parents[1]
SHARED = HERE.parents[3] / "shared"

CLIP = "media/face-demographics-walking-and-pause.mjpeg"
PICTURES = [
    # (path below shared/, index of the frame in a clip or 0)
    *((CLIP, frame) for frame in (0, 7, 14, 21, 28, 35, 42)),
    ("media/classroom.mjpeg", 10),
    ("data/usgov_scenes_multiface/images/013bfff772.jpg", 0),
    ("data/usgov_scenes_multiface/images/0167c956fe.jpg", 0),
    ("data/usgov_scenes_multiface/images/020de3ddb2.jpg", 0),
    ("data/usgov_scenes_multiface/images/025fd886c6.jpg", 0),
    ("data/us_congress_gpo/images/A000014.jpg", 0),
    ("data/usgov_staff/images/001b30adc143.jpg", 0),
    ("data/usgov_staff/images/0135cddae66e.jpg", 0),
    ("data/interfaces_cc0/images/002.jpg", 0),
    ("data/interfaces_cc0/images/003.jpg", 0),
    ("data/fairface_540/images/0001_F.jpg", 0),
    ("data/london_faces/images/001_08.jpg", 0),
    ("data/canada_faces/images/008f.jpg", 0),
]
PAIRS = [("yunet_n", "gender_dlib"), ("yunet_s", "gender_xception"), ("ultraface_rfb320", "gender_xception"),
         ("ultraface_slim320", "gender_dlib")]

DLIB_SHAPE = np.array([(0.2273, 0.2214), (0.7528, 0.2212), (0.4901, 0.5156), (0.2541, 0.7802), (0.7261, 0.7802)])
DLIB_TARGETS = (0.2 + DLIB_SHAPE) / 1.4 * 32
DLIB_MEAN = np.array([122.782, 117.001, 104.298])
# Ours: the models' documentation leaves open how wide a crop is, and what to do without landmarks.
BOX_SCALE = 1.2
MEAN_LANDMARKS = np.array([(0.282, 0.39), (0.718, 0.39), (0.5, 0.591), (0.311, 0.735), (0.689, 0.735)])


def session(name):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(SHARED / "models" / name), options)


def load(path, frame):
    data = (SHARED / path).read_bytes()
    if path.endswith(".mjpeg"):
        data = b"\xff\xd8" + data.split(b"\xff\xd8")[frame + 1]
    return Image.open(io.BytesIO(data)).convert("RGB")


def fit(picture, width, height):
    """The picture in the upper left corner, shrunk if need be; and the scales back."""
    scale = min(1, width / picture.width, height / picture.height)
    size = (round(picture.width * scale), round(picture.height * scale))
    small = picture if scale == 1 else picture.resize(size, Image.BILINEAR)
    padded = np.zeros((height, width, 3), np.float32)
    padded[: size[1], : size[0]] = np.asarray(small)
    return padded, picture.width / size[0], picture.height / size[1]


def yunet(net, picture):
    padded, sx, sy = fit(picture, 320, 256)
    names = [output.name for output in net.get_outputs()]
    values = net.run(None, {"input": padded[:, :, ::-1].transpose(2, 0, 1)[None].copy()})
    out = {name: value[0] for name, value in zip(names, values)}
    faces = []
    for stride in (8, 16, 32):
        score = np.sqrt(out[f"cls_{stride}"][:, 0] * out[f"obj_{stride}"][:, 0])
        for cell in np.flatnonzero(score >= 0.6):
            corner = np.array([cell % (320 // stride), cell // (320 // stride)])
            centre = (corner + out[f"bbox_{stride}"][cell, :2]) * stride
            size = np.exp(out[f"bbox_{stride}"][cell, 2:]) * stride
            points = (corner + out[f"kps_{stride}"][cell].reshape(5, 2)) * stride
            faces.append((score[cell], *(centre - size / 2), *size, points * (sx, sy)))
    return nms(faces), sx, sy


def ultraface(net, picture):
    padded, sx, sy = fit(picture, 320, 240)
    scores, boxes = net.run(["scores", "boxes"], {"input": ((padded - 127) / 128).transpose(2, 0, 1)[None].copy()})
    faces = []
    for score, box in zip(scores[0, :, 1], boxes[0] * (320, 240, 320, 240)):
        if score >= 0.7:
            faces.append((score, box[0], box[1], box[2] - box[0], box[3] - box[1], None))
    return nms(faces), sx, sy


def iou(a, b):
    left, top = max(a[1], b[1]), max(a[2], b[2])
    right, bottom = min(a[1] + a[3], b[1] + b[3]), min(a[2] + a[4], b[2] + b[4])
    both = max(0, right - left) * max(0, bottom - top)
    return both / (a[3] * a[4] + b[3] * b[4] - both)


def nms(faces):
    kept = []
    for face in sorted(faces, key=lambda face: -face[0]):
        if all(iou(face, other) <= 0.3 for other in kept):
            kept.append(face)
    return kept


def sample(picture, points):
    """Bilinear, edges repeated; a pixel's centre lies at +0.5."""
    height, width, _ = picture.shape
    x = np.clip(points[..., 0] - 0.5, 0, width - 1)
    y = np.clip(points[..., 1] - 0.5, 0, height - 1)
    left, top = x.astype(int), y.astype(int)
    right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    across, down = (x - left)[..., None], (y - top)[..., None]
    upper = picture[top, left] * (1 - across) + picture[top, right] * across
    lower = picture[bottom, left] * (1 - across) + picture[bottom, right] * across
    return upper * (1 - down) + lower * down


def crop(picture, side, linear, offset):
    """Crop of `side` pixels; crop point p lies at `linear @ p + offset`; averaged when shrinking."""
    count = int(np.clip(np.round(np.sqrt(np.linalg.det(linear))), 1, 4))
    grid = (np.arange(side * count) + 0.5) / count
    points = np.stack(np.meshgrid(grid, grid), -1) @ linear.T + offset
    return sample(picture, points).reshape(side, count, side, count, 3).mean((1, 3))


def aligned(targets, landmarks):
    """Umeyama's similarity (1991) of the landmarks to the targets, by singular values; inverted."""
    a, b = landmarks - landmarks.mean(0), targets - targets.mean(0)
    u, s, vt = np.linalg.svd(b.T @ a / len(a))
    sign = np.diag([1, np.sign(np.linalg.det(u @ vt))])
    linear = np.linalg.inv(u @ sign @ vt * (s * np.diag(sign)).sum() / a.var(0).sum())
    return linear, landmarks.mean(0) - linear @ targets.mean(0)


def around(box, side):
    x, y, width, height = box
    length = max(width, height) * BOX_SCALE
    return np.eye(2) * length / side, np.array([x + (width - length) / 2, y + (height - length) / 2])


def female(name, net, picture, box, landmarks):
    if name == "gender_dlib":
        if landmarks is None:
            landmarks = MEAN_LANDMARKS * box[2:] + box[:2]
        values = ((crop(picture, 32, *aligned(DLIB_TARGETS, landmarks)) - DLIB_MEAN) / 256).transpose(2, 0, 1)[None]
    else:
        grey = crop(picture, 64, *around(box, 64)) @ (0.299, 0.587, 0.114)
        values = ((grey / 255 - 0.5) * 2)[None, None]
    return net.run(None, {"input": values.astype(np.float32)})[0][0, 0]


def main():
    files = {"yunet_n": "yunet_n_dynamic.onnx", "yunet_s": "yunet_s_dynamic.onnx", "ultraface_rfb320": "RFB-320.onnx",
             "ultraface_slim320": "slim-320.onnx", "gender_dlib": "gender_dlib.onnx",
             "gender_xception": "gender_xception.onnx"}
    nets = {name: session(file) for name, file in files.items()}
    lines = [
        "# Made by make_expected.py; do not edit. Faces: x, y, width, height in pixels, score, probability of female.",
        f'provenance = "ONNX Runtime {onnxruntime.__version__}, NumPy {np.__version__}, Pillow {Image.__version__}"',
    ]
    for detector, gender in PAIRS:
        for path, frame in PICTURES:
            picture = load(path, frame)
            find = yunet if detector.startswith("yunet") else ultraface
            faces, sx, sy = find(nets[detector], picture)
            pixels = np.asarray(picture).astype(np.float64)
            lines += ["", "[[picture]]", f'file = "{path}"', f"frame = {frame}", f'detector = "{detector}"',
                      f'gender = "{gender}"', "faces = ["]
            for score, x, y, width, height, landmarks in faces:
                left, right = np.clip([x * sx, (x + width) * sx], 0, picture.width)
                top, bottom = np.clip([y * sy, (y + height) * sy], 0, picture.height)
                box = (left, top, right - left, bottom - top)
                p = female(gender, nets[gender], pixels, box, landmarks)
                lines.append("  [" + ", ".join(f"{v:.1f}" for v in box) + f", {score:.3f}, {p:.3f}],")
            lines.append("]")
    (HERE / "expected.toml").write_text("\n".join(lines) + "\n")


main()
