#!/usr/bin/env python3
"""Plants one fault at a time in the kernels and demands that a test notices each.

    scripts/mutations.py                  every fault
    scripts/mutations.py gemm.cuh adam.cu faults in these files of cuda/ only
    scripts/mutations.py --untried        faults in files that tests/mutations_tried.txt does not have as they are
    scripts/mutations.py --sample SEED    of every file one fault of each kind; the seed says which
    scripts/mutations.py --list           names them, compiles and runs nothing

Faults are those of tests/mutations.toml, and three kinds that are found in the files themselves: each
barrier and each wait for a copy is left out, each refusal and each call of a function that refuses
passes. A fault that nothing notices is printed, and the exit code is 1. A file of which all faults were
tried and noticed is noted in tests/mutations_tried.txt, with the day.

All faults are compiled into one library of the emulator, a file's in one program text: what a fault
changes is repeated in a namespace of its own, and CUSAE_MUTANT says at run time which of them an
operation takes. The test programs load that library instead of what they are linked with. What has been
compiled stays in target/mutations, so that a run that was stopped goes on.
"""
import argparse
import concurrent.futures
import dataclasses
import datetime
import hashlib
import itertools
import json
import os
import pathlib
import random
import re
import subprocess
import sys
import time
import tomllib

ROOT = pathlib.Path(__file__).resolve().parent.parent
CUDA = ROOT / "cuda"
INCLUDE = ROOT / "tests" / "emu" / "include"
TRIED = ROOT / "tests" / "mutations_tried.txt"
# What every program text includes; a change in it is a change of all.
HEADERS = [*sorted(INCLUDE.iterdir()), CUDA / "api.h", CUDA / "device.cuh"]
WORK = ROOT / "target" / "mutations" / hashlib.sha256(b"".join(header.read_bytes() for header in HEADERS)).hexdigest()[:12]
FLAGS = ["-std=c++20", "-O1", "-fPIC", "-w", "-ffp-contract=off", f"-I{INCLUDE}", f"-I{CUDA}", f"-I{WORK}"]
# What these hold is no kernel, and tests/emulator.rs is about the emulator itself.
WITHOUT_KERNELS = {"device.cuh", "runtime.cu"}
# Has no operation of its own: whoever multiplies bf16 calls it.
HOPPER = "gemm_sm90.cu"
SECONDS = 120  # that a test may take: one that hangs has noticed, too

# Statements whose absence a test must notice.
BARRIERS = re.compile(r"\b(__syncthreads|__syncwarp)\([^;]*\);")
WAITS = re.compile(r"\b(cp_async_wait<[^;]*>|cp_async_commit|(?:mbar|wgmma_|fence_|tma_)\w*wait\w*)\([^;]*\);")
REFUSALS = re.compile(r'refuse\("[^"]*"\)')
REFUSING_CALLS = re.compile(r"if \(int error = refuse_\w+\([^;]*\)\) return error;")


@dataclasses.dataclass
class Mutant:
    number: int
    kind: str
    file: str
    line: int
    old: str
    new: str
    text: str  # the whole file with the fault
    compile: list  # files of cuda/ that show it
    program: str
    tests: list  # [] for all of the program

    def __str__(self):
        old, new = (" ".join(text.split()) for text in (self.old, self.new))
        return f"{self.file}:{self.line}: {old}  ->  {new or 'nothing'}"


def read_list(chosen):
    """All mutants, numbered from 1."""
    groups = tomllib.loads((ROOT / "tests" / "mutations.toml").read_text())["group"]
    files = {path.name for path in CUDA.iterdir() if path.suffix in (".cu", ".cuh")} - WITHOUT_KERNELS
    if missing := files - {group["file"] for group in groups}:
        sys.exit(f"tests/mutations.toml has no faults for {', '.join(sorted(missing))}")
    mutants, seen = [], set()
    for group in groups:
        name = group["file"]
        source = (CUDA / name).read_text()

        def add(kind, start, old, new, program="kernels"):
            text = source[:start] + new + source[start + len(old):]
            where = group.get("compile", [name]), program, group["tests"] if program == "kernels" else []
            mutants.append(Mutant(len(mutants) + 1, kind, name, source[:start].count("\n") + 1, old, new, text, *where))

        for old, new in group.get("faults", []):
            if source.count(old) != 1:
                sys.exit(f"tests/mutations.toml, {name}: it has {source.count(old)} times, expected once: {old!r}")
            add("listed", source.index(old), old, new)
        if name in seen:
            continue
        seen.add(name)
        left_out = group.get("not", [])
        for kind, statements in [("barrier", BARRIERS), ("wait", WAITS)]:
            for found in statements.finditer(source):
                if found[0] not in left_out:
                    add(kind, found.start(), found[0], "{}")
        for found in REFUSALS.finditer(source):
            add("refusal", found.start(), found[0], "CUSAE_OK", "refusals")
        for found in REFUSING_CALLS.finditer(source):
            if found[0] not in left_out:
                add("refusal", found.start(), found[0], "", "refusals")
    if unknown := set(chosen) - files:
        sys.exit(f"cuda/ has no kernels in {', '.join(sorted(unknown))}")
    return [mutant for mutant in mutants if not chosen or mutant.file in chosen]


