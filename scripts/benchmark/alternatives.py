"""Time the design choices of docs/performance.md and their alternatives, and write one JSON file per part.

    python scripts/benchmark/alternatives.py docs/measured/alternatives [--threads 2] [--only PART...]

Parts: products, attention, beams, runtimes, bandwidth. The part "runtimes" also times a decoding step in ONNX Runtime
and OpenVINO, if they are installed (pip install onnx onnxruntime openvino nncf). Models have base size and random
weights. All values are medians in milliseconds, except in "bandwidth".
"""

import argparse
import contextlib
import datetime
import importlib.util
import json
import logging
import sys
import tempfile
import time
import warnings
from importlib import metadata
from pathlib import Path
from statistics import median

import torch
from torch import nn
from torch.nn import functional as F

from fairseq_resmlp.common.environment import cpu_info
from fairseq_resmlp.common.onednn import onednn_linear, pack_onednn_weight

LAYERS, D, HIDDEN, HEADS, VOCABULARY, BEAM = 6, 512, 2048, 8, 32_000, 4
PAST, SOURCE = 15, 30  # number of earlier target positions, and of source tokens


def milliseconds(run, times=15) -> float:
    """Return the median time of `run` after two warm-up calls."""
    run()
    run()
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return round(median(seconds) * 1000, 3)


def products():
    """Matrix products x W^T. Shape: x M x K, W N x K."""
    rows = []
    shapes = ((960, D, HIDDEN), (960, HIDDEN, D), *((M, D, VOCABULARY) for M in (960, 256, 64, 16, 4)))
    for M, K, N in shapes:
        x, W = torch.randn(M, K), torch.randn(N, K)
        packed = pack_onednn_weight(W)
        fbgemm, onednn_int8 = (int8_product(W, engine) for engine in ("x86", "onednn"))
        bf16 = x.bfloat16(), W.bfloat16()
        runs = {
            "torch.nn.functional.linear (MKL)": lambda x=x, W=W: F.linear(x, W),
            "oneDNN": lambda x=x, W=W: onednn_linear(x, W),
            "oneDNN, packed weight": lambda x=x, W=packed: onednn_linear(x, W),
            "bfloat16": lambda x=bf16[0], W=bf16[1]: F.linear(x, W),
            "int8, fbgemm": lambda x=x, run=fbgemm: run(x),
            "int8, oneDNN": lambda x=x, run=onednn_int8: run(x),
        }
        rows.append({"M x K x N": f"{M} x {K} x {N}", **{name: milliseconds(run) for name, run in runs.items()}})
    return rows


def int8_product(W, engine):
    """Return a function of x that computes x W^T with W in int8 and dynamic quantization of x."""
    before, torch.backends.quantized.engine = torch.backends.quantized.engine, engine
    packed = torch.ops.quantized.linear_prepack(torch.quantize_per_tensor(W, 0.05, 0, torch.qint8))
    torch.backends.quantized.engine = before
    return lambda x: torch.ops.quantized.linear_dynamic(x, packed)


