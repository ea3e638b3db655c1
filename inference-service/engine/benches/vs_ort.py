#!/usr/bin/env python3
"""Times our engine and ONNX Runtime in turns, one thread each, so that both see the same machine.

    pip install onnxruntime numpy
    cargo build --release -p flatframe-engine --example engine_speed
    python inference-service/engine/benches/vs_ort.py [ROUNDS [SECONDS]]

Each round times every model with ONNX Runtime, with tract's own operators and with ours, for SECONDS
(0.5) each, and takes the time that a tenth of the runs stays below: on a machine shared with others the
median says more about them. Prints medians over ROUNDS (5), and the medians of the ratios to what ONNX
Runtime needed in the same round for the same model and for YuNet-n, which is left out without ../shared.
"""

import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime

SERVICE = Path(__file__).resolve().parents[2]
YUNET = SERVICE.parents[1] / "shared/models/yunet_n_dynamic.onnx"
OURS = SERVICE.parent / "target/release/examples/engine_speed"
MODELS = [
    (SERVICE / "models/flatface-det.onnx", (3, 256, 320)),
    (SERVICE / "models/flatface-gender.onnx", None),
    (YUNET, (3, 256, 320)),
]


def session(file):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def ort_ms(session, shape, seconds):
    values = (np.arange(np.prod(shape)) * 7919 % 256).astype(np.float32).reshape(1, *shape)
    feed = {session.get_inputs()[0].name: values}
    for _ in range(10):
        session.run(None, feed)
    times, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        session.run(None, feed)
        times.append((time.perf_counter() - start) * 1e3)
    return sorted(times)[len(times) // 10]


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 0.5
    models = {}
    for file, shape in MODELS:
        if file.is_file():
            net = session(file)
            models[file.stem] = (file, net, shape or tuple(net.get_inputs()[0].shape[1:]))
    times = {}
    for _ in range(rounds):
        for name, (file, net, shape) in models.items():
            times.setdefault((name, "ONNX Runtime"), []).append(ort_ms(net, shape, seconds))
            outputs = ",".join(output.name for output in net.get_outputs())
            model = f"{file}:{'x'.join(map(str, shape))}:{outputs}"
            command = [OURS, "--seconds", str(seconds), "--model", model]
            text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            for ops, ms in re.findall(r" (tract|own): .*?p10 ([0-9.]+),", text):
                times.setdefault((name, ops), []).append(float(ms))
    base = times.get((YUNET.stem, "ONNX Runtime"))
    print(f"p10, medians of {rounds} rounds of {seconds} s; ONNX Runtime {onnxruntime.__version__}; one thread")
    print("| model | runtime | ms | x of ONNX Runtime, same model | x of ONNX Runtime, YuNet-n |\n|---|---|---|---|---|")
    for (name, ops), ms in times.items():
        same = statistics.median(a / b for a, b in zip(ms, times[name, "ONNX Runtime"]))
        yunet = f"{statistics.median(a / b for a, b in zip(ms, base)):.2f}" if base else ""
        print(f"| {name} | {ops} | {statistics.median(ms):.3f} | {same:.2f} | {yunet} |")


main()
