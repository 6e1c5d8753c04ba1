#!/usr/bin/env python3
"""Runs the parts of a GPU kit and writes what became of them into one JSON file, which
benches/results/README.md describes.

Every part has a limit of time and survives the failure of the others; the file is written anew
after each. Needs only Python's standard library; PyTorch is gpu_peers.py's matter.
"""

import argparse
import concurrent.futures
import gzip
import hashlib
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

SCHEMA = 1
TOTAL_SECONDS = 530
TAIL = 3000


class Skipped(Exception):
    """A part that cannot run here; the text says why."""


class Failed(Exception):
    """A part that ran and went wrong; `details` belong into the report all the same."""

    def __init__(self, reason, details=None):
        super().__init__(reason)
        self.details = details or {}


class Share(NamedTuple):
    """A limit: this part of the time that is left."""

    part: float


class Kit:
    """A kit's folder, its report and the time that is left."""

    def __init__(self, folder, out, total_seconds=TOTAL_SECONDS):
        self.folder, self.out = Path(folder).resolve(), Path(out).resolve()
        self.deadline = time.monotonic() + total_seconds
        made = json.loads((self.folder / "kit.json").read_text())
        self.report = {
            "schema": SCHEMA, "version": made["version"], "commit": made["commit"], "date": now(),
            "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]), "kit": made, "machine": None, "parts": {},
        }
        self.tail = ""

    def part(self, name, limit, work):
        """Runs one part within its limit, in seconds or as a Share of the time left, and writes the report."""
        start, self.tail = time.monotonic(), ""
        left = self.deadline - start
        left = left * limit.part if isinstance(limit, Share) else min(limit, left)
        print(f"{name} ...", end=" ", file=sys.stderr, flush=True)
        try:
            if left < 3:
                raise Skipped("no time is left for it")
            entry = {"status": "ok", **work(self, left)}
        except Skipped as why:
            entry = {"status": "skipped", "reason": str(why)}
        except Failed as failure:
            entry = {"status": "failed", "reason": str(failure), **failure.details}
        except Exception as error:  # a mistake in a part must not take the others with it
            entry = {"status": "failed", "reason": f"{type(error).__name__}: {error}"}
        entry["seconds"] = round(time.monotonic() - start, 2)
        if self.tail:
            entry["tail"] = self.tail
        self.report["parts"][name] = entry
        self.save()
        print(entry["status"], entry.get("reason", ""), file=sys.stderr)

    def save(self):
        partial = self.out.with_name(self.out.name + ".partial")
        partial.write_text(json.dumps(self.report, indent=1) + "\n")
        partial.replace(self.out)

    def run(self, command, seconds, check=True, **environment):
        """Runs a program in the kit's folder: its exit code, stdout and stderr. None: out of time."""
        code, stdout, stderr = run(command, seconds, self.folder, environment)
        self.tail = (stderr + stdout)[-TAIL:]
        if check and code is None:
            raise Failed(f"{command[0]} was ended after {seconds:.0f} s")
        if check and code != 0:
            raise Failed(last_line(stderr) or f"{command[0]} ended with {code}")
        return code, stdout, stderr

    def program(self, name):
        return str(self.folder / "bin" / name)


def run(command, seconds, folder, environment):
    """Exit code (None: out of time), stdout and stderr of a program with all that it has started."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        try:
            process = subprocess.Popen(
                command, cwd=folder, env={**os.environ, **environment}, stdin=subprocess.DEVNULL, stdout=out,
                stderr=err, start_new_session=True,
            )
        except OSError as error:
            return 127, "", f"{command[0]} cannot be started: {error.strerror}"
        try:
            code = process.wait(max(seconds, 0.1))
        except subprocess.TimeoutExpired:
            code = None
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        texts = []
        for stream in (out, err):
            stream.seek(0)
            texts.append(stream.read().decode(errors="replace"))
        return code, *texts


def now():
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def last_line(text):
    lines = text.strip().splitlines()
    return lines[-1] if lines else ""


# ---- what the machine is ----


VERSIONS = """
import json, torch
try:
    import triton
except ImportError:
    triton = None