def attention():
    """Cross-attention of one layer: torch's fused kernel, or two matrix products with a softmax in between."""
    rows = []
    for what, B, T, S in (("decoding, batch 64", 64, BEAM, 30), ("decoding, batch 16", 16, BEAM, 30),
                          ("training, 32 x 30", 32, 30, 30), ("training, 8 x 256", 8, 256, 256)):  # fmt: skip
        training = what.startswith("training")
        q, k, v = (torch.randn(B, HEADS, n, D // HEADS, requires_grad=training) for n in (T, S, S))
        mask = torch.zeros(B, 1, 1, S, dtype=torch.bool)

        def fused(q=q, k=k, v=v, mask=mask):
            return F.scaled_dot_product_attention(q, k, v, attn_mask=~mask)

        def plain(q=q, k=k, v=v, mask=mask):
            weights = torch.matmul(q * 0.125, k.transpose(2, 3)).masked_fill(mask, float("-inf")).softmax(-1)
            return torch.matmul(weights, v)

        runs = {"scaled_dot_product_attention": fused, "two matrix products": plain}
        if training:
            runs = {name: lambda run=run: run().sum().backward() for name, run in runs.items()}
        with torch.set_grad_enabled(training):
            rows.append({"": what, **{name: milliseconds(run) for name, run in runs.items()}})
    return rows


def beams():
    """Token mixing of one decoding step in all layers, with different caches for reordering hypotheses."""
    rows = []
    for sentences in (64, 16, 1):
        R = sentences * BEAM
        past = [torch.randn(PAST, R, D) for _ in range(LAYERS)]
        A, order = torch.randn(PAST + 1), torch.randint(R, (R,))
        x, store = torch.randn(1, R, D), torch.randn((PAST + 1) * R, D)
        ancestors = torch.randint(len(store), (R, PAST + 1))
        onehot, grouped = torch.rand(sentences, BEAM, (PAST + 1) * BEAM), store.view(sentences, -1, D)

        def copying(past=past, order=order, x=x, A=A):
            for cache in past:
                cache = torch.cat([cache.index_select(1, order), x])
                torch.mm(A[None], cache.flatten(1))

        def bag(ancestors=ancestors, order=order, store=store, A=A):
            for _ in range(LAYERS):
                chosen = ancestors.index_select(0, order)
                F.embedding_bag(chosen, store, per_sample_weights=A.expand_as(chosen).contiguous(), mode="sum")

        def product(onehot=onehot, grouped=grouped):
            for _ in range(LAYERS):
                torch.bmm(onehot, grouped)

        runs = {"copied cache": copying, "index table, embedding_bag": bag, "index table, bmm": product}
        rows.append({"": f"batch {sentences}", **{name: milliseconds(run) for name, run in runs.items()}})
    return rows


class Step(nn.Module):
    """A decoding step of a network with folded Affs, from the last tokens to the best continuations."""

    def __init__(self):
        super().__init__()
        self.q, self.out = (nn.ModuleList(nn.Linear(D, D) for _ in range(LAYERS)) for _ in range(2))
        self.B = nn.ModuleList(nn.Linear(D, HIDDEN) for _ in range(LAYERS))
        self.C = nn.ModuleList(nn.Linear(HIDDEN, D) for _ in range(LAYERS))
        self.output = nn.Linear(D, VOCABULARY)
        self.embed = nn.Parameter(torch.randn(VOCABULARY, D) * 0.05)
        self.scale, self.bias = (nn.Parameter(torch.randn(LAYERS, D) * 0.1) for _ in range(2))
        self.A = nn.Parameter(torch.randn(LAYERS, PAST * BEAM))

    def forward(self, tokens, onehot, past, keys, values, mask, scores):
        x = self.embed[tokens]
        for layer in range(LAYERS):
            mixed = torch.matmul(onehot * self.A[layer], past[layer]).view(-1, D)
            x = torch.addcmul(x + self.bias[layer], mixed, self.scale[layer])
            q = self.q[layer](x).view(-1, BEAM, HEADS, D // HEADS).transpose(1, 2)
            weights = torch.softmax(torch.matmul(q, keys[layer]) + mask, -1)
            x = x + self.out[layer](torch.matmul(weights, values[layer]).transpose(1, 2).reshape(-1, D))
            x = x + self.C[layer](F.gelu(self.B[layer](x)))
        z = self.output(x)
        best = torch.log_softmax(z, -1).topk(2 * BEAM, -1)
        total = best[0].view(-1, BEAM, 2 * BEAM) + scores[:, :, None]
        return total.flatten(1).topk(2 * BEAM, -1), best[1]


NAMES = ["tokens", "onehot", "past", "keys", "values", "mask", "scores"]
AXES = {"tokens": {0: "R"}, "onehot": {0: "B"}, "past": {1: "B"}, "keys": {1: "B"}, "values": {1: "B"},
        "mask": {0: "B"}, "scores": {0: "B"}}  # fmt: skip
BATCHES = (64, 16, 1)


def inputs(sentences):
    """Return random inputs of `Step`, named `NAMES`, for a batch of `sentences`."""
    head = D // HEADS
    return (
        torch.randint(0, VOCABULARY, (sentences * BEAM,)),
        torch.rand(sentences, BEAM, PAST * BEAM),
        torch.randn(LAYERS, sentences, PAST * BEAM, D),
        torch.randn(LAYERS, sentences, HEADS, head, SOURCE),
        torch.randn(LAYERS, sentences, HEADS, SOURCE, head),
        torch.zeros(sentences, 1, 1, SOURCE),
        torch.randn(sentences, BEAM),
    )


def runtimes(rounds=5):
    """One decoding step in each installed runtime, without the bookkeeping of the hypotheses.

    The runtimes take turns, so that other load on the machine affects all of them.
    """
    step, threads = Step().eval(), torch.get_num_threads()
    int8 = torch.ao.quantization.quantize_dynamic(step, {nn.Linear}, dtype=torch.qint8)
    runs = {
        "torch, float32 (MKL)": lambda x: step(*x),
        "torch, int8, dynamic quantization": lambda x: int8(*x),
        **{f"inference engine, {kind}": own_step(kind) for kind in ("float32", "int8")},
    }
    with tempfile.TemporaryDirectory() as directory:
        if installed("onnx", "onnxruntime"):
            runs |= onnx_runtime(step, Path(directory), threads)
    if installed("openvino", "nncf"):
        runs |= openvino_runtime(step, threads)
    times = {name: {B: [] for B in BATCHES} for name in runs}
    with torch.inference_mode():
        for B in BATCHES:
            x = inputs(B)
            for _ in range(rounds):
                for name, run in runs.items():
                    time.sleep(0.1)  # the threads of the previous runtime go to sleep
                    times[name][B].append(milliseconds(lambda run=run, x=x: run(x), 7))
    return [{"": name, **{f"batch {B}": median(found[B]) for B in BATCHES}} for name, found in times.items()]


def installed(*packages) -> bool:
    """Return whether all packages are installed. Otherwise, print how to install them."""
    missing = [package for package in packages if not importlib.util.find_spec(package)]
    if missing:
        print(f"runtimes: rows skipped (pip install {' '.join(missing)})", file=sys.stderr)
    return not missing


def bandwidth():
    """Lower bound of a decoding step of one sentence: the time to read the weights that it multiplies with, once."""
    weights = LAYERS * (2 * D * D + 2 * D * HIDDEN) + D * VOCABULARY
    rows = []
    for kind, size in (("int8", 1), ("float32", 4)):
        count = weights * size // 4  # as float32 numbers, which torch.sum reads fastest
        memory, cached = torch.ones(1 << 28), torch.ones(count)
        rates = {
            "memory": memory.numel() * 4 / milliseconds(memory.sum) / 1e6,  # GB/s
            "cache": cached.numel() * 4 / milliseconds(cached.sum, 100) / 1e6,
        }
        run, x = own_step(kind), inputs(1)
        with torch.inference_mode():
            step = milliseconds(lambda run=run, x=x: run(x), 100)
        bounds = {place: round(weights * size / rate / 1e6, 3) for place, rate in rates.items()}
        rows.append(
            {
                "": f"{kind}, weights of {weights * size / 1e6:.0f} MB",
                "GB/s, memory": round(rates["memory"], 1),
                "GB/s, repeatedly": round(rates["cache"], 1),
                "lower bound, memory (ms)": bounds["memory"],
                "lower bound, repeatedly (ms)": bounds["cache"],
                "step, batch 1 (ms)": step,
                "lower bound, memory / step": round(bounds["memory"] / step, 2),
            }
        )
    return rows


def own_step(kind):
    """Return the same step in fairseq_resmlp.inference.network."""
    from fairseq_resmlp.inference.config import PAD, NetworkConfig
    from fairseq_resmlp.inference.network import EncoderCache, Network

    sizes = (VOCABULARY, D, HIDDEN, LAYERS, 2 * SOURCE)
    config = NetworkConfig(*sizes, *sizes, HEADS)
    weights = {name: torch.randn(size) * 0.05 for name, size in config.weight_shapes().items()}
    weights["decoder.embed"] = weights["encoder.embed"]
    network = Network(config, weights, kind)
    stores = {}  # by number of rows

    def run(x):
        tokens, _, _, keys, values, _, scores = x
        ancestors = torch.arange(len(tokens) * PAST).view(PAST, -1).t().contiguous()
        if len(tokens) not in stores:
            stores[len(tokens)] = torch.randn(PAST + 1, len(tokens), LAYERS, D)
        hidden = network.step(tokens, PAST, ancestors, stores[len(tokens)], EncoderCache(keys, values, None))
        return network.topk_candidates(hidden, scores, 2 * BEAM, (PAD,), 0.0, network.output)

    return run


def onnx_runtime(step, directory, threads):
    """Return steps of ONNX Runtime: float32, int8 with dynamic quantization, and int8 weights in blocks."""
    import onnx
    import onnxruntime
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads

    def runner(file):
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        return lambda x: session.run(None, dict(zip(NAMES, (value.numpy() for value in x))))

    plain, dynamic, blocks = (directory / f"{name}.onnx" for name in ("plain", "dynamic", "blocks"))
    torch.onnx.export(step, inputs(3), str(plain), input_names=NAMES, dynamic_axes=AXES, dynamo=False, opset_version=20)
    quantize_dynamic(plain, dynamic, weight_type=QuantType.QInt8, per_channel=True)
    model = onnx.load(plain)
    as_matmul(model)
    quantizer = MatMulNBitsQuantizer(model, bits=8, block_size=256, is_symmetric=True, accuracy_level=4)
    quantizer.process()
    quantizer.model.save_model_to_file(str(blocks), True)
    return {
        "ONNX Runtime, float32": runner(plain),
        "ONNX Runtime, int8, dynamic quantization": runner(dynamic),
        "ONNX Runtime, int8, block size 256": runner(blocks),
    }


def as_matmul(model):
    """Replace Gemm(x, W^T, b) with MatMul and Add: ONNX Runtime quantizes only MatMul in blocks."""
    from onnx import helper, numpy_helper

    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes = []
    for node in model.graph.node:
        if node.op_type != "Gemm":
            nodes.append(node)
            continue
        x, W, b = node.input
        weights[W].CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights[W]).T.copy(), W))
        nodes.append(helper.make_node("MatMul", [x, W], [f"{node.output[0]}_product"], name=node.name))
        nodes.append(helper.make_node("Add", [f"{node.output[0]}_product", b], list(node.output)))
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def openvino_runtime(step, threads):
    """Return steps of OpenVINO: float32, bfloat16 and int8 weights."""
    import nncf
    import openvino

    model = openvino.convert_model(step, example_input=inputs(3))
    dynamic = [[-1 if axis in AXES[name] else size for axis, size in enumerate(x.shape)]
               for name, x in zip(NAMES, inputs(3))]  # fmt: skip
    model.reshape({port: openvino.PartialShape(shape) for port, shape in zip(model.inputs, dynamic)})
    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}

    def runner(**more):
        request = openvino.Core().compile_model(model, "CPU", {**settings, **more}).create_infer_request()
        return lambda x: request.infer([value.numpy() for value in x])

    runs = {"OpenVINO, float32": runner(), "OpenVINO, bfloat16": runner(INFERENCE_PRECISION_HINT="bf16")}
    model = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_SYM)
    runs["OpenVINO, int8 weights"] = runner()
    runs["OpenVINO, int8 weights, dynamic quantization"] = runner(DYNAMIC_QUANTIZATION_GROUP_SIZE=512)
    return runs


def describe_environment():
    """Return CPU, threads, versions and date."""
    versions = {}
    for name in ("torch", "onnxruntime", "openvino", "nncf"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return {
        "cpu": cpu_info()[0],
        "flags": cpu_info()[1],
        "threads": torch.get_num_threads(),
        "versions": versions,
        "date": str(datetime.date.today()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="directory for the files PART.json")
    parser.add_argument("--threads", type=int, default=2, help="number of CPU threads (default: 2)")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=["products", "attention", "beams", "runtimes", "bandwidth"],
        metavar="PART",
        help="parts to measure (default: all)",
    )
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.INFO)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    parts = {"products": products, "attention": attention, "beams": beams, "runtimes": runtimes, "bandwidth": bandwidth}
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.only or parts:
        print(name, file=sys.stderr)
        found = {"rows": parts[name](), **describe_environment()}
        (options.out / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