def by_file(mutants):
    return {file: list(of_file) for file, of_file in itertools.groupby(sorted(mutants, key=lambda m: m.file), lambda m: m.file)}


def sample(mutants, seed):
    """Of every file one mutant of each kind."""
    choice, kinds = random.Random(seed), {}
    for mutant in mutants:
        kinds.setdefault((mutant.file, mutant.kind), []).append(mutant)
    return [choice.choice(of_kind) for of_kind in kinds.values()]


def digest(mutants):
    """Of a file's text and its faults."""
    return hashlib.sha256("".join(mutant.text for mutant in mutants).encode()).hexdigest()[:12]


def read_tried():
    """The lines of TRIED, by file."""
    lines = TRIED.read_text().splitlines() if TRIED.exists() else []
    return {line.split()[0]: line for line in lines if not line.startswith("#")}


def untried(mutants):
    tried = read_tried()
    new = {file for file, of_file in by_file(mutants).items() if digest(of_file) not in tried.get(file, "")}
    return [mutant for mutant in mutants if mutant.file in new]


def note_tried(mutants, survivors):
    """Writes TRIED, with a new line for each file whose mutants all were noticed."""
    tried, surviving = read_tried(), {mutant.file for mutant in survivors}
    for file, of_file in by_file(mutants).items():
        tried.pop(file, None)
        if file not in surviving:
            tried[file] = f"{file:<26} {len(of_file):>3}  {datetime.date.today()}  {digest(of_file)}"
    heading = "# Files whose faults were all tried and noticed: how many, when, and a digest of file and faults.\n"
    TRIED.write_text(heading + "".join(f"{tried[file]}\n" for file in sorted(tried)))


def includes(name):
    """A file of cuda/ and all it includes and calls, what is included first."""
    order = []
    for inner in re.findall(r'^#include "(\w+\.cuh)"', (CUDA / name).read_text(), re.M):
        order += [file for file in includes(inner) if file not in order]
    order = [file for file in order if file != "device.cuh"] + [name]
    if name.endswith(".cu") and name != HOPPER and "gemm_bf16.cuh" in order:
        order += [file for file in includes(HOPPER) if file not in order]
    return order


def body(name, text):
    """A file's text without what it includes and what makes it be included once."""
    text = re.sub(r'^(#pragma once|#include "\w+\.cuh")$', "", text, flags=re.M)
    return f'#line 1 "{name}"\n{text}\n'


def program_text(unit, changed, mutants):
    """`unit`.cu with these mutants of `changed`, which is the file itself or one it includes."""
    order = includes(unit)
    # What gemm_bf16.cuh declares is defined in a file after it: both are of one namespace.
    at = min(order.index(file) for file in (changed, "gemm_bf16.cuh") if file in order)
    unchanged = {file: (CUDA / file).read_text() for file in order}
    text = ['#include "device.cuh"\n'] + [body(file, unchanged[file]) for file in order[:at]]
    versions = [(mutant.number, mutant.text) for mutant in mutants]
    if changed == unit:
        versions.insert(0, (0, unchanged[unit]))
    for number, of_changed in versions:
        text.append(f"""
#undef CUSAE_NS
#undef CUSAE_NAME
#define CUSAE_NS cusae_emu::mutant_{number}
#define CUSAE_NAME(name) mutant_{number}_##name
namespace cusae_emu::mutant_{number} {{ using namespace cusae_emu; }}
""")
        for file in order[at:]:
            text.append(body(f"{file} with fault {number}", of_changed if file == changed else unchanged[file]))
    return "".join(text)


def operations(unit):
    return re.findall(r"^CUSAE_API\((\w+)\)", (CUDA / unit).read_text(), re.M)


def choice(units, mutants):
    """The functions of api.h, which take the chosen version."""
    text = ['#include <cstdlib>\n#include "api.h"\n', "static int chosen() { return std::atoi(std::getenv(\"CUSAE_MUTANT\")); }\n"]
    for unit in units:
        numbers = [mutant.number for mutant in mutants if unit in mutant.compile]
        for name in operations(unit):
            declared = "".join(f'extern "C" int mutant_{n}_{name}(const cusae_{name}*, cusae_stream*);\n' for n in [0, *numbers])
            cases = "".join(f"        case {n}: return mutant_{n}_{name}(a, stream);\n" for n in numbers)
            text.append(
                f'{declared}extern "C" int cusae_emu_{name}(const cusae_{name}* a, cusae_stream* stream) {{\n'
                f"    switch (chosen()) {{\n{cases}        default: return mutant_0_{name}(a, stream);\n    }}\n}}\n"
            )
    return "".join(text)


