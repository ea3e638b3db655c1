"""Training pictures made from prepared ones: composition (geometry) and degradation (light, blur).

Composition places pictures on a square canvas so that faces of 8 to 200 pixels appear, in scenes,
mosaics and crowds; faces move with the pictures. Degradation changes pixels only, so a teacher can
look at the clean canvas while the student sees what a poor camera would give.
"""

import cv2
import numpy as np
import torch

from data import EMPTY_SETS, SCENES


def affine(scale_x, scale_y, degrees, mirror, source, target):
    """The 2x3 matrix that scales, mirrors and turns about `source` and carries it to `target`."""
    turn = np.deg2rad(degrees)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    linear = rotation @ np.diag([-scale_x if mirror else scale_x, scale_y])
    shift = np.asarray(target) - linear @ np.asarray(source)
    return np.concatenate([linear, shift[:, None]], 1)


MIRRORED_LANDMARKS = [1, 0, 2, 4, 3]


def move_faces(faces, matrix):
    """Faces under an affine map. A box becomes the upright frame of its turned ellipse."""
    if not len(faces):
        return faces
    linear, shift = matrix[:, :2], matrix[:, 2]
    moved = faces.copy()
    half = faces[:, 3:5] / 2
    centre = (faces[:, 1:3] + half) @ linear.T + shift
    half = np.sqrt((half**2) @ (linear**2).T)
    moved[:, 1:3], moved[:, 3:5] = centre - half, half * 2
    points = faces[:, 5:].reshape(-1, 5, 2) @ linear.T + shift
    if np.linalg.det(linear) < 0:
        points = points[:, MIRRORED_LANDMARKS]
    moved[:, 5:] = points.reshape(-1, 10)
    return moved


def warp(picture, matrix, size, border=cv2.BORDER_CONSTANT, fill=(0, 0, 0), onto=None):
    """`warpAffine`, with the picture shrunk by area first where the map shrinks it a lot.

    With `onto`, a canvas of `size`, pixels outside the picture keep the canvas's.
    """
    scale = np.sqrt(abs(np.linalg.det(matrix[:, :2])))
    if scale < 0.6:
        width = max(1, round(picture.shape[1] * scale))
        height = max(1, round(picture.shape[0] * scale))
        factor = np.diag([picture.shape[1] / width, picture.shape[0] / height])
        picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
        # Pixel centres lie at half: carry (x + 0.5) * factor - 0.5 through the map.
        offset = np.diag(factor) * 0.5 - 0.5
        shift = matrix[:, :2] @ offset + matrix[:, 2]
        matrix = np.concatenate([matrix[:, :2] @ factor, shift[:, None]], 1)
    if onto is not None:
        border = cv2.BORDER_TRANSPARENT
    return cv2.warpAffine(
        picture, matrix, size, dst=onto, flags=cv2.INTER_LINEAR, borderMode=border, borderValue=fill
    )


