"""Train flatface-gender from the labelled faces and from what dlib's classifier says of all faces.

Every face is first cut out once, aligned, in a large patch. A training crop is a jittered view of a
patch, brought down to a small face and spoiled like a poor camera's. The teacher sees the same view
unspoiled, also when two views are blended (blends are where it says most about faces that no set
holds). Labels of the sets count more than the teacher where there are any.
"""

import json
import math
import time

import cv2
import numpy as np
import torch
from torch.nn import functional as F

from augment import compress, relight, soften
from data import SCENES, Prepared, arguments
from gender import PADDING, SIDE, TARGETS, FlatfaceGender, sample, similarity
from teachers import DLIB_SHAPE, DLIB_SIDE, DlibGender

PATCH = 160
PATCH_PADDING = 0.9
PATCH_TARGETS = (PATCH_PADDING + DLIB_SHAPE) / (1 + 2 * PATCH_PADDING) * PATCH
WILD = {"fairface_540": 6, "pixabay_943": 8}  # sets with no `val` rows: every nth picture is held out
UNSEEN = ("faker_sd3", "canada_faces")  # held out whole: the only sources that training never sees
LABEL_WEIGHT = 0.4  # of a set's label, beside the teacher's word
TEMPERATURE = 3.0  # both logits are divided by it, so that the teacher's margins are learned too
MAX_LOGIT = 12.0  # of the teacher


def cut_patches(work):
    """All faces worth learning from, as aligned patches with label, set and split."""
    prepared = Prepared(work)
    patches, label, origin, split, age, numbers = [], [], [], [], [], {}
    for i in range(len(prepared)):
        faces = prepared.faces(i)
        name = str(prepared.set[i])
        numbers[name] = numbers.get(name, -1) + 1
        faces = faces[np.isfinite(faces).all(1) & (faces[:, 0] >= 0.6)]
        if name in SCENES:
            faces, gender = faces[faces[:, 3] >= 22], ""
        else:
            faces, gender = faces[np.argsort(-faces[:, 3])][:1], str(prepared.gender[i])
        where = str(prepared.split[i])
        if name in WILD and numbers[name] % WILD[name] == 2:
            where = "val"
        if name in UNSEEN:
            where = "val"
        for face in faces:
            matrix = similarity(face[5:].reshape(5, 2).astype(float), PATCH_TARGETS)
            patches.append(sample(prepared.picture(i), matrix, PATCH))
            label.append({"F": 0, "M": 1}.get(gender, -1))
            origin.append(name)
            split.append(where)
            age.append(str(prepared.age[i]))
    np.savez(
        work / "patches.npz", patches=np.stack(patches), label=np.array(label), set=np.array(origin),
        split=np.array(split), age=np.array(age),
    )