print(json.dumps({"torch": torch.__version__, "cuda": torch.version.cuda, "triton": triton and triton.__version__}))
"""


def machine(kit, seconds):
    """The machine: CPU, GPU, driver, Python and its packages."""
    _, stdout, _ = kit.run([kit.program("cusae"), "info", "--json"], seconds)
    info = json.loads(stdout)
    fields = "name,driver_version,memory.total,clocks.max.sm,clocks.max.mem,power.limit"
    code, smi, _ = kit.run(["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"], 20, check=False)
    torch_code, torch_out, _ = kit.run([sys.executable, "-c", VERSIONS], 60, check=False)
    kit.tail = ""
    kit.report["machine"] = {
        "cusae": info,
        "gpu": dict(zip(fields.split(","), (field.strip() for field in smi.splitlines()[0].split(",")))) if code == 0 else None,
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": json.loads(torch_out) if torch_code == 0 else None,
        "compute_sanitizer": sanitizer_path(),
    }
    return {}


def needs_gpu(kit):
    """Error: there is no GPU that the program can use, and why."""
    info = kit.report.get("machine", {}).get("cusae")
    if info is None:
        raise Skipped("the program does not say what there is (part machine)")
    if not info.get("cuda"):
        raise Skipped(info.get("why_no_cuda") or "the program finds no GPU")


# ---- tests ----


def tests(device, *arguments):
    """A part: those tests of bin/tests that the arguments choose, on one device."""

    def part(kit, seconds):
        if device == "cuda":
            needs_gpu(kit)
        command = [kit.program("tests"), *arguments]
        code, stdout, _ = kit.run(command, seconds, check=False, CUSAE_TEST_DEVICE=device)
        result = test_counts(stdout)
        if code is None:
            raise Failed(f"the tests were ended after {seconds:.0f} s", result)
        if code != 0 or result["passed"] == 0:
            raise Failed(f"{len(result['failed'])} tests failed, {result['passed']} passed", result)
        kit.tail = ""
        return result

    return part


def test_counts(stdout):
    """What Rust's test harness has printed."""
    lines = re.findall(r"^test (\S+) \.\.\. (ok|FAILED)", stdout, re.MULTILINE)
    total = re.search(r"(\d+) passed; (\d+) failed", stdout)
    passed = int(total[1]) if total else sum(end == "ok" for _, end in lines)
    return {"passed": passed, "failed": [name for name, end in lines if end == "FAILED"]}


def sanitizer_path():
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda", "/opt/cuda"]
    folders = [folder for home in homes if home for folder in (f"{home}/bin", f"{home}/compute-sanitizer")]
    return shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path=os.pathsep.join(folders))


