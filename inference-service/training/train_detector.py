"""Train flatface-det: learn from YuNet's dense maps, corrected by labels from larger pictures.

For every canvas the teacher is asked on clean pixels; the student sees them degraded. Where the
labels (made by the teacher at several scales, and by people) name a face that the teacher misses at
this size, the cells of that face are raised to positives; where the teacher fires and no label is
near, the cells are lowered to zero. Each canvas is used twice: as made, and later mirrored and
relit.
"""

import json
from collections import deque
from copy import copy
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from augment import MIRRORED_LANDMARKS, Composer, degrade, relit
from data import SCENES, Prepared, arguments
from detector import STRIDES, FlatfaceDet, decode_heads, suppress
from evaluate import average_precision
from schedule import Schedule, add_arguments
from teachers import YuNet, pad32, shrink
from warm_start import load_folded, recover_norms

RAISED = 0.85  # the target of a face that the teacher misses
CHECK_EVERY = 500  # updates between checkpoints
WARM_BATCHES = 8  # by which the norms of a network from an ONNX file are measured
# Sizes of the held-out pictures: with one or two of them, chance chooses the weights.
VAL_SIDES = (512, 416, 320, 256, 224, 160)
FIGURES = tuple(f"val_ap_{side}" for side in VAL_SIDES)
LEVEL_LIMITS = (36, 100)  # face sizes (square root of area) that part the three strides


