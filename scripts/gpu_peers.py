#!/usr/bin/env python3
"""Times what PyTorch and Triton offer for the operations of `cusae bench`, on one device.

Prints one JSON object a line: the sizes and the operation, a part of the row's size in the table of
`cusae bench` ("like"), the peer, and the median of the samples in seconds, or why it was skipped. As
there, caches are swept before every sample and the device's own clock is read. Inputs are normal
numbers; latents of lists are drawn with log-normal frequencies.

    gpu_peers.py [--device cuda] [--sizes gpt2 gemma] [--seconds 95]
"""

import argparse
import json
import math
import statistics
import sys
import time

import torch
import torch.nn.functional as F

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

# Rows, width, latents, k: those of src/bench/sizes.rs.
SAE_SIZES = {"small": (2048, 128, 2048, 32), "gpt2": (4096, 768, 24576, 32), "gemma": (4096, 2304, 65536, 64)}
# Rows, contexts, layers to the hook, width, heads, vocabulary.
LM_SIZES = {"small": (4096, (128,), 2, 128, 4, 4096), "gpt2": (4096, (128, 1024), 8, 768, 12, 50257)}
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


class Timer:
    """Median of samples on a device, with cold caches."""

    def __init__(self, device, deadline, sweep):
        self.device, self.deadline = device, deadline
        self.swept = torch.empty(sweep, device=device)

    def sample(self, run):
        self.swept.zero_()
        if self.device == "cpu":
            start = time.perf_counter()
            run()
            return time.perf_counter() - start
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3

    def median(self, run):
        for _ in range(2):
            run()
        begun, samples = time.monotonic(), []
        while len(samples) < 5 or (len(samples) < 50 and time.monotonic() - begun < 0.3):
            samples.append(self.sample(run))
        return statistics.median(samples), len(samples)


def latents(rows, d_sae, k, device):
    """Distinct latents of every row, ascending, some far more often than others."""
    log_frequency = 1.5 * torch.randn(d_sae, device=device)
    chosen = []
    for part in torch.arange(rows, device=device).split(256):  # Gumbel's trick draws without replacement
        noise = -torch.log(-torch.log(torch.rand(len(part), d_sae, device=device).clamp(1e-20, 1 - 1e-7)))
        chosen.append((log_frequency + noise).topk(k, dim=1).indices)
    return torch.cat(chosen).sort(dim=1).values


# ---- the language model: each yields (operation, like, peer, function without arguments) ----