def compiler(*arguments):
    done = subprocess.run([os.environ.get("CXX", "c++"), *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        sys.exit("\n".join(done.stderr.splitlines()[:20]))


def build(mutants, jobs):
    """The emulator's library with all mutants."""
    WORK.mkdir(parents=True, exist_ok=True)
    flags = FLAGS + (["-mfma"] if " fma " in pathlib.Path("/proc/cpuinfo").read_text() else [])
    (WORK / "emulator.h").write_text("#include <cstdint>\n#include <cuda_bf16.h>\n#include <cuda_runtime.h>\n")
    compiler(*flags, "-x", "c++-header", WORK / "emulator.h", "-o", WORK / "emulator.h.gch")
    units = sorted(path.name for path in CUDA.glob("*.cu") if path.name not in WITHOUT_KERNELS | {HOPPER})
    texts = {"choice.cpp": choice(units, mutants), "runtime.cpp": (CUDA / "runtime.cu").read_text()}
    for unit in units:
        for changed in includes(unit):
            of_both = [mutant for mutant in mutants if mutant.file == changed and unit in mutant.compile]
            if of_both or changed == unit:
                texts[f"{unit}-{changed}.cpp"] = program_text(unit, changed, of_both)

    def compile_text(name):
        source, compiled = WORK / name, WORK / f"{name}.o"
        if not (compiled.exists() and source.read_text() == texts[name]):
            compiled.unlink(missing_ok=True)
            source.write_text(texts[name])
            compiler(*flags, "-include", "emulator.h", "-c", source, "-o", compiled)
        return compiled

    longest_first = sorted(texts, key=lambda name: -len(texts[name]))
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        objects = list(pool.map(compile_text, longest_first))
    compiler("-shared", "-o", WORK / "emulator.so", *objects, "-pthread")
    return WORK / "emulator.so"


def test_programs():
    command = ["cargo", "test", "--quiet", "--no-run", "--message-format", "json", "--test", "kernels", "--test", "refusals"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    messages = [json.loads(line) for line in done.stdout.splitlines()]
    artifacts = [m for m in messages if m.get("reason") == "compiler-artifact" and m["executable"]]
    return {m["target"]["name"]: m["executable"] for m in artifacts}


def passes(program, tests, library, number):
    """Whether all these tests pass with a mutant; those after one that fails are not run."""
    environment = {**os.environ, "CUSAE_EMU_LIBRARY": str(library), "CUSAE_MUTANT": str(number), "CUSAE_TEST_DEVICE": "emulated"}
    for test in tests or [None]:
        command = [program, "--test-threads=1"] + (["--exact", test] if test else [])
        try:
            done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=SECONDS)
        except subprocess.TimeoutExpired:
            return False
        if done.returncode:
            return False
        if "running 0 tests" in done.stdout:
            sys.exit(f"tests/mutations.toml: there is no test {test}")
    return True


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", help="files of cuda/; all where none is named")
    parser.add_argument("--untried", action="store_true", help="only files that have changed since all their faults were noticed")
    parser.add_argument("--sample", metavar="SEED", help="of every file one fault of each kind")
    parser.add_argument("--list", action="store_true", help="name the faults only")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="at once; the number of cores")
    arguments = parser.parse_args()
    mutants = read_list(arguments.files)
    if arguments.untried:
        mutants = untried(mutants)
    if arguments.sample is not None:
        mutants = sample(mutants, arguments.sample)
    if arguments.list:
        print(*mutants, sep="\n")
        return
    start = time.time()
    programs = test_programs()
    library = build(mutants, arguments.jobs)
    print(f"{len(mutants)} faults compiled in {time.time() - start:.0f} s", flush=True)
    tests = sorted({(mutant.program, test) for mutant in mutants for test in mutant.tests})
    tests += [(program, None) for program in {mutant.program for mutant in mutants if not mutant.tests}]

    def unchanged(of):
        program, test = of
        return of if not passes(programs[program], [test], library, 0) else None

    def survives(mutant):
        return mutant if passes(programs[mutant.program], mutant.tests, library, mutant.number) else None

    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        if failing := [of for of in pool.map(unchanged, tests) if of]:
            sys.exit(f"without any fault fails: {failing}")
        survivors = []
        for survivor in filter(None, pool.map(survives, mutants)):
            survivors.append(survivor)
            print(f"nothing notices {survivor}", flush=True)
    if arguments.sample is None:
        note_tried(mutants, survivors)
    print(f"{len(mutants) - len(survivors)} of {len(mutants)} faults are noticed, {time.time() - start:.0f} s")
    sys.exit(1 if survivors else 0)


if __name__ == "__main__":
    main()
