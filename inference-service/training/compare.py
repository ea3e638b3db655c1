"""Compare gender classifiers on the faces held out from training: which weights to keep.

Every classifier sees the same faces through its own alignment, as they are and as a poor camera
would give them (20 px wide, relit, compressed). Eval rows are never read here.

    python compare.py FILE.onnx...
"""

from pathlib import Path

import cv2
import numpy as np

from augment import compress, relight
from data import arguments
from gender import GenderNet, align
from teachers import DlibGender
from train_gender import PATCH, PATCH_PADDING, PATCH_TARGETS, WILD, Faces

SMALL = round(20 / 1.25 * (1 + 2 * PATCH_PADDING))  # side of a patch whose face is 20 px wide


def spoil(patch, rng):
    """A patch as a poor camera would give it, at its old size."""
    small = cv2.resize(patch, (SMALL, SMALL), interpolation=cv2.INTER_AREA)
    small = compress(relight(small, rng), rng, 40)
    return cv2.resize(small, (PATCH, PATCH), interpolation=cv2.INTER_LINEAR)


def main():
    parser = arguments(__doc__)
    parser.add_argument("files", nargs="+", type=Path, help="exported classifiers")
    options = parser.parse_args()
    classifiers = {str(file): GenderNet(file) for file in options.files}
    classifiers["dlib"] = DlibGender(options.teachers / "gender_dlib.onnx")
    faces = Faces(options.work)
    members = np.flatnonzero((faces.split == "val") & (faces.label >= 0))
    label = faces.label[members] == 1
    own_group = np.isin(faces.set[members], tuple(WILD))
    origin = np.where(own_group, faces.set[members], "formal")
    rng = np.random.default_rng(5)
    clean = [faces.patches[i] for i in members]
    views = {"clean": clean, "spoiled": [spoil(patch, rng) for patch in clean]}
    for name, classifier in classifiers.items():
        for kind, patches in views.items():
            crops = np.stack([align(p, PATCH_TARGETS, classifier.targets, classifier.side) for p in patches])
            male = np.clip(classifier.male(crops), 1e-6, 1 - 1e-6)
            right, loss = (male > 0.5) == label, -np.log(np.where(label, male, 1 - male))
            for group in np.unique(origin):
                shown = origin == group
                women, men = right[shown & ~label].mean(), right[shown & label].mean()
                print(
                    f"{name} {kind:7} {group:13} ({np.count_nonzero(shown)}): {right[shown].mean():.3f} "
                    f"(F {women:.3f}, M {men:.3f}), loss {loss[shown].mean():.3f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
