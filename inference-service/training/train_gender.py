"""Train flatface-gender from the labelled faces and from what dlib's classifier says of all faces.

Every face is first cut out once, aligned, in a large patch. A training crop is a jittered view of a
patch, brought down to a small face and spoiled like a poor camera's. The teacher sees the same view
unspoiled, also when two views are blended or put together from parts (such faces are where it says
most that no set holds). Labels of the sets count more than the teacher where there are any. Each
batch is used twice: as made, and later mirrored and relit.
"""

import json
import math
from collections import deque

import cv2
import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from augment import compress, relight, relit, soften, tone
from data import SCENES, Prepared, arguments
from gender import PADDING, SIDE, TARGETS, FlatfaceGender, sample, similarity
from schedule import Schedule, add_arguments
from teachers import DLIB_SHAPE, DLIB_SIDE, DlibGender

PATCH = 160
PATCH_PADDING = 0.9
PATCH_TARGETS = (PATCH_PADDING + DLIB_SHAPE) / (1 + 2 * PATCH_PADDING) * PATCH
WILD = {"fairface_540": 6, "pixabay_943": 8}  # sets with no `val` rows: every nth picture is held out
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
    if rng.random() < 0.5 * jitter:  # light that the teacher sees too
        gains = np.exp(rng.normal(0, 0.1)) * np.exp(rng.normal(0, 0.05, 3))
        fine = tone(fine, np.exp(rng.normal(0, 0.15)), gains, 0)
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


def mixing_masks(rng, size):
    """How much of each of `size` faces stays when another is mixed in: (masks, of which kind).

    Kind 0 stays as it is, 1 is blended, 2 is put together from parts of two faces along a soft
    edge, 3 keeps its features and gets the other's hair, clothes and background, which differ more
    by source than by gender. The alignment makes each of them a face again.
    """
    kind = rng.choice(4, size, p=(0.35, 0.25, 0.2, 0.2))
    keep = rng.beta(0.6, 0.6, size)
    masks = np.where(kind == 1, np.maximum(keep, 1 - keep), 1.0)[:, None, None] * np.ones((SIDE, SIDE))
    rows, columns = np.mgrid[0:SIDE, 0:SIDE] + 0.5 - SIDE / 2
    for i in np.flatnonzero(kind == 2):
        turn, middle = rng.uniform(0, 2 * np.pi), rng.normal(0, SIDE / 10)
        distance = columns * np.cos(turn) + rows * np.sin(turn) - middle
        masks[i] = 1 / (1 + np.exp(-distance / rng.uniform(0.5, 2.5)))
    unit = SIDE / (1 + 2 * PADDING)
    for i in np.flatnonzero(kind == 3):
        reach = rng.uniform(0.6, 0.85) * unit  # the features of the mean face end at 0.4
        distance = np.hypot(columns, rows) - reach
        masks[i] = 1 / (1 + np.exp(distance / rng.uniform(0.5, 2.5)))
    return masks.astype(np.float32)[..., None], kind


class Faces:
    """The patches, and draws of them."""

    def __init__(self, work):
        file = np.load(work / "patches.npz")
        self.patches, self.label, self.set = file["patches"], file["label"], file["set"]
        self.split, self.age = file["split"], file["age"]
        train = self.split == "train"
        self.groups, self.weights = [], []
        # Women, men and faces without a label; varied sets more often than formal portraits.
        for label, share in ((0, 0.36), (1, 0.36), (-1, 0.28)):
            members = np.flatnonzero(train & (self.label == label))
            often = np.ones(len(members))
            often[self.set[members] == "fairface_540"] = 4
            often[self.set[members] == "pixabay_943"] = 2
            often[np.isin(self.set[members], ("us_congress_gpo", "uk_parliament"))] = 0.7
            self.groups.append((members, often / often.sum()))
            self.weights.append(share)

    def draw(self, rng, size):
        """Views of `size` faces, some mixed: (clean, spoiled, label, whether labelled)."""
        kinds = rng.choice(3, size, p=self.weights)
        members = np.array([rng.choice(self.groups[k][0], p=self.groups[k][1]) for k in kinds])
        clean, spoiled = (np.stack(v) for v in zip(*(view(self.patches[i], rng) for i in members)))
        masks, kind = mixing_masks(rng, size)
        other = rng.permutation(size)
        clean, spoiled = (
            np.rint(x * masks + x[other] * (1 - masks)).astype(np.uint8) for x in (clean, spoiled)
        )
        label = self.label[members].astype(np.float32)
        both = (label >= 0) & (label[other] >= 0)
        # Of a face put together from a woman's and a man's, only the teacher can say anything.
        alone = (kind == 0) | (kind == 3)
        labelled = np.select([alone, kind == 1], [label >= 0, both], both & (label == label[other]))
        keep = np.where(alone, 1, masks.mean((1, 2, 3)))
        return clean, spoiled, label * keep + label[other] * (1 - keep), labelled

    def validation(self):
        """Fixed views of the labelled faces held out: clean ones, then spoiled ones; labels; groups."""
        rng = np.random.default_rng(99)
        members = np.flatnonzero((self.split == "val") & (self.label >= 0))
        views = [view(self.patches[i], rng, 0.3, 16) for i in members]
        clean, spoiled = (np.stack(v).transpose(0, 3, 1, 2) for v in zip(*views))
        pixels = torch.from_numpy(np.concatenate([clean, spoiled]))
        kind = np.where(np.isin(self.set[members], tuple(WILD)), "wild", "formal")
        group = np.concatenate([np.char.add(kind, "_clean"), np.char.add(kind, "_spoiled")])
        return pixels, np.tile(self.label[members], 2), group