class Composer:
    """Makes canvases of `side` pixels with their faces, from the training pictures."""

    def __init__(self, prepared, side):
        self.prepared, self.side = prepared, side
        train = prepared.split == "train"
        is_scene, is_empty = np.isin(prepared.set, SCENES), np.isin(prepared.set, EMPTY_SETS)
        self.scenes = np.flatnonzero(train & is_scene)
        self.empty = np.flatnonzero(train & is_empty)
        faces = np.diff(prepared.face_start)
        self.portraits = np.flatnonzero(train & ~is_scene & ~is_empty & (faces > 0))
        # Varied portraits more often than the formal ones, which are many and alike.
        formal = np.isin(prepared.set[self.portraits], ("us_congress_gpo", "uk_parliament"))
        self.portrait_weights = np.where(formal, 0.3, 1.0)
        self.portrait_weights /= self.portrait_weights.sum()

    def __call__(self, rng):
        kinds = (self.scene, self.mosaic, self.tiles, self.crowd, self.background)
        kind = rng.choice(len(kinds), p=(0.46, 0.2, 0.12, 0.17, 0.05))
        canvas, faces = kinds[kind](rng)
        return canvas, inside(faces, self.side)

    def portrait(self, rng):
        return rng.choice(self.portraits, p=self.portrait_weights)

    def place(self, rng, i, scale, source, target, size, spin=None, onto=None):
        """A picture and its faces, warped to a canvas of `size`, or onto a given canvas."""
        if spin is None:
            spin = rng.normal(0, 6) if rng.random() < 0.7 else rng.uniform(-30, 30)
        stretch = np.exp(rng.normal(0, 0.13)) * (0.8 if rng.random() < 0.25 else 1)
        matrix = affine(scale * stretch, scale / stretch, spin, rng.random() < 0.5, source, target)
        border = rng.choice([cv2.BORDER_CONSTANT, cv2.BORDER_REPLICATE])
        fill = tuple(int(v) for v in rng.integers(0, 256, 3))
        picture = warp(self.prepared.picture(i), matrix, size, border, fill, onto)
        return picture, move_faces(self.prepared.faces(i), matrix)

    def scene(self, rng, side=None):
        """A crop of a picture of several people, around one of its faces; small faces preferred."""
        side = side or self.side
        i = rng.choice(self.scenes)
        faces = self.prepared.faces(i)
        height, width = self.prepared.shape[i]
        if len(faces) == 0 or rng.random() < 0.25:
            scale = side / max(height, width) * np.exp(rng.uniform(-0.3, 0.9))
            source = (rng.uniform(0.3, 0.7) * width, rng.uniform(0.3, 0.7) * height)
        else:
            face = faces[rng.integers(len(faces))]
            wanted = np.exp(rng.uniform(np.log(9), np.log(90)))
            scale = np.clip(wanted / np.sqrt(face[3] * face[4]), 0.4 * side / max(height, width), 2.5)
            source = face[1:3] + face[3:5] / 2
        target = rng.uniform(0.15, 0.85, 2) * side
        onto = self.background(rng, side)[0] if rng.random() < 0.5 else None
        return self.place(rng, i, scale, source, target, (side, side), onto=onto)

    def single(self, rng, size, smallest, largest):
        """One portrait in a rectangle, its face of a random size."""
        i = self.portrait(rng)
        face = self.prepared.faces(i)[0]
        wanted = np.exp(rng.uniform(np.log(smallest), np.log(largest)))
        scale = min(wanted / np.sqrt(face[3] * face[4]), 2.0)
        target = rng.uniform(0.25, 0.75, 2) * size
        return self.place(rng, i, scale, face[1:3] + face[3:5] / 2, target, size)

    def mosaic(self, rng):
        """Four pictures around a random cross: portraits, scenes, backgrounds."""
        side = self.side
        cut_x, cut_y = (rng.uniform(0.3, 0.7, 2) * side).astype(int)
        canvas, faces = np.empty((side, side, 3), np.uint8), []
        for x, y, w, h in (
            (0, 0, cut_x, cut_y),
            (cut_x, 0, side - cut_x, cut_y),
            (0, cut_y, cut_x, side - cut_y),
            (cut_x, cut_y, side - cut_x, side - cut_y),
        ):
            if rng.random() < 0.3:
                tile, found = self.scene(rng, max(w, h))
                tile = tile[:h, :w]
            else:
                tile, found = self.single(rng, (int(w), int(h)), 14, 0.9 * max(w, h))
            canvas[y : y + h, x : x + w] = tile
            faces.append(cut(found, x, y, w, h))
        return canvas, np.concatenate(faces)

    def tiles(self, rng):
        """A wall of portraits with small faces."""
        count = rng.integers(3, 8)
        edges = np.linspace(0, self.side, count + 1).astype(int)
        canvas, faces = np.empty((self.side, self.side, 3), np.uint8), []
        for y, y_end in zip(edges, edges[1:]):
            for x, x_end in zip(edges, edges[1:]):
                w, h = int(x_end - x), int(y_end - y)
                canvas[y:y_end, x:x_end], found = self.single(rng, (w, h), 8, 0.7 * w)
                faces.append(cut(found, x, y, w, h))
        return canvas, np.concatenate(faces)

    def background(self, rng, side=None):
        """A picture without faces."""
        side = int(side or self.side)
        i = rng.choice(self.empty)
        height, width = self.prepared.shape[i]
        scale = side / min(height, width) * np.exp(rng.uniform(-0.2, 0.9))
        source = rng.uniform(0.3, 0.7, 2) * (width, height)
        return self.place(rng, i, scale, source, (side / 2,) * 2, (side,) * 2)

    def crowd(self, rng):
        """Heads cut out of portraits, pasted onto a picture, the nearer over the farther."""
        canvas, faces = self.background(rng) if rng.random() < 0.7 else self.scene(rng)
        canvas = canvas.copy()
        base = np.exp(rng.uniform(np.log(9), np.log(45)))
        count = rng.integers(3, 30)
        sizes = np.sort(np.clip(base * np.exp(rng.normal(0, 0.35, count)), 7, 110))
        for size in sizes:
            i = self.portrait(rng)
            face = self.prepared.faces(i)[0]
            half = int(np.ceil(size * 1.25))
            window = (2 * half, 2 * half)
            scale = size / np.sqrt(face[3] * face[4])
            centre = face[1:3] + face[3:5] / 2
            patch, found = self.place(rng, i, scale, centre, (half, half), window, rng.normal(0, 12))
            x, y = (rng.uniform(-0.02, 1.02, 2) * self.side - half).astype(int)
            paste(canvas, patch, head_mask(half, rng), x, y)
            moved = found[:1].copy()
            moved[:, 1:3] += (x, y)
            moved[:, 5:] += np.tile((x, y), 5)
            if len(faces):
                faces = faces[covered(faces, moved[0]) < 0.5]
            faces = np.concatenate([faces, moved])
        return canvas, faces


