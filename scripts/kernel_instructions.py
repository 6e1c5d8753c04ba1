#!/usr/bin/env python3
"""Whether the products' kernels consist of the instructions that they are written for.

    scripts/kernel_instructions.py

Compiles cuda/gemm_sm90.cu for Hopper and cuda/encode_relu_dense.cu, which has the portable product, for sm_80, and looks
at the machine code. The compiler is NVCC, CUDA_HOME/bin/nvcc, or nvcc; the disassembler is NVDISASM or nvdisasm
(pip install nvidia-cuda-nvdisasm).
"""
import collections
import os
import re
import subprocess
import sys
import tempfile

from kernel_resources import FLAGS, ROOT, demangle, nvcc

NEEDED = [
    ("gemm_sm90.cu", "sm_90a", "gemm_sm90_kernel", ["HGMMA", "UTMALDG", "SYNCS", "STG.E.128"]),
    ("encode_relu_dense.cu", "sm_80", "gemm_bf16_kernel", ["HMMA.16816.F32.BF16", "LDGSTS.E.BYPASS.128", "LDSM.16.M88.4", "STG.E.128"]),
]


def kernels(file, card):
    """The names of a file's kernels with how often each of their instructions occurs."""
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
        found = re.findall(r"/\*[0-9a-f]+\*/\s+(?:@!?\w+\s+)?([A-Z][\w.]*)", body)
        yield demangle(name), collections.Counter(found)


def main():
    missing = 0
    for file, card, kernel, instructions in NEEDED:
        of_kernel = [(name, counts) for name, counts in kernels(file, card) if name.startswith(kernel)]
        if not of_kernel:
            sys.exit(f"{file} has no {kernel}")
        for name, counts in of_kernel:
            found = {wanted: sum(n for one, n in counts.items() if one.startswith(wanted)) for wanted in instructions}
            missing += 0 in found.values()
            print(f"{card} {name.split('(')[0]}: {', '.join(f'{n} {wanted}' for wanted, n in found.items())}")
    sys.exit("an instruction is missing" if missing else 0)


if __name__ == "__main__":
    main()
