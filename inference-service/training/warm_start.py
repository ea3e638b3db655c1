"""Start flatface-det from an exported ONNX file instead of from random weights.

Export folds the batch norms into the convolutions. They come back here as norms that change nothing:
with m and v the mean and variance of a convolution's output, measured over training canvases, and b its
folded bias, the norm gets running mean m, running variance v, scale sqrt(v + eps) and shift m + b. So the
network answers as the file does, and nearly so with the statistics of a batch.
"""

import onnx
import torch
from onnx import numpy_helper
from torch import nn

from detector import STRIDES

INPUT_SCALE = 1 / 64  # folded into the first layer by export.py


def folded_layers(net):
    """(name in the ONNX file, convolution, its norm or None), every convolution of the network."""
    yield "stem", net.stem, net.stem_norm
    separable = {"stage2": net.stage2}
    for stage in ("stage4", "stage8", "stage16", "stage32"):
        separable |= {f"{stage}.{i}": layer for i, layer in enumerate(getattr(net, stage))}
    for i, stride in enumerate(STRIDES):
        separable |= {f"lateral{stride}": net.lateral[i], f"shared{stride}": net.shared[i]}
        separable[f"last{stride}"] = net.heads[i]
    for name, layer in separable.items():
        yield f"{name}.pointwise", layer.pointwise, None
        yield f"{name}.depthwise", layer.depthwise, layer.norm


@torch.no_grad()
def load_folded(net, path):
    """Copy the file's weights; the norms then add the folded biases and do nothing else."""
    stored = onnx.load(str(path)).graph.initializer
    weights = {w.name: torch.from_numpy(numpy_helper.to_array(w).copy()) for w in stored}
    used = {"double"}  # the factor of the resizing, no weight
    for name, conv, norm in folded_layers(net):
        conv.weight.copy_(weights[f"{name}.weight"] / (INPUT_SCALE if conv is net.stem else 1))
        used.add(f"{name}.weight")
        if norm is not None:
            nn.init.ones_(norm.weight)
            nn.init.zeros_(norm.running_mean)
            nn.init.constant_(norm.running_var, 1 - norm.eps)
        bias = conv.bias if norm is None else norm.bias
        if bias is not None:
            bias.copy_(weights[f"{name}.bias"])
            used.add(f"{name}.bias")
    if used != set(weights):
        raise SystemExit(f"{path} is no flatface-det of this code: {sorted(used ^ set(weights))[:3]}")


@torch.no_grad()
def recover_norms(net, batches):
    """Give the norms of a network from `load_folded` the statistics of these batches of pixels."""
    norms = [norm for _, _, norm in folded_layers(net) if norm is not None]
    sums = {norm: [0.0, 0.0, 0] for norm in norms}

    def measure(norm, inputs):
        x, (total, squares, count) = inputs[0].double(), sums[norm]
        channels = (0, 2, 3)
        sums[norm] = [total + x.sum(channels), squares + (x * x).sum(channels), count + x.numel() // x.shape[1]]

    hooks = [norm.register_forward_pre_hook(measure) for norm in norms]
    net.eval()
    for pixels in batches:
        net(pixels)
    for hook in hooks:
        hook.remove()
    for norm, (total, squares, count) in sums.items():
        mean = total / count
        norm.running_mean.copy_(mean)
        norm.running_var.copy_((squares / count - mean**2).clamp(min=0))
        norm.weight.copy_((norm.running_var + norm.eps).sqrt())
        norm.bias.add_(norm.running_mean)
    net.train()
