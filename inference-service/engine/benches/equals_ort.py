#!/usr/bin/env python3
"""Compares the raw outputs of our engine with ONNX Runtime's, for every manifest with weights at hand.

    pip install onnxruntime numpy pillow
    cargo build --release -p flatframe-engine --example engine_outputs
    python inference-service/engine/benches/equals_ort.py [PICTURES]

Takes PICTURES (100) pictures from ../shared/data, evenly from all sets. Both sides get the same input
tensors, so that neither decoding nor resizing is compared. Prints, for each output, the greatest
difference, the greatest value of the output, and the one as a part of the other: an output that is no
probability (a logit, a box in pixels) can be large, and a difference of 1e-3 then means something else.
"""

import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

SERVICE = Path(__file__).resolve().parents[2]
SHARED = SERVICE.parents[1] / "shared"
OURS = SERVICE.parent / "target/release/examples/engine_outputs"


def pictures(count):
    """Paths, in turns from every set."""
    sets = [sorted((folder / "images").iterdir()) for folder in sorted(SHARED.glob("data/*")) if folder.is_dir()]
    found = []
    for turn in range(count):
        for files in sets:
            if turn * 7 < len(files) and len(found) < count:
                found.append(files[turn * 7])
    return found


def tensors(paths, spec):
    """The pictures as the manifest wants them: 1 x channels x height x width."""
    width, height = map(int, spec["size"].split("x"))
    for path in paths:
        picture = Image.open(path).convert("L" if spec["colour"] == "grey" else "RGB")
        scale = min(width / picture.width, height / picture.height)
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        pixels = np.asarray(picture.resize(size, Image.BILINEAR), np.float32)
        pixels = pixels.reshape(size[1], size[0], -1)
        if spec["colour"] == "bgr":
            pixels = pixels[:, :, ::-1]
        values = np.zeros((1, pixels.shape[2], height, width), np.float32)
        normal = (pixels - np.float32(spec["mean"])) * np.float32(spec["scale"])
        values[0, :, : size[1], : size[0]] = normal.transpose(2, 0, 1)
        yield values


def main():
    paths = pictures(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
    print(f"{len(paths)} pictures, ONNX Runtime {onnxruntime.__version__}")
    print("| model | output | max abs difference | max abs value | relative to it |\n|---|---|---|---|---|")
    for manifest in sorted((SERVICE / "models").glob("*.toml")):
        spec = tomllib.loads(manifest.read_text())
        files = [folder / spec["weights"]["file"] for folder in (SERVICE / "models", SHARED / "models")]
        file = next((file for file in files if file.is_file()), None)
        if file is None:
            print(f"| {manifest.stem} | no weights at hand | | | |")
            continue
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        inputs = list(tensors(paths, spec["input"]))
        expected = [session.run(None, {session.get_inputs()[0].name: values}) for values in inputs]
        with tempfile.TemporaryDirectory() as folder:
            given, made = Path(folder) / "inputs", Path(folder) / "outputs"
            np.concatenate(inputs).tofile(given)
            shape = "x".join(map(str, inputs[0].shape[1:]))
            subprocess.run([OURS, f"{file}:{shape}:{','.join(names)}", given, made], check=True)
            found = np.fromfile(made, np.float32).reshape(len(paths), -1)
        at = 0
        for index, name in enumerate(names):
            theirs = np.stack([outputs[index].ravel() for outputs in expected])
            ours = found[:, at : at + theirs.shape[1]]
            at += theirs.shape[1]
            worst, greatest = np.abs(ours - theirs).max(), np.abs(theirs).max()
            print(f"| {manifest.stem} | {name} | {worst:.1e} | {greatest:.3g} | {worst / greatest:.1e} |")


main()