class Batches(Dataset):
    """Batch number i, made from the seed and i alone: pixels and what `gender_loss` wants."""

    def __init__(self, faces, teacher, size, count, seed):
        self.faces, self.path, self.teacher = faces, teacher, None
        self.size, self.count, self.seed = size, count, seed

    def __len__(self):
        return self.count

    def __getitem__(self, number):
        if self.teacher is None:  # opened in the loading process
            cv2.setNumThreads(0)
            self.teacher = DlibGender(self.path)
        rng = np.random.default_rng((self.seed, number))
        clean, spoiled, label, labelled = self.faces.draw(rng, self.size)
        views = teacher_view(clean)
        said = np.clip(self.teacher.male(np.concatenate([views, views[:, :, ::-1]])), 1e-7, 1 - 1e-7)
        said = np.log(said / (1 - said)).reshape(2, self.size).mean(0).clip(-MAX_LOGIT, MAX_LOGIT)
        # Where a label contradicts the teacher, the label alone counts.
        trusted = ~(labelled & ((said > 0) != (label > 0.5)))
        shown = np.where(rng.random(self.size)[:, None, None, None] < 0.35, clean, spoiled)
        targets = (said, trusted, np.where(labelled, label, 0), labelled)
        return [
            torch.from_numpy(np.ascontiguousarray(shown.transpose(0, 3, 1, 2))),
            *(torch.from_numpy(t.astype(np.float32)) for t in targets),
        ]


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
    add_arguments(parser, steps=12000, rate=3e-3)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seed", type=int, default=11)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    out = options.work / "gender"
    out.mkdir(parents=True, exist_ok=True)
    if not (options.work / "patches.npz").exists():
        cut_patches(options.work)
    faces = Faces(options.work)
    print(f"{len(faces.label)} faces, train {np.count_nonzero(faces.split == 'train')}", flush=True)

    model = FlatfaceGender().to(device, memory_format=torch.channels_last)
    average = FlatfaceGender().to(device)
    average.load_state_dict(model.state_dict())
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.rate, weight_decay=0.02)
    start, best, spent, checkpoint = 0, math.inf, 0.0, out / "checkpoint.pt"
    if checkpoint.exists():
        saved = torch.load(checkpoint, map_location=device)
        model.load_state_dict(saved["model"])
        average.load_state_dict(saved["average"])
        optimizer.load_state_dict(saved["optimizer"])
        start, best, spent = saved["step"], saved["best"], saved["seconds"]
    pixels_val, *truth = faces.validation()
    batches = Batches(faces, options.teachers / "gender_dlib.onnx", options.batch, options.steps, options.seed)
    unseen = torch.utils.data.Subset(batches, range(start // 2, options.steps))
    loader = iter(DataLoader(unseen, batch_size=None, num_workers=options.loaders, prefetch_factor=4))
    schedule = Schedule(options, 200, start, spent)
    generator = torch.Generator().manual_seed(options.seed + start)
    earlier, total, count, step, over = deque(maxlen=64), 0.0, 0, start, False
    while not over:
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(step)
        if step % 2 == 1 and len(earlier) >= 32:
            index = int(torch.randint(len(earlier) // 2, (1,), generator=generator))
            pixels, *targets = earlier[index]
            del earlier[index]
            pixels = relit(pixels.to(device).float().flip(3), generator)
        else:
            pixels, *targets = batch = next(loader)
            earlier.append(batch)
            pixels = pixels.to(device).float()
        # On a CPU these small maps are faster in 32 bits.
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
            logits = model(pixels.contiguous(memory_format=torch.channels_last))
        loss = gender_loss(logits.float().squeeze(1), *(t.to(device) for t in targets))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        step += 1
        over = schedule.progress(step) == 1
        with torch.no_grad():
            decay = min(0.998, step / (step + 19))
            for a, b in zip(average.state_dict().values(), model.state_dict().values()):
                a.lerp_(b, 1 - decay) if a.is_floating_point() else a.copy_(b)
        total, count = total + float(loss.detach()), count + 1
        if step % 500 == 0 or over:
            figures = figures_of(predict(average, pixels_val, device), *truth)
            if figures["loss"] < best:
                best = figures["loss"]
                torch.save(average.state_dict(), out / "best.pt")
            torch.save(
                {"model": model.state_dict(), "average": average.state_dict(), "optimizer": optimizer.state_dict(),
                 "step": step, "best": best, "seconds": schedule.seconds()}, checkpoint,
            )
            line = {"step": step, "progress": round(schedule.progress(step), 3), "train": round(total / count, 4)}
            print(json.dumps({**line, **figures, "minutes": round(schedule.seconds() / 60, 1)}), flush=True)
            total, count = 0.0, 0


if __name__ == "__main__":
    main()
