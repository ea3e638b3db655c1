"""Write the trained networks as ONNX: batch norms folded, input scale folded, nothing else in the graph.

The graphs are built node by node, so that they hold exactly what the engine is meant to run, with
readable names. Each is compared with PyTorch on random pictures before it is kept. What an operator
chooses (score threshold, unknown band) is worked out on validation pictures and stored as metadata.
"""

from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch.nn.utils.fusion import fuse_conv_bn_eval

from data import SCENES, Prepared, arguments
from detector import STRIDES, FlatfaceDet, iou
from evaluate import Flatface
from gender import PADDING, SIDE, TARGETS, FlatfaceGender
from teachers import session, shrink

HERE = Path(__file__).resolve().parent
OPSET = 13
IR_VERSION = 8
INPUT_SCALE = 1 / 64
DECIDED_ACCURACY = 0.97  # the unknown band is as narrow as this allows on the validation faces


class Graph:
    """A list of nodes and weights; every method adds a layer and returns its output's name."""

    def __init__(self):
        self.nodes, self.weights = [], []

    def add(self, kind, inputs, output, **attributes):
        self.nodes.append(helper.make_node(kind, inputs, [output], output, **attributes))
        return output

    def weight(self, name, values):
        array = np.ascontiguousarray(values, np.float32)
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def conv(self, name, x, conv, norm=None, relu=True, scale=1.0):
        """A convolution with its batch norm folded in, and ReLU."""
        if norm is not None:
            conv = fuse_conv_bn_eval(conv.eval(), norm.eval())
        inputs = [x, self.weight(f"{name}.weight", conv.weight.detach().numpy() * scale)]
        if conv.bias is not None:
            inputs.append(self.weight(f"{name}.bias", conv.bias.detach().numpy()))
        size, pad = conv.kernel_size[0], conv.padding[0]
        y = self.add(
            "Conv", inputs, name, kernel_shape=[size] * 2, strides=list(conv.stride),
            pads=[pad] * 4, group=conv.groups,
        )
        return self.add("Relu", [y], f"{name}.relu") if relu else y

    def pool(self, name, x):
        return self.add("MaxPool", [x], name, kernel_shape=[2, 2], strides=[2, 2])

    def model(self, name, inputs, outputs, metadata):
        graph = helper.make_graph(self.nodes, name, inputs, outputs, self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="flatframe")
        model.ir_version = IR_VERSION
        helper.set_model_props(model, metadata)
        onnx.checker.check_model(model, full_check=True)
        return model


def tensor(name, shape):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def detector_graph(net, metadata):
    """FlatfaceDet as ONNX: input 1 x 3 x H x W, outputs head_8, head_16, head_32."""
    net = net.eval()
    g = Graph()

    def separable(name, x, layer):
        x = g.conv(f"{name}.pointwise", x, layer.pointwise, relu=False)
        return g.conv(f"{name}.depthwise", x, layer.depthwise, layer.norm, relu=layer.norm is not None)

    def stage(name, x, layers):
        for i, layer in enumerate(layers):
            x = separable(f"{name}.{i}", x, layer)
        return x

    x = g.conv("stem", "input", net.stem, net.stem_norm, scale=INPUT_SCALE)
    x = g.pool("pool4", separable("stage2", x, net.stage2))
    c8 = stage("stage8", g.pool("pool8", stage("stage4", x, net.stage4)), net.stage8)
    c16 = stage("stage16", g.pool("pool16", c8), net.stage16)
    c32 = stage("stage32", g.pool("pool32", c16), net.stage32)
    double = g.weight("double", [1, 1, 2, 2])

    def merge(name, fine, coarse):
        up = g.add(
            "Resize", [coarse, "", double], f"{name}.up", mode="nearest",
            coordinate_transformation_mode="asymmetric", nearest_mode="floor",
        )
        return g.add("Add", [fine, up], f"{name}.sum")

    p32 = separable("lateral32", c32, net.lateral[2])
    p16 = separable("lateral16", merge("p16", c16, p32), net.lateral[1])
    p8 = separable("lateral8", merge("p8", c8, p16), net.lateral[0])
    for i, (stride, p) in enumerate(zip(STRIDES, (p8, p16, p32))):
        x = separable(f"shared{stride}", p, net.shared[i])
        x = separable(f"last{stride}", x, net.heads[i])
        # The last layer takes the output's name.
        g.nodes[-1].output[0] = g.nodes[-1].name = f"head_{stride}"
    outputs = [tensor(f"head_{s}", [1, 15, f"H/{s}", f"W/{s}"]) for s in STRIDES]
    return g.model("flatface-det", [tensor("input", [1, 3, "H", "W"])], outputs, metadata)


def gender_graph(net, metadata):
    """FlatfaceGender as ONNX: input 1 x 3 x 48 x 48, output male_logit 1 x 1."""
    net = net.eval()
    g = Graph()
    x = g.conv("stem", "input", net.stem, net.stem_norm, scale=INPUT_SCALE)
    for i, block in enumerate(net.blocks):
        y = g.conv(f"block{i}.pointwise", x, block.pointwise, block.norm1)
        y = g.conv(f"block{i}.depthwise", y, block.depthwise, block.norm2)
        x = g.add("Add", [x, y], f"block{i}.sum") if block.adds else y
    flat = g.add("Flatten", [x], "flat", axis=1)
    weight = g.weight("last.weight", net.last.weight.detach().numpy())
    bias = g.weight("last.bias", net.last.bias.detach().numpy())
    g.add("Gemm", [flat, weight, bias], "male_logit", transB=1)
    return g.model(
        "flatface-gender", [tensor("input", [1, 3, SIDE, SIDE])], [tensor("male_logit", [1, 1])], metadata
    )


