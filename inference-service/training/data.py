"""Data preparation: the picture sets, decoded once and labelled once, in a work folder.

`python data.py` reads every `train` and `val` picture, lets the detection teacher find faces at
several scales (labels for unlabelled pictures, landmarks for all), merges the boxes drawn by
people, and writes one file of pixels that every training process maps. Rows marked `eval` are
never read here.
"""

import argparse
import csv
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from detector import iou
from teachers import YuNet, detect_at_scales, shrink

HERE = Path(__file__).resolve().parent
DEFAULT_SHARED = HERE / "../../../shared"
MAX_SIDE = 640
PSEUDO_THRESHOLD = 0.3  # kept, so that doubtful faces are not taught as background
SCENES = ("facemask_853", "usgov_scenes_multiface")
EMPTY_SETS = ("usgov_scenes_noface", "backgrounds")


@dataclass
class Row:
    """One line of a manifest."""

    set: str
    file: Path
    split: str
    gender: str
    age: str
    identity: str
    boxes: np.ndarray  # n x 4, x y w h
    box_source: str


def read_manifest(folder):
    """All rows of one set."""
    rows = []
    with open(folder / "manifest.csv", newline="", encoding="utf-8") as lines:
        for line in csv.DictReader(lines):
            boxes = [[float(v) for v in b.split()] for b in line["boxes"].split(";") if b.strip()]
            rows.append(
                Row(
                    folder.name,
                    folder / line["path"],
                    line["split"],
                    line["gender"],
                    line["age"],
                    line["identity"],
                    np.array(boxes, np.float32).reshape(-1, 4),
                    line["box_source"],
                )
            )
    return rows


def read_sets(data):
    """All rows of all sets under a folder, in a fixed order."""
    return [row for m in sorted(Path(data).glob("*/manifest.csv")) for row in read_manifest(m.parent)]


def label(teacher, picture, row):
    """Faces of a picture: rows of (score, x, y, w, h, 10 landmarks); landmarks are NaN where unknown.

    A box drawn by a person that the teacher also found takes the teacher's shape, so that all
    boxes follow one convention; one that it missed is kept with a score of 1.
    """
    side = max(picture.shape[:2])
    scales = (0.5, 1, 2) if side <= 420 else (0.5, 1, 1.6)
    faces = detect_at_scales(teacher, picture, scales, PSEUDO_THRESHOLD)
    if row.box_source == "human":
        missed = []
        for box in row.boxes:
            overlaps = iou(box, faces[:, 1:5])
            if len(faces) and overlaps.max() > 0.35:
                faces[overlaps.argmax(), 0] = 1
            else:
                missed.append([1, *box, *[np.nan] * 10])
        faces = np.concatenate([faces, np.array(missed, np.float32).reshape(-1, 15)])
    return faces


def is_held_out(row, number):
    """Scene pictures have no `val` rows: every tenth is kept from training to choose weights by."""
    return row.set in SCENES and number % 10 == 3


class Prepared:
    """The prepared pictures: `pictures[i]` is BGR, `faces(i)` its labels, the rest plain columns."""

    def __init__(self, work):
        work = Path(work)
        index = np.load(work / "index.npz")
        self.offset, self.shape = index["offset"], index["shape"]
        self.set, self.split = index["set"], index["split"]
        self.gender, self.age, self.identity = index["gender"], index["age"], index["identity"]
        self.face_start, self.all_faces = index["face_start"], index["faces"]
        self.pixels = np.memmap(work / "pixels.u8", np.uint8, "r")

    def __len__(self):
        return len(self.offset)

    def picture(self, i):
        height, width = self.shape[i]
        start = self.offset[i]
        return np.asarray(self.pixels[start : start + height * width * 3]).reshape(height, width, 3)

    def faces(self, i):
        return self.all_faces[self.face_start[i] : self.face_start[i + 1]].copy()


def prepare(data, yunet, work):
    """Write `pixels.u8` and `index.npz`."""
    work.mkdir(parents=True, exist_ok=True)
    teacher = YuNet(yunet)
    rows = [row for row in read_sets(data) if row.split in ("train", "val")]
    columns = {name: [] for name in ("offset", "shape", "set", "split", "gender", "age", "identity")}
    faces, face_start, position = [], [0], 0
    numbers = {}
    with open(work / "pixels.u8", "wb") as pixels:
        for count, row in enumerate(rows):
            picture = cv2.imread(str(row.file), cv2.IMREAD_COLOR)
            if picture is None:
                raise SystemExit(f"cannot read {row.file}")
            picture, factor = shrink(picture, MAX_SIDE)
            row.boxes *= factor
            found = np.zeros((0, 15), np.float32)
            if row.set not in EMPTY_SETS:
                found = label(teacher, picture, row)
            elif row.set == "backgrounds" and len(row.boxes):
                continue  # one background does show a face; leave it out
            number = numbers[row.set] = numbers.get(row.set, -1) + 1
            pixels.write(picture.tobytes())
            columns["offset"].append(position)
            columns["shape"].append(picture.shape[:2])
            columns["set"].append(row.set)
            columns["split"].append("val" if is_held_out(row, number) else row.split)
            columns["gender"].append(row.gender)
            columns["age"].append(row.age)
            columns["identity"].append(row.identity)
            faces.append(found)
            face_start.append(face_start[-1] + len(found))
            position += picture.size
            if count % 500 == 0:
                print(f"{count} of {len(rows)} pictures, {face_start[-1]} faces", flush=True)
    arrays = {name: np.array(values) for name, values in columns.items()}
    np.savez(work / "index.npz", faces=np.concatenate(faces), face_start=np.array(face_start), **arrays)
    print(f"{len(arrays['offset'])} pictures, {face_start[-1]} faces, {position / 1e9:.2f} GB")


def arguments(description):
    """The options that every step shares."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", type=Path, default=DEFAULT_SHARED / "data", help="folder of picture sets")
    parser.add_argument("--teachers", type=Path, default=DEFAULT_SHARED / "models", help="folder of teachers")
    parser.add_argument("--work", type=Path, default=Path("/tmp/flatface"), help="prepared data, checkpoints")
    return parser


if __name__ == "__main__":
    options = arguments(__doc__).parse_args()
    prepare(options.data, options.teachers / "yunet_n_dynamic.onnx", options.work)