def lm_peers(rows, contexts, layers, d, heads, vocabulary, device):
    yield from linear_peers(rows, d, device)
    x = torch.randn(rows, d, device=device)
    gain, bias = torch.ones(d, device=device), torch.zeros(d, device=device)
    yield "layer_norm", f"D {d}", "F.layer_norm f32", lambda: F.layer_norm(x, (d,), gain, bias)
    for context in contexts:
        for name, dtype in DTYPES.items():
            q, k, v = (torch.randn(rows // context, heads, context, d // heads, device=device, dtype=dtype) for _ in "qkv")
            sdpa = lambda q=q, k=k, v=v: F.scaled_dot_product_attention(q, k, v, is_causal=True)
            yield "attention", f"T {context},", f"F.scaled_dot_product_attention {name}", sdpa
    targets = torch.randint(vocabulary, (rows,), device=device)
    for name, dtype in DTYPES.items():
        w_u, x_u = torch.randn(vocabulary, d, device=device, dtype=dtype) * 0.1, x.to(dtype)
        loss = lambda w=w_u, x=x_u: F.cross_entropy((x @ w.T).float(), targets, reduction="none")
        yield "unembed_cross_entropy", f"V {vocabulary}", f"F.cross_entropy(x @ w_u.T) {name}", loss
    del w_u
    for context in contexts:
        for name, dtype in DTYPES.items():
            blocks = [block_weights(d, device, dtype) for _ in range(layers)]
            stream = torch.randn(rows // context, context, d, device=device, dtype=dtype)
            forward = lambda blocks=blocks, stream=stream: gpt2_forward(stream, blocks, heads)
            yield "forward", f"T {context},", f"GPT-2 blocks, F.linear and SDPA, {name}", forward


def linear_peers(rows, d, device):
    for d_input, d_output, after in ((d, d, " + residual"), (d, 4 * d, ", GeluTanh"), (4 * d, d, " + residual")):
        for name, dtype in DTYPES.items():
            x = torch.randn(rows, d_input, device=device, dtype=dtype)
            w = torch.randn(d_output, d_input, device=device, dtype=dtype) * 0.02
            b = torch.randn(d_output, device=device, dtype=dtype)
            residual = torch.randn(rows, d_output, device=device, dtype=dtype)
            if after == " + residual":
                run = lambda x=x, w=w, b=b, r=residual: F.linear(x, w, b) + r
            else:
                run = lambda x=x, w=w, b=b: F.gelu(F.linear(x, w, b), approximate="tanh")
            yield "linear", f"{d_input} to {d_output}{after}", f"F.linear{after} {name}", run


def block_weights(d, device, dtype):
    shapes = {"qkv": (3 * d, d), "o": (d, d), "fc": (4 * d, d), "proj": (d, 4 * d)}
    weights = {name: torch.randn(shape, device=device, dtype=dtype) * 0.02 for name, shape in shapes.items()}
    biases = {f"b_{name}": torch.zeros(shape[0], device=device, dtype=dtype) for name, shape in shapes.items()}
    norms = {name: torch.ones(d, device=device, dtype=dtype) for name in ("ln1", "ln2")}
    return {**weights, **biases, **norms}


@torch.no_grad()
def gpt2_forward(x, blocks, heads):
    batch, context, d = x.shape
    for w in blocks:
        q, k, v = F.linear(F.layer_norm(x, (d,), w["ln1"]), w["qkv"], w["b_qkv"]).split(d, dim=-1)
        q, k, v = (t.view(batch, context, heads, d // heads).transpose(1, 2) for t in (q, k, v))
        z = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(batch, context, d)
        x = x + F.linear(z, w["o"], w["b_o"])
        hidden = F.gelu(F.linear(F.layer_norm(x, (d,), w["ln2"]), w["fc"], w["b_fc"]), approximate="tanh")
        x = x + F.linear(hidden, w["proj"], w["b_proj"])
    return x


# ---- the SAE ----


def sae_peers(rows, d, f, k, device):
    like = f"D {d}, F {f}"
    yield from encode_peers(rows, d, f, k, like, device)
    yield from sparse_peers(rows, d, f, k, like, device)
    yield from matrix_peers(rows, d, f, device)
    for name in ("f32", "bf16"):
        for kind, operation in (("topk", "step topk"), ("relu", "step standard dense")):
            step = DenseStep(rows, d, f, k, kind, autocast=name == "bf16", device=device)
            yield operation, like, f"dense step as SAELens', autograd, fused Adam, {name}", step
            del step
    step = SparseStep(rows, d, f, k, device)
    yield "step topk", like, "step with F.embedding_bag, autograd, fused Adam, f32", step


def encode_peers(rows, d, f, k, like, device):
    for name, dtype in DTYPES.items():
        x = torch.randn(rows, d, device=device, dtype=dtype)
        w = torch.randn(f, d, device=device, dtype=dtype) / math.sqrt(d)
        b = 0.3 * torch.randn(f, device=device, dtype=dtype)
        topk = lambda x=x, w=w, b=b: torch.topk(F.linear(x, w, b).relu(), k, sorted=False)
        yield "encode_topk", like, f"torch.topk(F.linear().relu()) {name}", topk
        yield "encode_relu_dense", like, f"F.linear().relu() {name}", lambda x=x, w=w, b=b: F.linear(x, w, b).relu_()


def sparse_peers(rows, d, f, k, like, device):
    w_dec = torch.randn(f, d, device=device) / math.sqrt(d)
    indices, values = latents(rows, f, k, device), torch.rand(rows, k, device=device)
    bag = lambda w, v: F.embedding_bag(indices, w, per_sample_weights=v, mode="sum")
    yield "decode_sparse", like, "F.embedding_bag f32, reconstruction only", lambda: bag(w_dec, values)
    w_half, values_half = w_dec.bfloat16(), values.bfloat16()
    yield "decode_sparse", like, "F.embedding_bag bf16, reconstruction only", lambda: bag(w_half, values_half)
    starts = torch.arange(0, rows * k + 1, k, device=device)
    csr = torch.sparse_csr_tensor(starts, indices.reshape(-1), values.reshape(-1), (rows, f))
    yield "decode_sparse", like, "torch.sparse CSR @ w_dec f32, reconstruction only", lambda: csr @ w_dec
    if triton is not None and device != "cpu":
        out, small = torch.empty(rows, d, device=device), indices.int()
        target, dots = torch.randn(rows, d, device=device), torch.empty(rows, k, device=device)
        width = triton.next_power_of_2(d)

        def decode():
            triton_decode[(rows,)](small, values, w_dec, target, out, dots, d, k, 2.0 / rows, width)

        yield "decode_sparse", like, "Triton: decode, gradient and dot products in two gathers, f32", decode
    error, x, pre = torch.randn(rows, d, device=device), torch.randn(rows, d, device=device), torch.randn(rows, k, device=device)
    flat = indices.reshape(-1)

    def index_add():
        for factor, matrix in ((values, error), (pre, x)):
            entries = (factor.unsqueeze(2) * matrix.unsqueeze(1)).reshape(-1, d)
            torch.zeros(f, d, device=device).index_add_(0, flat, entries)

    if rows * k * d * 4 < 4 << 30:
        yield "gradient_sparse", like, "torch.zeros().index_add_ twice, f32", index_add

    def dense():
        for factor, matrix in ((values, error), (pre, x)):
            torch.zeros(rows, f, device=device).scatter_(1, indices, factor).T @ matrix

    yield "gradient_sparse", like, "scatter to dense, transposed product, twice, f32", dense
    yield "transpose_lists", f"F {f}, k {k}", "torch.sort(stable) of all entries", lambda: torch.sort(flat, stable=True)


def matrix_peers(rows, d, f, device):
    weights = [torch.randn(f, d, device=device, requires_grad=True)]
    weights[0].grad = torch.randn_like(weights[0])
    for fused in (True, False):
        optimizer = torch.optim.Adam(weights, lr=1e-4, fused=fused, foreach=not fused)
        yield "adam", f"{f * d} numbers", f"torch.optim.Adam({'fused' if fused else 'foreach'}) f32", optimizer.step
    clip = [torch.zeros_like(weights[0]).requires_grad_() for _ in range(2)]
    for parameter in clip:
        parameter.grad = weights[0].grad
    yield "clip_scale", "in 4", "clip_grad_norm_, which also scales", lambda: torch.nn.utils.clip_grad_norm_(clip, 1e9)
    matrix = weights[0].detach()
    yield "row_norms", f"F {f}", "Tensor.norm(dim=1) f32", lambda: matrix.norm(dim=1)
    yield "sum", f"{f * d} numbers", "Tensor.sum() f32", lambda: matrix.sum()
    buffer, order = torch.randn(16 * rows, d, device=device), torch.randperm(16 * rows, device=device)[:rows]
    yield "gather_rows", f"D {d}", "Tensor.index_select f32", lambda: buffer.index_select(0, order)


class Parameters:
    """Weights of an SAE with an optimizer, and a batch."""

    def __init__(self, rows, d, f, device):
        w = torch.randn(f, d, device=device)
        w *= 0.1 / w.norm(dim=1, keepdim=True)
        self.w_enc, self.w_dec = w.clone().requires_grad_(), w.clone().requires_grad_()
        self.b_enc = torch.zeros(f, device=device, requires_grad=True)
        self.b_dec = torch.zeros(d, device=device, requires_grad=True)
        self.all = [self.w_enc, self.b_enc, self.w_dec, self.b_dec]
        self.optimizer = torch.optim.Adam(self.all, lr=1e-9, fused=True)
        self.x = torch.randn(rows, d, device=device)

    def update(self, loss):
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.all, 1.0)
        self.optimizer.step()


class DenseStep(Parameters):
    """A training step with dense features, the way SAELens does it."""

    def __init__(self, rows, d, f, k, kind, autocast, device):
        super().__init__(rows, d, f, device)
        self.k, self.kind, self.autocast, self.device_type = k, kind, autocast, device.split(":")[0]

    def __call__(self):
        with torch.autocast(self.device_type, torch.bfloat16, enabled=self.autocast):
            hidden = F.linear(self.x - self.b_dec, self.w_enc, self.b_enc)
            if self.kind == "topk":
                values, indices = torch.topk(hidden, self.k, sorted=False)
                features = torch.zeros_like(hidden).scatter_(1, indices, values.relu())
            else:
                features = hidden.relu()
            loss = (features @ self.w_dec + self.b_dec - self.x).pow(2).sum(dim=1).mean()
            if self.kind == "relu":
                loss = loss + (features * self.w_dec.norm(dim=1)).sum(dim=1).mean()
        self.update(loss)


class SparseStep(Parameters):
    """A TopK step whose decoder gathers rows, as eai-sparsify's."""

    def __init__(self, rows, d, f, k, device):
        super().__init__(rows, d, f, device)
        self.k = k

    def __call__(self):
        values, indices = torch.topk(F.linear(self.x - self.b_dec, self.w_enc, self.b_enc), self.k, sorted=False)
        bag = F.embedding_bag(indices, self.w_dec, per_sample_weights=values.relu(), mode="sum")
        self.update((bag + self.b_dec - self.x).pow(2).sum(dim=1).mean())


if triton is not None:

    @triton.jit
    def triton_decode(indices, values, w_dec, target, out, dots, d, k, scale, width: tl.constexpr):
        """A program a row: the reconstruction's gradient, then its dot product with every listed row."""
        row, columns = tl.program_id(0), tl.arange(0, width)
        inside = columns < d
        total = tl.zeros((width,), tl.float32)
        for j in range(k):
            latent = tl.load(indices + row * k + j).to(tl.int64)
            total += tl.load(values + row * k + j) * tl.load(w_dec + latent * d + columns, mask=inside, other=0.0)
        gradient = scale * (total - tl.load(target + row * d + columns, mask=inside, other=0.0))
        tl.store(out + row * d + columns, gradient, mask=inside)
        for j in range(k):
            latent = tl.load(indices + row * k + j).to(tl.int64)
            weights = tl.load(w_dec + latent * d + columns, mask=inside, other=0.0)
            tl.store(dots + row * k + j, tl.sum(tl.where(inside, gradient * weights, 0.0), axis=0))


# ---- ceilings and the whole ----


def ceilings(device, small):
    n = 1 << 20 if small else 1 << 28
    source, to = torch.zeros(n, device=device), torch.empty(n, device=device)
    yield "ceiling", f"copy, {8 * n} bytes", "Tensor.copy_", lambda: to.copy_(source)
    side = 512 if small else 8192
    for name, dtype in DTYPES.items():
        a = torch.randn(side, side, device=device, dtype=dtype)
        yield "ceiling", f"product, {2 * side**3} FLOP", f"torch.matmul {name}", lambda a=a: a @ a


def peers(sizes, device):
    """Everything for one name of sizes."""
    if sizes != "gemma":
        yield from ceilings(device, sizes == "small")
        yield from lm_peers(*LM_SIZES[sizes], device)
    yield from sae_peers(*SAE_SIZES[sizes], device)


def report(row, **more):
    print(json.dumps({**row, **more}), flush=True)


def time_all(timer, sizes, device):
    generator = peers(sizes, device)
    while True:
        try:
            operation, like, peer, run = next(generator)
        except StopIteration:
            return
        row = {"sizes": sizes, "operation": operation, "like": like, "peer": peer}
        if time.monotonic() > timer.deadline:
            report(row, skipped="no time was left")
            continue
        try:
            seconds, samples = timer.median(run)
            report(row, seconds=seconds, samples=samples)
        except Exception as error:  # out of memory, or a peer that this PyTorch does not have
            report(row, skipped=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--sizes", nargs="+", default=["gpt2", "gemma"], choices=SAE_SIZES)
    parser.add_argument("--seconds", type=float, default=95)
    arguments = parser.parse_args()
    deadline = time.monotonic() + arguments.seconds
    if arguments.device != "cpu" and not torch.cuda.is_available():
        sys.exit("PyTorch finds no GPU")
    torch.manual_seed(1)
    timer = Timer(arguments.device, deadline, 1 << 20 if arguments.sizes == ["small"] else 1 << 27)
    for sizes in arguments.sizes:
        time_all(timer, sizes, arguments.device)


if __name__ == "__main__":
    main()
