#!/usr/bin/env python3
"""What every kernel takes of a multiprocessor, as ptxas says it: cuda/resources.txt.

    scripts/kernel_resources.py           compiles cuda/*.cu and writes the table
    scripts/kernel_resources.py --check   compiles and compares: fails on a row that is not as in the table

Architectures are those of build.rs; PTX, which a driver compiles for cards yet to come, stands in the
table as such a card would get it. The compiler is NVCC, CUDA_HOME/bin/nvcc, or nvcc.
"""
import argparse
import concurrent.futures
import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
TABLE = ROOT / "cuda" / "resources.txt"
LATER_CARD = "sm_120"
COLUMNS = ["file", "kernel", "card", "registers", "stack", "spill stores", "spill loads", "static shared"]
FLAGS = ["-std=c++17", "-O3", "-fmad=false", "-fatbin", "-Xptxas", "-v", "-o", os.devnull]


def nvcc():
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    return os.environ.get("NVCC") or (f"{home}/bin/nvcc" if home else "nvcc")


def architectures(hopper):
    """nvcc's -gencode arguments, from build.rs, with a card in place of PTX."""
    text = (ROOT / "build.rs").read_text()
    constant = re.search(rf"const {'HOPPER' if hopper else 'PORTABLE'}: .*?= &\[(.*?)\];", text, re.S)
    if not constant:
        sys.exit("build.rs has no list of architectures where this script looks for it")
    return [re.sub(r"(?<=[\[,=])compute_\d+(?=\]|$)", LATER_CARD, one) for one in re.findall('"(.*?)"', constant[1])]


def demangle(name):
    text = subprocess.run(["c++filt", "-p", name], check=True, capture_output=True, text=True).stdout.strip()
    return re.sub(r"cusae_cuda::|\(anonymous namespace\)::|^void ", "", text)


def compile_file(path):
    """Rows of the table, without the file: {(kernel, card): numbers}."""
    gencode = [flag for one in architectures(path.name.endswith("_sm90.cu")) for flag in ("-gencode", one)]
    done = subprocess.run([nvcc(), *FLAGS, *gencode, str(path)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{path.name}: {done.stderr}")
    rows, entry = {}, None
    for line in done.stderr.splitlines():
        if found := re.search(r"Compiling entry function '(\w+)' for '(\w+)'", line):
            entry = (demangle(found[1]), found[2])
        elif entry and (found := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line)):
            frame = [int(number) for number in found.groups()]
        elif entry and (found := re.search(r"Used (\d+) registers", line)):
            shared = re.search(r"(\d+) bytes smem", line)
            rows[entry] = (int(found[1]), *frame, int(shared[1]) if shared else 0)
            entry = None
    return rows


def compile_all():
    files = sorted((ROOT / "cuda").glob("*.cu"))
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        of_files = pool.map(compile_file, files)
        return {(path.name, *entry): numbers for path, rows in zip(files, of_files) for entry, numbers in rows.items()}


def version():
    text = subprocess.run([nvcc(), "--version"], check=True, capture_output=True, text=True).stdout
    return re.search(r"V(\d+\.\d+\.\d+)", text)[1]


def write(rows):
    lines = [COLUMNS] + [[*entry, *map(str, numbers)] for entry, numbers in sorted(rows.items())]
    widths = [max(len(line[i]) for line in lines) for i in range(len(COLUMNS))]
    with TABLE.open("w") as out:
        out.write(f"# By nvcc {version()}; written by scripts/kernel_resources.py. Stack, spills and shared memory in bytes.\n")
        for line in lines:
            texts = [text.ljust(width) if i < 3 else text.rjust(width) for i, (text, width) in enumerate(zip(line, widths))]
            out.write("  ".join(texts) + "\n")


def read():
    """The compiler's version and the rows."""
    first, _, *lines = TABLE.read_text().splitlines()
    cells = [re.split(r"\s{2,}", line.strip()) for line in lines]
    return re.search(r"nvcc (\S+);", first)[1], {tuple(line[:3]): tuple(map(int, line[3:])) for line in cells}


def in_words(numbers):
    return ", ".join(f"{number} {name}" for name, number in zip(COLUMNS[3:], numbers)) if numbers else "no such kernel"


def check(rows):
    table_version, table = read()
    spills, changes = [], []
    for entry in sorted(rows.keys() | table.keys()):
        before, after = table.get(entry), rows.get(entry)
        if before == after:
            continue
        change = f"{' '.join(entry)}\n    before: {in_words(before)}\n    now:    {in_words(after)}"
        spilled = sum(after[2:4]) if after else 0
        (spills if spilled > (sum(before[2:4]) if before else 0) else changes).append(change)
    for change in spills:
        print(f"spills registers to memory: {change}")
    for change in changes:
        print(f"changed: {change}")
    same_compiler = table_version == version()
    if spills or (changes and same_compiler):
        print("If this is meant, scripts/kernel_resources.py writes the table anew; give spills a reason in the commit.")
        return 1
    note = "" if same_compiler else f" (the table is by nvcc {table_version}, this is {version()}: only spills count)"
    print(f"{len(rows)} rows, no new spill{note}")
    return 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the table instead of writing it")
    arguments = parser.parse_args()
    rows = compile_all()
    if arguments.check:
        sys.exit(check(rows))
    write(rows)
    print(f"{TABLE.relative_to(ROOT)}: {len(rows)} rows")


if __name__ == "__main__":
    main()