def head_mask(half, rng):
    """A soft ellipse over head and neck in a window of twice `half`."""
    rows, columns = np.mgrid[-half:half, -half:half] / half
    tall, wide = rng.uniform(0.75, 1.0), rng.uniform(0.5, 0.8)
    distance = np.sqrt((columns / wide) ** 2 + ((rows + 0.02) / tall) ** 2)
    return np.clip((1 - distance) * rng.uniform(4, 12), 0, 1)[..., None].astype(np.float32)


def paste(canvas, patch, mask, x, y):
    """Blend a patch onto the canvas, clipped to it."""
    x1, y1 = max(x, 0), max(y, 0)
    x2, y2 = min(x + patch.shape[1], canvas.shape[1]), min(y + patch.shape[0], canvas.shape[0])
    if x1 >= x2 or y1 >= y2:
        return
    part, weight = patch[y1 - y : y2 - y, x1 - x : x2 - x], mask[y1 - y : y2 - y, x1 - x : x2 - x]
    below = canvas[y1:y2, x1:x2]
    canvas[y1:y2, x1:x2] = (below + weight * (part.astype(np.float32) - below)).astype(np.uint8)


def covered(faces, face):
    """The share of each face's box that another box hides."""
    low = np.maximum(faces[:, 1:3], face[1:3])
    high = np.minimum(faces[:, 1:3] + faces[:, 3:5], face[1:3] + face[3:5])
    return np.clip(high - low, 0, None).prod(1) / np.maximum(faces[:, 3:5].prod(1), 1e-6)


def cut(faces, x, y, w, h):
    """Faces of a tile that are mostly inside it, in canvas coordinates."""
    if not len(faces):
        return faces
    centre = faces[:, 1:3] + faces[:, 3:5] / 2
    faces = faces[((centre > 0) & (centre < (w, h))).all(1)].copy()
    faces[:, 1:3] += (x, y)
    faces[:, 5:] += np.tile((x, y), 5)
    return faces


def inside(faces, side):
    """Faces with their centre on the canvas."""
    centre = faces[:, 1:3] + faces[:, 3:5] / 2
    return faces[((centre > 0) & (centre < side)).all(1)]


# ---- degradation -----------------------------------------------------------------------------


