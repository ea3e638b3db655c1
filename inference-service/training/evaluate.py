"""Figures on the eval sets, with one scorer for the teachers' models and ours.

Detection: average precision at an overlap of 0.5, all-point, from every detection scored 0.02 or
more after suppression at 0.45. Ground truth whose shorter side is below the stated size is ignored:
it neither counts as missed, nor does a detection on it count as wrong; nor does a detection on
nothing whose own shorter side is below 0.8 of that size.
Gender: the largest face of each picture (longer side at most 320), threshold 0.5.
"""

import json
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np

from data import arguments, read_manifest
from detector import STRIDES, decode_heads, iou, suppress
from gender import GenderNet, align, largest
from teachers import DlibGender, YuNet, pad32, session, shrink

MODELS = Path(__file__).resolve().parent / "../models"
GENDER_SETS = ("usgov_staff", "london_faces", "interfaces_cc0", "fairface_540")


class Flatface:
    """flatface-det from its ONNX file, with the interface of `teachers.YuNet`."""

    def __init__(self, path):
        self.session = session(path)

    def detect(self, picture, threshold=0.5, overlap=0.45):
        padded = pad32(picture)
        batch = np.ascontiguousarray(padded.transpose(2, 0, 1)[None]).astype(np.float32)
        names = [f"head_{s}" for s in STRIDES]
        heads = self.session.run(names, {"input": batch})
        return suppress(decode_heads([h[0] for h in heads], *padded.shape[:2], threshold), overlap)


SMALLER = 0.8  # a wrong detection below this share of the smallest wanted size is ignored too


def average_precision(pictures, smallest=0.0, overlap=0.5):
    """All-point AP over pictures given as (detections n x 15, truth m x 4, ignored m)."""
    scores, hits, total = [], [], 0
    for detections, truth, ignored in pictures:
        total += np.count_nonzero(~ignored)
        free = np.ones(len(truth), bool)
        for face in detections[np.argsort(-detections[:, 0], kind="stable")]:
            overlaps = iou(face[1:5], truth) if len(truth) else np.zeros(0)
            # A wanted face still free first, then an ignored one, which swallows the detection.
            wanted = np.where(free & ~ignored, overlaps, 0)
            if len(truth) and wanted.max() >= overlap:
                free[wanted.argmax()] = False
                scores.append(face[0])
                hits.append(1)
            elif len(truth) and np.where(ignored, overlaps, 0).max() >= overlap:
                continue
            elif min(face[3:5]) >= SMALLER * smallest:
                scores.append(face[0])
                hits.append(0)
    order = np.argsort(-np.array(scores), kind="stable")
    hits = np.array(hits)[order]
    recall = np.cumsum(hits) / max(total, 1)
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0) * precision)), total


def detection_figures(detector, rows, max_side, sizes):
    """(AP, faces) per smallest face size, with the pictures shrunk to `max_side`."""
    found = []
    for row in rows:
        picture, factor = shrink(cv2.imread(str(row.file)), max_side)
        found.append((detector.detect(picture, 0.02), row.boxes * factor))
    return {
        size: average_precision([(d, t, t[:, 2:].min(1) < size) for d, t in found], size) for size in sizes
    }


def found_faces(detector, rows, max_side=320):
    """(picture, largest face or None, row) of every picture, shrunk to `max_side`."""
    for row in rows:
        picture, _ = shrink(cv2.imread(str(row.file)), max_side)
        yield picture, largest(detector.detect(picture)), row


def gender_figures(classifier, found):
    """Accuracy of a classifier on the faces of `found_faces`, overall and by group."""
    shown = [(picture, face, row) for picture, face, row in found if face is not None]
    crops = [align(p, face[5:].reshape(5, 2), classifier.targets, classifier.side) for p, face, _ in shown]
    labels = np.array([row.gender == "M" for *_, row in shown])
    male = classifier.male(np.stack(crops))
    right = (male > 0.5) == labels
    low, high = classifier.unknown_band
    decided = (male <= low) | (male >= high)
    by_age = defaultdict(list)
    for (*_, row), good in zip(shown, right):
        by_age[row.age].append(bool(good))
    return {
        "faces": len(shown),
        "no_face": len(found) - len(shown),
        "accuracy": float(right.mean()),
        "women": float(right[~labels].mean()),
        "men": float(right[labels].mean()),
        "unknown": float(1 - decided.mean()),
        "accuracy_decided": float(right[decided].mean()),
        "by_age": {age: (round(float(np.mean(g)), 3), len(g)) for age, g in sorted(by_age.items())},
    }


def main():
    parser = arguments(__doc__)
    parser.add_argument("--models", type=Path, default=MODELS, help="folder of our exported models")
    parser.add_argument("--only", choices=("detector", "gender"))
    parser.add_argument("--json", action="store_true", help="end with one line of all figures")
    options = parser.parse_args()
    detectors = {
        "flatface-det": Flatface(options.models / "flatface-det.onnx"),
        "yunet-n": YuNet(options.teachers / "yunet_n_dynamic.onnx"),
        "yunet-s": YuNet(options.teachers / "yunet_s_dynamic.onnx"),
    }
    classifiers = {
        "flatface-gender": GenderNet(options.models / "flatface-gender.onnx"),
        "dlib": DlibGender(options.teachers / "gender_dlib.onnx"),
    }
    figures = {}
    rows = [r for r in read_manifest(options.data / "wider_val_200") if r.split == "eval"]
    for name, detector in detectors.items() if options.only != "gender" else ():
        for side in (416, 320):
            for size, (ap, faces) in detection_figures(detector, rows, side, (10, 16, 32)).items():
                figures[f"{name}, wider_val_200 at {side}, faces >= {size} px"] = ap
                print(f"{name:13} wider_val_200 at {side}, faces >= {size} px ({faces}): {ap:.3f}", flush=True)
    for folder in GENDER_SETS if options.only != "detector" else ():
        rows = [r for r in read_manifest(options.data / folder) if r.split == "eval" and r.gender]
        for detector in ("yunet-n", "flatface-det"):
            found = list(found_faces(detectors[detector], rows))
            for name, classifier in classifiers.items():
                f = figures[f"{detector} + {name}, {folder}"] = gender_figures(classifier, found)
                print(
                    f"{detector:12} + {name:15} {folder:14} {f['accuracy']:.3f} (F {f['women']:.3f}, M {f['men']:.3f}) "
                    f"of {f['faces']}, {f['no_face']} without a face; {f['unknown']:.3f} unknown, "
                    f"the rest {f['accuracy_decided']:.3f}",
                    flush=True,
                )
                if folder == "fairface_540":
                    print("    by age:", f["by_age"])
    if options.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
