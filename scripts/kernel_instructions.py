#!/usr/bin/env python3
"""Whether kernels consist of the instructions that they are written for: products of tensor cores' (and of wgmma
and TMA on Hopper), what walks over rows of 16-byte loads and stores.

    scripts/kernel_instructions.py

Compiles the files of NEEDED for one card each and looks at the machine code. The compiler is NVCC, CUDA_HOME/bin/nvcc, or nvcc; the disassembler is NVDISASM or nvdisasm
(pip install nvidia-cuda-nvdisasm).
"""
import collections
import concurrent.futures
import os
import re
import subprocess
import sys
import tempfile

from kernel_resources import FLAGS, ROOT, demangle, nvcc

# File, card, kernel, and how many of each instruction it has at least: of loads and stores as many as its text names
# for one column of packs.
NEEDED = [
    ("gemm_sm90.cu", "sm_90a", "gemm_sm90_kernel", {"HGMMA": 1, "UTMALDG.2D": 2, "UTMALDG.2D.MULTICAST": 1, "SYNCS": 1, "STG.E.128": 1}),
    ("encode_relu_dense.cu", "sm_80", "gemm_bf16_kernel", {"HMMA.16816.F32.BF16": 1, "LDGSTS.E.BYPASS.128": 1, "LDSM.16.M88.4": 1, "STG.E.128": 1}),
    # The decoder's gather: w_dec twice and b_dec and the target; rows that wait in shared memory.
    ("decode_sparse.cu", "sm_80", "decode_sparse_kernel<float, 4>", {"LDG.E.128": 4, "STS.128": 1, "STG.E.128": 2}),
    ("decode_sparse.cu", "sm_80", "decode_sparse_kernel<__nv_bfloat16, 8>", {"LDG.E.128": 6, "STS.128": 1, "STG.E.128": 4}),
    ("gradient_values.cu", "sm_80", "gradient_values_kernel<float, 4>", {"LDG.E.128": 2}),
    ("gradient_values.cu", "sm_80", "gradient_values_kernel<__nv_bfloat16, 8>", {"LDG.E.128": 3}),
    # Rows of a latent: walks over entries and sums of pieces; Adam's three numbers of both matrices besides.
    ("gradient_sparse.cu", "sm_80", "gradient_sparse_kernel<float, 4>", {"LDG.E.128": 6, "STG.E.128": 2}),
    ("adam_sparse.cu", "sm_80", "piece_sums_kernel<float, 4>", {"LDG.E.128": 2, "STG.E.128": 2}),
    ("adam_sparse.cu", "sm_80", "gradient_squares_kernel<float, 4>", {"LDG.E.128": 6}),
    ("adam_sparse.cu", "sm_80", "adam_sparse_kernel<float, 4>", {"LDG.E.128": 12, "STG.E.128": 6}),
    # The same with eight numbers a pack, in bf16 or as two loads of f32.
    ("gradient_sparse.cu", "sm_80", "gradient_sparse_kernel<__nv_bfloat16, 8>", {"LDG.E.128": 8, "STG.E.128": 4}),
    ("adam_sparse.cu", "sm_80", "piece_sums_kernel<__nv_bfloat16, 8>", {"LDG.E.128": 2, "STG.E.128": 4}),
    ("adam_sparse.cu", "sm_80", "gradient_squares_kernel<__nv_bfloat16, 8>", {"LDG.E.128": 8}),
    ("adam_sparse.cu", "sm_80", "adam_sparse_kernel<__nv_bfloat16, 8>", {"LDG.E.128": 20, "STG.E.128": 12}),
    ("adam.cu", "sm_80", "adam_kernel", {"LDG.E.128": 4, "STG.E.128": 3}),
    ("row_norms.cu", "sm_80", "row_norms_kernel<4>", {"LDG.E.128": 1}),
    # What moves rows and vectors.
    ("layer_norm.cu", "sm_80", "layer_norm_kernel<4>", {"LDG.E.128": 6, "STG.E.128": 3}),
    ("prepare_input.cu", "sm_80", "prepare_input_kernel<4>", {"LDG.E.128": 6, "STG.E.128": 2}),
    ("embed.cu", "sm_80", "embed_kernel<4>", {"LDG.E.128": 2, "STG.E.128": 3}),
    ("rows.cu", "sm_80", "gather_rows_kernel<4>", {"LDG.E.128": 1, "STG.E.128": 1}),
    ("rows.cu", "sm_80", "scatter_rows_kernel<4>", {"LDG.E.128": 1, "STG.E.128": 1}),
    ("elementwise.cu", "sm_80", "add_kernel", {"LDG.E.128": 2, "STG.E.128": 1}),
    ("elementwise.cu", "sm_80", "scale_kernel", {"LDG.E.128": 1, "STG.E.128": 1}),
    ("elementwise.cu", "sm_80", "round_kernel<__nv_bfloat16>", {"LDG.E.128": 1, "STG.E.64": 1}),
    ("elementwise.cu", "sm_80", "fill_kernel", {"STG.E.128": 1}),
    ("activate.cu", "sm_80", "activate_kernel", {"LDG.E.128": 1, "STG.E.128": 1}),
    ("row_variance.cu", "sm_80", "column_sums_kernel<4>", {"LDG.E.128": 1}),
    ("row_variance.cu", "sm_80", "row_variance_kernel<4>", {"LDG.E.128": 1}),
    # Dense features: rounded, transposed, multiplied.
    ("gradient_dense.cu", "sm_80", "round_transposed_kernel<4, 8>", {"LDG.E.128": 1, "STG.E.128": 1}),
    ("gradient_dense.cu", "sm_80", "gemm_bf16_kernel", {"HMMA.16816.F32.BF16": 1, "LDGSTS.E.BYPASS.128": 1, "LDSM.16.M88.4": 1, "STG.E.128": 1}),
    ("decode_dense.cu", "sm_80", "gemm_bf16_kernel", {"HMMA.16816.F32.BF16": 1, "LDGSTS.E.BYPASS.128": 1, "LDSM.16.M88.4": 1, "STG.E.128": 1}),
]