def tone(picture, gamma, gains, offset):
    """A tone curve: gamma, one gain per channel, an offset, all on values of 0 to 1."""
    table = np.arange(256, dtype=np.float32) / 255
    curve = (table**gamma)[:, None] * gains + offset
    curve = (np.clip(curve, 0, 1) * 255).astype(np.uint8)
    return cv2.LUT(picture, curve.reshape(256, 1, 3))


def relight(picture, rng):
    """Brightness, contrast, colour cast, gamma; sometimes dark and noisy, sometimes grey."""
    dark = rng.random() < 0.15
    gamma = np.exp(rng.normal(0.5 if dark else 0, 0.25))
    gain = rng.uniform(0.25, 0.7) if dark else np.exp(rng.normal(0, 0.18))
    picture = tone(picture, gamma, gain * np.exp(rng.normal(0, 0.07, 3)), rng.normal(0, 0.05))
    if rng.random() < 0.12:
        grey = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)
        picture = cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR)
    if dark or rng.random() < 0.15:
        strength = rng.uniform(2, 12)
        noise = rng.standard_normal(picture.shape[:2] + (1,), dtype=np.float32) * strength
        picture = np.clip(picture + noise, 0, 255).astype(np.uint8)
    return picture


def soften(picture, rng, strength=1.0):
    """Out of focus, moved, or shrunk and enlarged."""
    kind = rng.integers(3)
    if kind == 0:
        return cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.3, 1.1) * strength)
    if kind == 1:
        length = int(rng.integers(2, 3 + round(3 * strength)))
        kernel = np.zeros((length, length), np.float32)
        end = rng.uniform(0, length, 2).astype(int)
        cv2.line(kernel, (length // 2, length // 2), (int(end[0]), int(end[1])), 1.0)
        kernel[length // 2, length // 2] = 1
        return cv2.filter2D(picture, -1, kernel / kernel.sum())
    size = picture.shape[1::-1]
    factor = rng.uniform(1.1, 1 + 0.8 * strength)
    small = cv2.resize(picture, [max(1, round(s / factor)) for s in size], interpolation=cv2.INTER_AREA)
    return cv2.resize(small, size, interpolation=cv2.INTER_LINEAR)


def compress(picture, rng, lowest=25):
    """JPEG artefacts."""
    quality = int(rng.integers(lowest, 92))
    return cv2.imdecode(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], 1)


def occlude(picture, faces, rng):
    """A bar of colour or of picture over part of some faces."""
    for face in faces:
        if rng.random() > 0.12 or face[3] < 12:
            continue
        x, y, w, h = face[1:5]
        bar_w, bar_h = w * rng.uniform(0.3, 1.0), h * rng.uniform(0.15, 0.4)
        left, top = x + rng.uniform(-0.2, 0.7) * w, y + rng.uniform(0, 0.7) * h
        box = np.clip([left, top, left + bar_w, top + bar_h], 0, picture.shape[0]).astype(int)
        picture[box[1] : box[3], box[0] : box[2]] = rng.integers(0, 256, 3)
    return picture


def degrade(picture, faces, rng):
    """A copy of a canvas as a poor camera would give it; about a fifth is left nearly as it is."""
    picture = relight(picture, rng) if rng.random() < 0.8 else picture.copy()
    if rng.random() < 0.3:
        picture = occlude(picture, faces, rng)
    if rng.random() < 0.35:
        picture = soften(picture, rng)
    if rng.random() < 0.4:
        picture = compress(picture, rng)
    return picture


def relit(pixels, generator):
    """A batch of pixels (a float tensor) with another gain, cast and offset for each picture."""
    count = len(pixels)
    gain = torch.exp(0.2 * torch.randn(count, 1, 1, 1, generator=generator))
    cast = torch.exp(0.06 * torch.randn(count, 3, 1, 1, generator=generator))
    offset = 12 * torch.randn(count, 1, 1, 1, generator=generator)
    return (pixels * (gain * cast).to(pixels.device) + offset.to(pixels.device)).clamp(0, 255)