def sanitizer(tool):
    """A part: compute-sanitizer on the kernel tests, each in a process of its own, as many as there is time for."""

    def part(kit, seconds):
        needs_gpu(kit)
        program = sanitizer_path()
        if program is None:
            raise Skipped("compute-sanitizer is not on this machine: it comes with the CUDA toolkit")
        deadline = time.monotonic() + seconds
        _, stdout, _ = kit.run([kit.program("tests"), "--list", "--format", "terse", KERNELS], 20)
        names = [line[: -len(": test")] for line in stdout.splitlines() if line.endswith(": test")]

        def one(name):
            left = deadline - time.monotonic()
            if left < 5:
                return name, "not_reached", ""
            command = [program, "--tool", tool, "--error-exitcode", "99", kit.program("tests"), "--exact", name]
            environment = {"CUSAE_TEST_DEVICE": "cuda", "RUST_TEST_THREADS": "1"}
            code, out, err = run(command, left, kit.folder, environment)
            return name, {0: "passed", None: "out_of_time"}.get(code, "failed"), (err + out)[-TAIL:]

        # The first alone: on some virtual machines no tool works.
        outcomes = [one(name) for name in names[:1]]
        if any("Device not supported" in tail for _, _, tail in outcomes):
            raise Skipped("compute-sanitizer does not support this machine's GPU: Device not supported")
        with concurrent.futures.ThreadPoolExecutor(max(1, min(8, os.cpu_count() // 2))) as pool:
            outcomes += pool.map(one, names[1:])
        result = {"passed": sum(end == "passed" for _, end, _ in outcomes)}
        for key in ("failed", "out_of_time", "not_reached"):
            result[key] = [name for name, end, _ in outcomes if end == key]
        kit.tail = next((tail for _, end, tail in outcomes if end == "failed"), "")
        if result["failed"]:
            raise Failed(f"{tool} complains in {', '.join(result['failed'])}", result)
        if result["passed"] == 0:
            raise Failed(f"no test ended in time under {tool}", result)
        return result

    return part


# ---- training ----

TRAINING = ["--training-tokens", "262144", "--seed", "7", "--n-eval-batches", "2", "--quiet", "--json"]
LOSS = "losses/overall_loss"
# One rounding decides now and then which latent is the 32nd, and runs part; the first steps must agree
# closely, the end in what was learnt.
FIRST_TOLERANCE, LAST_TOLERANCE = 1e-3, 2e-2


def train(kit, device, out, seconds):
    """Losses by step, and the digest of the weights."""
    command = [kit.program("cusae"), "train", "--device", device, "--out", str(out), *TRAINING]
    _, stdout, _ = kit.run(command, seconds)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    losses = {line["step"]: line[LOSS] for line in lines if LOSS in line}
    digest = hashlib.sha256((out / "sae_weights.safetensors").read_bytes()).hexdigest()
    return losses, digest, json.loads(stdout)


def training_cpu(kit, seconds):
    """A training run on the CPU, in which the loss must fall."""
    with tempfile.TemporaryDirectory() as folder:
        losses, digest, summary = train(kit, "cpu", Path(folder) / "cpu", seconds)
    kit.tail = ""
    kit.cpu_losses = losses
    first, last = losses[min(losses)], losses[max(losses)]
    result = {"first_loss": first, "last_loss": last, "weights_sha256": digest, "summary": summary}
    if not last < first:
        raise Failed(f"the loss does not fall: {first} at first, {last} at last", result)
    return result


def training_gpu(kit, seconds):
    """The same run on the GPU, twice: the same bits, and the CPU's losses."""
    needs_gpu(kit)
    deadline = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as folder:
        losses, digest, summary = train(kit, "cuda", Path(folder) / "first", seconds)
        _, again, _ = train(kit, "cuda", Path(folder) / "second", deadline - time.monotonic())
    kit.tail = ""
    result = {"weights_sha256": digest, "same_bits_twice": digest == again, "summary": summary}
    if not hasattr(kit, "cpu_losses"):
        raise Failed("there is no run on the CPU to compare with (part training_cpu)", result)
    result.update(compare_losses(kit.cpu_losses, losses))
    if digest != again:
        raise Failed("two runs on the GPU gave different weights", result)
    if result["first_difference"] > FIRST_TOLERANCE or result["last_difference"] > LAST_TOLERANCE:
        raise Failed("the losses on the GPU are not those on the CPU", result)
    return result


def compare_losses(cpu, gpu):
    """Relative differences of two runs' losses, at the first, the last and the worst step."""
    if not cpu or cpu.keys() != gpu.keys():
        raise Failed("the runs have not logged the same steps")
    differences = {step: abs(gpu[step] - cpu[step]) / abs(cpu[step]) for step in sorted(cpu)}
    values = list(differences.values())
    worst = max(differences, key=differences.get)
    return {
        "first_difference": values[0], "last_difference": values[-1], "largest_difference": differences[worst],
        "largest_at_step": worst, "losses": {step: [cpu[step], gpu[step]] for step in differences},
    }


# ---- speed ----


def bench(device, sizes, *flags):
    """A part: the table of `cusae bench`."""

    def part(kit, seconds):
        if device == "cuda":
            needs_gpu(kit)
        # Rows take long to prepare, too: so many seconds are left to the last one.
        limit = ["--seconds", str(max(1, int(0.8 * seconds)))]
        command = [kit.program("cusae"), "bench", "--device", device, "--sizes", sizes, *limit, *flags]
        _, stdout, _ = kit.run([*command, "--json", "--quiet"], seconds)
        kit.tail = ""
        return {"table": json.loads(stdout)}

    return part


def peers(kit, seconds):
    """PyTorch's and Triton's figures: one JSON object a line, so that what was measured in time counts."""
    needs_gpu(kit)
    if not (kit.report.get("machine") or {}).get("torch"):
        raise Skipped("this Python has no PyTorch")
    # Its clock starts after PyTorch and Triton were imported, and what it then measures must end, too.
    limit = str(max(1, int(seconds) - 20))
    command = [sys.executable, str(kit.folder / "gpu_peers.py"), "--seconds", limit]
    code, stdout, stderr = kit.run(command, seconds, check=False)
    rows = [json.loads(line) for line in stdout.splitlines() if line.startswith("{") and line.endswith("}")]
    if code != 0 or not rows:
        reason = "gpu_peers.py was ended" if code is None else last_line(stderr) or f"gpu_peers.py ended with {code}"
        raise Failed(f"{reason}; {len(rows)} rows were measured", {"rows": rows})
    kit.tail = ""
    return {"rows": rows}


def comparison(kit, _):
    """Every peer beside the row of the table that does the same."""
    parts = kit.report["parts"]
    rows = parts.get("peers", {}).get("rows")
    if not rows:
        raise Skipped("there are no peers' figures (part peers)")
    tables = {name[len("bench_gpu_"):]: part["table"]["rows"] for name, part in parts.items()
              if name.startswith("bench_gpu_") and "table" in part}
    return {"rows": side_by_side(tables, rows)}


def side_by_side(tables, peers_rows):
    result = []
    for peer in peers_rows:
        for row in tables.get(peer["sizes"], []):
            same = row["operation"] == peer["operation"] and peer["like"] in row["size"]
            if same and "seconds" in row and "seconds" in peer:
                result.append({
                    "operation": row["operation"], "size": row["size"], "cusae_seconds": row["seconds"],
                    "peer": peer["peer"], "peer_seconds": peer["seconds"],
                    "times_as_fast": peer["seconds"] / row["seconds"],
                })
    return result


KERNELS, MODEL, TRACES, REFUSALS = "kernels::", "gpt2_native::", "training_traces::kernels_", "refusals::"
# It looks into the sources of the kernels, which the kit does not have.
NO_SOURCES = ("--skip", "every_refusal_is_tested_here")

# Limits are for a machine where something hangs; where nothing does, most of the time is the sanitizers'.
PARTS = [
    ("machine", 40, machine),
    ("kernels_gpu", 45, tests("cuda", KERNELS)),
    ("refusals_gpu", 20, tests("cuda", REFUSALS, *NO_SOURCES)),
    ("model_gpu", 20, tests("cuda", MODEL)),
    ("traces_gpu", 20, tests("cuda", TRACES)),
    ("kernels_emulated", 45, tests("emulated_once", KERNELS)),
    ("refusals_emulated", 5, tests("emulated", REFUSALS, *NO_SOURCES)),
    ("model_emulated", 15, tests("emulated", MODEL)),
    ("traces_emulated", 60, tests("emulated", TRACES)),
    ("training_cpu", 30, training_cpu),
    ("training_gpu", 40, training_gpu),
    ("bench_gpu_gpt2", 60, bench("cuda", "gpt2")),
    ("bench_gpu_gemma", 45, bench("cuda", "gemma", "--quick")),
    ("peers", 60, peers),
    ("comparison", 5, comparison),
    ("bench_cpu_small", 20, bench("cpu", "small", "--quick")),
    ("memcheck", Share(1 / 3), sanitizer("memcheck")),
    ("racecheck", Share(1 / 2), sanitizer("racecheck")),
    ("synccheck", Share(1), sanitizer("synccheck")),
]


def unpack(folder):
    """The programs of a kit as it was built."""
    for packed in (folder / "bin").glob("*.gz"):
        program = packed.with_suffix("")
        with gzip.open(packed) as source, program.open("wb") as to:
            shutil.copyfileobj(source, to)
        program.chmod(0o755)
        packed.unlink()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True, help="the JSON file to write")
    out, folder = parser.parse_args().out, Path(__file__).parent
    unpack(folder)
    kit = Kit(folder, out)
    for name, limit, work in PARTS:
        kit.part(name, limit, work)
    states = [part["status"] for part in kit.report["parts"].values()]
    print(", ".join(f"{states.count(state)} {state}" for state in ("ok", "failed", "skipped")), file=sys.stderr)
    return 1 if "failed" in states else 0


if __name__ == "__main__":
    sys.exit(main())