def kernels(compiled):
    """The names of a file's kernels with how often each of their instructions occurs, on a card."""
    file, card = compiled
    found = {}
    with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
        flags = [flag for flag in FLAGS if flag in ("-std=c++17", "-O3", "-fmad=false")]
        command = [nvcc(), *flags, "-cubin", f"-arch={card}", str(ROOT / "cuda" / file), "-o", cubin.name]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{file}: {done.stderr}")
        if "serialized" in done.stdout + done.stderr:
            sys.exit(f"{file}: the compiler makes wgmma wait for each product: {done.stdout}{done.stderr}")
        disassembler = os.environ.get("NVDISASM", "nvdisasm")
        text = subprocess.run([disassembler, "-c", cubin.name], check=True, capture_output=True, text=True).stdout
    for name, body in re.findall(r"^\.text\.(\w+):\n(.*?)(?=^\.text\.|\Z)", text, re.S | re.M):
        instructions = re.findall(r"/\*[0-9a-f]+\*/\s+(?:@!?\w+\s+)?([A-Z][\w.]*)", body)
        found[demangle(name)] = collections.Counter(instructions)
    return found


def main():
    missing = 0
    compiled = list(dict.fromkeys((file, card) for file, card, *_ in NEEDED))
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        of_files = dict(zip(compiled, pool.map(kernels, compiled)))
    for file, card, kernel, needed in NEEDED:
        of_kernel = [(name, counts) for name, counts in of_files[file, card].items() if name.startswith(kernel)]
        if not of_kernel:
            sys.exit(f"{file} has no {kernel}")
        for name, counts in of_kernel:
            found = {wanted: sum(n for one, n in counts.items() if one.startswith(wanted)) for wanted in needed}
            missing += any(found[wanted] < least for wanted, least in needed.items())
            print(f"{card} {name.split('(')[0]}: {', '.join(f'{n} {wanted} (of {needed[wanted]})' for wanted, n in found.items())}")
    sys.exit("instructions are missing" if missing else 0)


if __name__ == "__main__":
    main()