def fold_scale_check(net, model, shape):
    """The largest difference between PyTorch and ONNX Runtime on random pictures."""
    run, worst = session(model), 0.0
    for seed in range(3):
        x = np.random.default_rng(seed).uniform(0, 255, shape).astype(np.float32)
        with torch.no_grad():
            wanted = net.eval()(torch.from_numpy(x))
        wanted = wanted if isinstance(wanted, tuple) else (wanted,)
        for a, b in zip(run.run(None, {"input": x}), wanted):
            worst = max(worst, float(np.abs(a - b.numpy()).max()))
    return worst


def best_threshold(detector, prepared):
    """The score that gives the best F1 on the held-out scenes, and that F1."""
    scores, hits, total = [], [], 0
    for i in np.flatnonzero((prepared.split == "val") & np.isin(prepared.set, SCENES)):
        picture, factor = shrink(prepared.picture(i), 416)
        faces = prepared.faces(i)
        boxes, sure = faces[:, 1:5] * factor, faces[:, 0] >= 0.6
        wanted = sure & (boxes[:, 2] >= 10)
        total += np.count_nonzero(wanted)
        free = np.ones(len(boxes), bool)
        for face in detector.detect(picture, 0.1):
            overlaps = iou(face[1:5], boxes) * free if len(boxes) else np.zeros(1)
            at = overlaps.argmax()
            if overlaps[at] >= 0.5:
                free[at] = False
                if not wanted[at]:
                    continue
            scores.append(face[0])
            hits.append(overlaps[at] >= 0.5)
    order = np.argsort(-np.array(scores))
    found = np.cumsum(np.array(hits)[order])
    f1 = 2 * found / (np.arange(1, len(found) + 1) + total)
    return float(np.array(scores)[order][f1.argmax()]), float(f1.max())


def calibrate(logits, labels, groups):
    """Shift and temperature by likelihood, then the half-width of the unknown band.

    Groups weigh alike, and women and men within each, so that neither's errors are favoured.
    """
    parts = np.char.add(groups, np.where(labels == 1, "M", "F"))
    weights = sum((parts == p) / np.count_nonzero(parts == p) for p in np.unique(parts))
    sign = np.where(labels == 1, -1, 1)
    losses = {
        (shift, temperature): (weights * np.logaddexp(0, sign * (logits - shift) / temperature)).sum()
        for shift in np.linspace(-1.5, 1.5, 61)
        for temperature in np.exp(np.linspace(-1, 1.5, 126))
    }
    shift, temperature = min(losses, key=losses.get)
    male = 1 / (1 + np.exp((shift - logits) / temperature))
    for half in np.arange(0.0, 0.45, 0.01):
        decided = np.abs(male - 0.5) >= half
        right = (male > 0.5) == (labels == 1)
        accuracy = (weights * right * decided).sum() / (weights * decided).sum()
        if accuracy >= DECIDED_ACCURACY:
            break
    unknown = 1 - (weights * decided).sum() / weights.sum()
    return shift, temperature, round(float(half), 2), float(accuracy), float(unknown)


def save(model, path):
    path.write_bytes(model.SerializeToString())
    print(f"{path.name}: {path.stat().st_size} bytes")


def main():
    parser = arguments(__doc__)
    parser.add_argument("--out", type=Path, default=HERE / "../models", help="folder of the exported models")
    parser.add_argument("--only", choices=("detector", "gender"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    if options.only != "gender":
        net = FlatfaceDet()
        net.load_state_dict(torch.load(options.work / "detector" / "best.pt", map_location="cpu"))
        metadata = {"colour": "BGR", "scale": "1", "mean": "0", "strides": "8,16,32"}
        model = detector_graph(net, metadata)
        print("detector differs from PyTorch by", fold_scale_check(net, model, (1, 3, 160, 256)))
        threshold, f1 = best_threshold(Flatface(model), Prepared(options.work))
        print(f"score threshold {threshold:.2f}, F1 on held-out scenes {f1:.3f}")
        metadata["score_threshold"] = f"{threshold:.2f}"
        save(detector_graph(net, metadata), options.out / "flatface-det.onnx")
    if options.only != "detector":
        from train_gender import Faces, predict

        net = FlatfaceGender()
        net.load_state_dict(torch.load(options.work / "gender" / "best.pt", map_location="cpu"))
        pixels, labels, group = Faces(options.work).validation()
        logits = predict(net, pixels, torch.device("cpu"))
        shift, temperature, half, accuracy, unknown = calibrate(logits, labels, group)
        print(f"shift {shift:.2f}, temperature {temperature:.2f}, unknown band 0.5 +- {half}: {unknown:.3f} unknown, "
              f"the rest {accuracy:.3f} right on the validation faces")
        metadata = {
            "colour": "BGR", "scale": "1", "mean": "0", "positive": "male",
            "unknown_band": f"{0.5 - half:.2f},{0.5 + half:.2f}", "padding": str(PADDING),
            "targets": ";".join(f"{x:.4f} {y:.4f}" for x, y in TARGETS),
        }
        with torch.no_grad():
            net.last.bias -= shift
            net.last.weight /= temperature
            net.last.bias /= temperature
        model = gender_graph(net, metadata)
        print("gender differs from PyTorch by", fold_scale_check(net, model, (1, 3, SIDE, SIDE)))
        save(model, options.out / "flatface-gender.onnx")


if __name__ == "__main__":
    main()