def raise_and_lower(targets, faces, side):
    """Correct one picture's teacher maps in place: `targets` is a list of (cells, 15) per stride."""
    boxes = faces[:, 1:5]
    half = np.maximum(boxes[:, 2:], 1e-3) / 2
    centres = boxes[:, :2] + half
    sizes = np.sqrt(boxes[:, 2] * boxes[:, 3])
    best = np.zeros(len(faces))
    for stride, target in zip(STRIDES, targets):
        cells = np.flatnonzero(target[:, 0] > 0.1)
        columns, rows = cells % (side // stride), cells // (side // stride)
        centre = (target[cells, 1:3] + np.stack([columns, rows], 1)) * stride
        if not len(faces):
            target[cells, 0] = 0
            continue
        # How far, in half boxes, each predicted centre is from each face, and how sizes compare.
        distance = (np.abs(centre[:, None] - centres) / half).max(2)
        size = np.exp(target[cells, 3:5].mean(1)) * stride
        alike = np.abs(np.log(size[:, None] / sizes)) < 0.6
        known = (distance < 0.5) & alike
        np.maximum.at(best, np.nonzero(known)[1], target[cells][np.nonzero(known)[0], 0])
        target[cells[~((distance < 0.8) & alike).any(1)], 0] = 0
    for face, size, centre, teacher in zip(faces, sizes, centres, best):
        if face[0] < 0.6 or teacher > 0.5 or size < 7:
            continue
        level = np.searchsorted(LEVEL_LIMITS, size)
        stride, target = STRIDES[level], targets[level]
        across = side // stride
        column, row = centre / stride
        for r in range(int(row - 0.25), int(row + 0.25) + 1):
            for c in range(int(column - 0.25), int(column + 0.25) + 1):
                # A cell predicts best from where the teacher would: floor of the centre, and
                # its neighbour when the centre lies near the edge between them.
                if 0 <= r < across and 0 <= c < across:
                    cell = target[r * across + c]
                    cell[0] = max(cell[0], RAISED * face[0])
                    cell[1:3] = column - c, row - r
                    cell[3:5] = np.log(np.maximum(face[3:5], 1) / stride)
                    cell[5:] = (face[5:] / stride) - np.tile([c, r], 5)


class Batches(Dataset):
    """Batch number i, made from the seed and i alone: pixels, targets, the teacher's features if wanted."""

    def __init__(self, work, yunet, side, size, count, seed, features):
        self.work, self.yunet, self.side, self.features = work, yunet, side, features
        self.size, self.count, self.seed = size, count, seed
        self.composer = None

    def __len__(self):
        return self.count

    def __getitem__(self, number):
        if self.composer is None:  # opened in the loading process
            import cv2

            cv2.setNumThreads(0)
            self.composer = Composer(Prepared(self.work), self.side)
            self.teacher = YuNet(self.yunet, self.features)
        rng = np.random.default_rng((self.seed, number))
        canvases, labels = zip(*(self.composer(rng) for _ in range(self.size)))
        levels, features = self.teacher.dense(np.stack(canvases))
        maps = [np.concatenate([s[..., None], b, k], 2) for s, b, k in levels]
        for i, faces in enumerate(labels):
            raise_and_lower([m[i] for m in maps], faces, self.side)
        pixels = np.stack([degrade(c, f, rng) for c, f in zip(canvases, labels)])
        maps = [
            m.transpose(0, 2, 1).reshape(self.size, 15, self.side // s, self.side // s)
            for m, s in zip(maps, STRIDES)
        ]
        return (
            torch.from_numpy(pixels.transpose(0, 3, 1, 2)),
            [torch.from_numpy(np.ascontiguousarray(m)) for m in maps],
            [torch.from_numpy(f).bfloat16() for f in features],
        )


def mirror(pixels, maps):
    """A batch seen in a mirror: columns reversed, offsets in x turned round, left and right swapped."""
    flipped = []
    for m in maps:
        m = m.flip(3)
        m = torch.cat([m[:, :1], 1 - m[:, 1:2], m[:, 2:5], m[:, 5:].reshape(-1, 5, 2, *m.shape[2:])
                       [:, MIRRORED_LANDMARKS].flatten(1, 2)], 1)
        m[:, 5::2] = 1 - m[:, 5::2]
        flipped.append(m)
    return pixels.flip(3), flipped


def detection_loss(heads, maps):
    """Score by cross-entropy against the soft target; box and landmarks where there is a face."""
    score = box = points = overlap = 0.0
    weight = sum(m[:, 0].sum() for m in maps) + 1
    for head, target in zip(heads, maps):
        t = target[:, 0]
        soft = F.binary_cross_entropy_with_logits(head[:, 0], t, reduction="none")
        floor = F.binary_cross_entropy(t, t, reduction="none")
        score = score + ((soft - floor) * (1 + 2 * t)).sum()
        mask = (t > 0.15) & torch.isfinite(target).all(1) | (t > 0.5)
        if not mask.any():
            continue
        w = t[mask]
        p, q = head.permute(0, 2, 3, 1)[mask], target.permute(0, 2, 3, 1)[mask]
        box = box + (F.smooth_l1_loss(p[:, 1:5], q[:, 1:5], reduction="none", beta=0.1).sum(1) * w).sum()
        overlap = overlap + ((1 - pair_iou(p, q)) * w).sum()
        known = torch.isfinite(q[:, 5:]).all(1)
        scale = torch.exp(-q[:, 3:5].mean(1, keepdim=True)).clamp(max=2)
        error = F.smooth_l1_loss(p[:, 5:] * scale, q[:, 5:].nan_to_num() * scale, reduction="none", beta=0.05)
        points = points + (error.sum(1) * w * known).sum()
    return score / weight, (box + 2 * overlap) / weight, points / weight


def pair_iou(p, q):
    """Overlap of boxes in the head's coding, row by row."""
    size_p, size_q = torch.exp(p[:, 3:5].clamp(max=6)), torch.exp(q[:, 3:5])
    low = torch.maximum(p[:, 1:3] - size_p / 2, q[:, 1:3] - size_q / 2)
    high = torch.minimum(p[:, 1:3] + size_p / 2, q[:, 1:3] + size_q / 2)
    both = (high - low).clamp(min=0).prod(1)
    return both / (size_p.prod(1) + size_q.prod(1) - both + 1e-6)


@torch.no_grad()
def validate(model, prepared, device):
    """AP on the held-out scenes at each of VAL_SIDES; every face of at least 8 px that is surely one."""
    model.eval()
    figures = []
    for side in VAL_SIDES:
        found = []
        for i in np.flatnonzero((prepared.split == "val") & np.isin(prepared.set, SCENES)):
            picture, factor = shrink(prepared.picture(i), side)
            padded = pad32(picture)
            batch = torch.from_numpy(padded.transpose(2, 0, 1)[None]).float().to(device)
            heads = [h[0].float().cpu().numpy() for h in model(batch)]
            faces = prepared.faces(i)
            boxes = faces[:, 1:5] * factor
            ignored = (faces[:, 0] < 0.6) | (boxes[:, 2] < 8)
            found.append((suppress(decode_heads(heads, *padded.shape[:2], 0.02)), boxes, ignored))
        figures.append(average_precision(found)[0])
    model.train()
    return figures


def main():
    parser = arguments(__doc__)
    add_arguments(parser, steps=20000, rate=3e-3)
    parser.add_argument("--from", dest="origin", type=Path, help="start from this exported ONNX file")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--log", type=int, default=100, help="updates between lines of the log")
    parser.add_argument("--hint-until", type=float, default=0.7, help="share of the run with feature hints; 0: none")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    out = options.work / "detector"
    out.mkdir(parents=True, exist_ok=True)

    start, best, spent, checkpoint = 0, 0.0, 0.0, out / "checkpoint.pt"
    prepared = Prepared(options.work)
    yunet = options.teachers / "yunet_n_dynamic.onnx"
    batches = Batches(
        options.work, yunet, options.side, options.batch, options.steps, options.seed, options.hint_until > 0
    )
    model = FlatfaceDet().to(device, memory_format=torch.channels_last)
    if options.origin and not checkpoint.exists():
        load_folded(model, options.origin)
        # A copy, because a loader must not inherit an open teacher; batches beyond the run's end.
        beyond = copy(batches)
        recover_norms(model, (beyond[options.steps + i][0].to(device).float() for i in range(WARM_BATCHES)))
        figures = validate(model, prepared, device)
        best = float(np.mean(figures))
        torch.save(model.state_dict(), out / "best.pt")
        print(json.dumps({"from": str(options.origin), **dict(zip(FIGURES, figures))}), flush=True)
    adapters = nn.ModuleList(nn.Conv2d(64, 64, 1) for _ in STRIDES).to(device)
    average = FlatfaceDet().to(device)
    average.load_state_dict(model.state_dict())
    decayed = [p for p in (*model.parameters(), *adapters.parameters()) if p.ndim > 1]
    others = [p for p in (*model.parameters(), *adapters.parameters()) if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 1e-3}, {"params": others, "weight_decay": 0}], lr=options.rate
    )
    if checkpoint.exists():
        saved = torch.load(checkpoint, map_location=device)
        for name, part in (("model", model), ("average", average), ("adapters", adapters)):
            part.load_state_dict(saved[name])
        optimizer.load_state_dict(saved["optimizer"])
        start, best, spent = saved["step"], saved["best"], saved["seconds"]
        print(f"resuming at step {start}")

    unseen = torch.utils.data.Subset(batches, range(start // 2, options.steps))
    loader = iter(DataLoader(unseen, batch_size=None, num_workers=options.loaders, prefetch_factor=4))
    schedule = Schedule(options, 300, start, spent)
    generator = torch.Generator().manual_seed(options.seed + start)
    earlier, feature_scale = deque(maxlen=48), None
    sums, step, over = np.zeros(4), start, False
    while not over:
        progress = schedule.progress(step)
        for group in optimizer.param_groups:
            group["lr"] = rate = schedule.rate(step)
        echo = step % 2 == 1 and len(earlier) >= 24
        if echo:
            index = int(torch.randint(len(earlier) // 2, (1,), generator=generator))
            pixels, maps = earlier[index]
            del earlier[index]
            pixels, maps = mirror(pixels.to(device), [m.to(device) for m in maps])
            pixels, features = relit(pixels.float(), generator), None
        else:
            pixels, maps, features = next(loader)
            earlier.append((pixels, maps))
            pixels, maps = pixels.to(device).float(), [m.to(device) for m in maps]
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            maps_seen = model.features(pixels)
            hint = 0.0
            if features and progress < options.hint_until:
                features = [f.to(device).float() for f in features]
                if feature_scale is None:
                    feature_scale = [1 / (f.std((0, 2, 3), keepdim=True) + 0.1) for f in features]
                for seen, adapter, wanted, scale in zip(maps_seen, adapters, features, feature_scale):
                    hint = hint + (((adapter(seen) - wanted) * scale).float() ** 2).mean()
                hint = hint * (1 - progress / options.hint_until)
        heads = [head(seen.float()) for head, seen in zip(model.heads, maps_seen)]
        score, box, points = detection_loss(heads, maps)
        loss = score + box + 0.5 * points + hint
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        step += 1
        over = schedule.progress(step) == 1
        with torch.no_grad():
            decay = min(0.999, step / (step + 19))
            for a, b in zip(average.state_dict().values(), model.state_dict().values()):
                a.lerp_(b.to(a.dtype), 1 - decay) if a.is_floating_point() else a.copy_(b)
        sums += [float(part.detach()) if torch.is_tensor(part) else part for part in (score, box, points, hint)]
        if step % options.log == 0:
            score, box, points, hint = sums / options.log
            print(f"{step} score {score:.3f} box {box:.3f} points {points:.3f} hint {2 * hint:.3f} "
                  f"lr {rate:.5f} {schedule.seconds() / 60:.1f} min", flush=True)
            sums[:] = 0
        if step % CHECK_EVERY == 0 or over:
            figures = validate(average, prepared, device)
            if np.mean(figures) >= best:
                best = float(np.mean(figures))
                torch.save(average.state_dict(), out / "best.pt")
            torch.save(
                {"model": model.state_dict(), "average": average.state_dict(),
                 "adapters": adapters.state_dict(), "optimizer": optimizer.state_dict(), "step": step,
                 "best": best, "seconds": schedule.seconds()},
                checkpoint,
            )
            print(json.dumps({"step": step, **dict(zip(FIGURES, figures))}), flush=True)


if __name__ == "__main__":
    main()