def view(patch, rng, jitter=1.0, smallest=13):
    """A jittered view of a patch: (clean crop, spoiled crop), both SIDE x SIDE x 3."""
    turn, grow = rng.normal(0, 0.09) * jitter, np.exp(rng.normal(0, 0.06) * jitter)
    shift = rng.normal(0, 0.035, 2) * jitter
    unit = SIDE / (1 + 2 * PADDING) * grow  # crop pixels per unit of the mean shape
    scale = unit / (PATCH / (1 + 2 * PATCH_PADDING))
    linear = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    linear[:, 1] *= np.exp(rng.normal(0, 0.05) * jitter)
    if rng.random() < 0.5:
        linear[:, 0] *= -1
    middle = TARGETS.mean(0) + shift * SIDE / (1 + 2 * PADDING)
    matrix = np.concatenate([linear, (middle - linear @ PATCH_TARGETS.mean(0))[:, None]], 1)
    fine = matrix * 2
    fine[:, 2] += 0.5
    fine = cv2.warpAffine(patch, fine, (2 * SIDE, 2 * SIDE), borderMode=cv2.BORDER_REPLICATE)
    clean = cv2.resize(fine, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    # A face of `wide` pixels has about 1.25 units across; the spoiled crop holds this many pixels.
    wide = np.exp(rng.uniform(np.log(smallest), np.log(60)))
    side = int(np.clip(wide / 1.25 * (1 + 2 * PADDING), 16, 2 * SIDE))
    spoiled = cv2.resize(fine, (side, side), interpolation=cv2.INTER_AREA)
    if rng.random() < 0.8:
        spoiled = relight(spoiled, rng)
    if rng.random() < 0.3:
        spoiled = soften(spoiled, rng, 0.8)
    if rng.random() < 0.4:
        spoiled = compress(spoiled, rng, 30)
    if rng.random() < 0.15:
        spoiled = cover(spoiled, rng)
    method = cv2.INTER_AREA if side > SIDE else cv2.INTER_LINEAR
    return clean, cv2.resize(spoiled, (SIDE, SIDE), interpolation=method)


def cover(crop, rng):
    """Hide a part: a mask over the mouth, a bar, a hat."""
    crop = crop.copy()
    side = crop.shape[0]
    w, h = (rng.uniform(0.2, 0.7) * side, rng.uniform(0.15, 0.35) * side)
    x, y = rng.uniform(0, side - w), rng.uniform(0, side - h)
    crop[int(y) : int(y + h), int(x) : int(x + w)] = rng.integers(0, 256, 3)
    return crop


def teacher_view(crops):
    """Our crops as dlib's: the middle, 32 x 32."""
    unit = SIDE / (1 + 2 * PADDING)
    low, wide = (PADDING - 0.2) * unit, 1.4 * unit
    scale = DLIB_SIDE / wide
    shift = -low * scale + 0.5 * scale - 0.5
    matrix = np.array([[scale, 0, shift], [0, scale, shift]])
    return np.stack([cv2.warpAffine(c, matrix, (DLIB_SIDE, DLIB_SIDE)) for c in crops])


class Faces:
    """Draws batches of crops with their targets."""

    def __init__(self, work, teacher):
        file = np.load(work / "patches.npz")
        self.patches, self.label, self.set = file["patches"], file["label"], file["set"]
        self.split, self.age = file["split"], file["age"]
        self.teacher = teacher
        train = self.split == "train"
        self.groups, self.weights = [], []
        # Women, men and faces without a label; varied sets more often than formal portraits.
        for label, share in ((0, 0.4), (1, 0.4), (-1, 0.2)):
            members = np.flatnonzero(train & (self.label == label))
            often = np.ones(len(members))
            often[self.set[members] == "fairface_540"] = 4
            often[self.set[members] == "pixabay_943"] = 2
            often[np.isin(self.set[members], ("us_congress_gpo", "uk_parliament"))] = 0.7
            self.groups.append((members, often / often.sum()))
            self.weights.append(share)

    def batch(self, rng, size):
        kinds = rng.choice(3, size, p=self.weights)
        members = np.array([rng.choice(self.groups[k][0], p=self.groups[k][1]) for k in kinds])
        clean, spoiled = zip(*(view(self.patches[i], rng) for i in members))
        clean, spoiled = np.stack(clean), np.stack(spoiled)
        label = self.label[members].astype(np.float32)
        share = (label >= 0).astype(np.float32)
        if rng.random() < 0.5:  # blend
            keep = rng.beta(0.6, 0.6, size).astype(np.float32)
            keep = np.maximum(keep, 1 - keep)[:, None, None, None]
            other = rng.permutation(size)
            clean, spoiled = (
                np.rint(x * keep + x[other] * (1 - keep)).astype(np.uint8) for x in (clean, spoiled)
            )
            keep = keep.reshape(-1)
            both = (label >= 0) & (label[other] >= 0)
            label = np.where(both, label * keep + label[other] * (1 - keep), label)
            share = both.astype(np.float32)
        views = teacher_view(clean)
        said = np.clip(self.teacher.male(np.concatenate([views, views[:, :, ::-1]])), 1e-7, 1 - 1e-7)
        said = np.log(said / (1 - said)).reshape(2, size).mean(0).clip(-MAX_LOGIT, MAX_LOGIT)
        # Where a label contradicts the teacher, the label alone counts.
        trusted = np.where((share > 0) & ((said > 0) != (label > 0.5)), 0, 1)
        shown = np.where(rng.random(size)[:, None, None, None] < 0.35, clean, spoiled)
        return tuple(
            torch.from_numpy(np.ascontiguousarray(v, v.dtype if v.dtype == np.uint8 else np.float32))
            for v in (shown.transpose(0, 3, 1, 2), said, trusted, np.maximum(label, 0), share)
        )

    def validation(self):
        """Fixed views of the labelled faces held out: clean ones, then spoiled ones."""
        rng = np.random.default_rng(99)
        members = np.flatnonzero((self.split == "val") & (self.label >= 0))
        views = [view(self.patches[i], rng, 0.3, 16) for i in members]
        clean, spoiled = (np.stack(v).transpose(0, 3, 1, 2) for v in zip(*views))
        pixels = torch.from_numpy(np.concatenate([clean, spoiled]))
        kind = np.where(np.isin(self.set[members], UNSEEN), "unseen", "formal")
        kind = np.where(np.isin(self.set[members], tuple(WILD)), "wild", kind)
        group = np.concatenate([np.char.add(kind, "_clean"), np.char.add(kind, "_spoiled")])
        return pixels, np.tile(self.label[members], 2), group


def gender_loss(logits, said, trusted, label, labelled):
    """Cross-entropy against the teacher's softened word and against the label."""
    soft = F.binary_cross_entropy_with_logits(
        logits / TEMPERATURE, torch.sigmoid(said / TEMPERATURE), reduction="none"
    )
    hard = F.binary_cross_entropy_with_logits(logits, label, reduction="none")
    # The soft part's gradient is smaller by the temperature: weigh it back up.
    return (TEMPERATURE * soft * trusted + LABEL_WEIGHT * hard * labelled * (2 - trusted)).mean()


@torch.no_grad()
def predict(model, pixels, device):
    model.eval()
    logits = torch.cat([model(p.to(device).float()).squeeze(1).cpu() for p in pixels.split(128)])
    model.train()
    return logits.numpy()


def figures_of(logits, labels, group):
    """Accuracies per group of held-out faces, and the loss by which weights are chosen."""
    right = (logits > 0) == (labels == 1)
    loss = np.logaddexp(0, np.where(labels == 1, -logits, logits))
    out = {name: round(float(right[group == name].mean()), 4) for name in np.unique(group)}
    out["women"] = round(float(right[labels == 0].mean()), 4)
    out["men"] = round(float(right[labels == 1].mean()), 4)
    # Groups weigh alike, however many faces they hold.
    out["loss"] = round(float(np.mean([loss[group == name].mean() for name in np.unique(group)])), 4)
    return out


def main():
    parser = arguments(__doc__)
    parser.add_argument("--steps", type=int, default=12000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    cv2.setNumThreads(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    out = options.work / "gender"
    out.mkdir(parents=True, exist_ok=True)
    if not (options.work / "patches.npz").exists():
        cut_patches(options.work)
    faces = Faces(options.work, DlibGender(options.teachers / "gender_dlib.onnx"))
    print(f"{len(faces.label)} faces, train {np.count_nonzero(faces.split == 'train')}", flush=True)

    model = FlatfaceGender().to(device, memory_format=torch.channels_last)
    average = FlatfaceGender().to(device)
    average.load_state_dict(model.state_dict())
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.rate, weight_decay=0.02)
    start, best, checkpoint = 0, math.inf, out / "checkpoint.pt"
    if checkpoint.exists():
        saved = torch.load(checkpoint, map_location=device)
        model.load_state_dict(saved["model"])
        average.load_state_dict(saved["average"])
        optimizer.load_state_dict(saved["optimizer"])
        start, best = saved["step"], saved["best"]
    pixels_val, *truth = faces.validation()
    rng = np.random.default_rng((options.seed, start))
    total, began = 0.0, time.time()
    for step in range(start, options.steps):
        rate = options.rate * min(1, (step - start + 1) / 200) * (0.5 * (1 + math.cos(math.pi * step / options.steps)) + 0.003)
        for group in optimizer.param_groups:
            group["lr"] = rate
        pixels, *targets = faces.batch(rng, options.batch)
        pixels = pixels.to(device).float().contiguous(memory_format=torch.channels_last)
        # On a CPU these small maps are faster in 32 bits.
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
            logits = model(pixels)
        loss = gender_loss(logits.float().squeeze(1), *(t.to(device) for t in targets))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            decay = min(0.998, (step + 1) / (step + 20))
            for a, b in zip(average.state_dict().values(), model.state_dict().values()):
                a.lerp_(b, 1 - decay) if a.is_floating_point() else a.copy_(b)
        total += float(loss.detach())
        if (step + 1) % 500 == 0 or step + 1 == options.steps:
            figures = figures_of(predict(average, pixels_val, device), *truth)
            if figures["loss"] < best:
                best = figures["loss"]
                torch.save(average.state_dict(), out / "best.pt")
            torch.save(
                {"model": model.state_dict(), "average": average.state_dict(),
                 "optimizer": optimizer.state_dict(), "step": step + 1, "best": best}, checkpoint,
            )
            speed = (step + 1 - start) * options.batch / (time.time() - began)
            print(json.dumps({"step": step + 1, "train": round(total / 500, 4), **figures, "per_s": round(speed)}), flush=True)
            total = 0.0


if __name__ == "__main__":
    main()
