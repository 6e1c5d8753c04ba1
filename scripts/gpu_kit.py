#!/usr/bin/env python3
"""Runs the parts of a GPU kit and writes what became of them into one JSON file.

Every part has a limit of time and survives the failure of the others; the file is written anew
after each. A part is `ok`, `failed` or `skipped`, the last two with a `reason`, and has the end of
what its programs printed. Needs only Python's standard library; PyTorch is gpu_peers.py's matter.
"""

import argparse
import concurrent.futures
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

TOTAL_SECONDS = 525
TAIL = 3000


class Skipped(Exception):
    """A part that cannot run here; the text says why."""


class Failed(Exception):
    """A part that ran and went wrong; `details` belong into the report all the same."""

    def __init__(self, reason, details=None):
        super().__init__(reason)
        self.details = details or {}


class Kit:
    """A kit's folder, its report and the time that is left."""

    def __init__(self, folder, out, total_seconds=TOTAL_SECONDS):
        self.folder, self.out = Path(folder).resolve(), Path(out).resolve()
        self.deadline = time.monotonic() + total_seconds
        self.report = {"kit": json.loads((self.folder / "kit.json").read_text()), "date": now(), "parts": {}}
        self.tail = ""

    def part(self, name, seconds, work):
        """Runs one part for at most `seconds`, and writes the report."""
        start, self.tail = time.monotonic(), ""
        left = min(seconds, self.deadline - start)
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


def machine(kit, seconds):
    """The machine: CPU, GPU, driver, Python and its packages."""
    code, stdout, _ = kit.run([kit.program("cusae"), "info", "--json"], seconds)
    info = json.loads(stdout)
    fields = "name,driver_version,memory.total,clocks.max.sm,clocks.max.mem,power.limit"
    code, smi, _ = kit.run(["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"], 20, check=False)
    versions = "import torch, json; print(json.dumps({'torch': torch.__version__, 'cuda': torch.version.cuda}))"
    torch_code, torch_out, _ = kit.run([sys.executable, "-c", versions], 60, check=False)
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
    if not info.get("gpus"):
        raise Skipped(info.get("why_no_cuda") or "the program finds no GPU")


# ---- tests ----


def tests(program, device, filters=()):
    """A part: a test program on one device."""

    def part(kit, seconds):
        if device == "cuda":
            needs_gpu(kit)
        code, stdout, _ = kit.run([kit.program(program), *filters], seconds, check=False, CUSAE_TEST_DEVICE=device)
        result = test_counts(stdout)
        if code is None:
            raise Failed(f"{program} was ended after {seconds:.0f} s", result)
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
        _, stdout, _ = kit.run([kit.program("kernels"), "--list", "--format", "terse"], 20)
        names = [line[: -len(": test")] for line in stdout.splitlines() if line.endswith(": test")]

        def one(name):
            left = deadline - time.monotonic()
            if left < 5:
                return name, "not reached", ""
            command = [program, "--tool", tool, "--error-exitcode", "99", kit.program("kernels"), "--exact", name]
            environment = {"CUSAE_TEST_DEVICE": "cuda", "RUST_TEST_THREADS": "1"}
            code, out, err = run(command, left, kit.folder, environment)
            return name, {0: "ok", None: "out of time"}.get(code, "failed"), (err + out)[-TAIL:]

        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            outcomes = list(pool.map(one, names))
        result = {"passed": sum(end == "ok" for _, end, _ in outcomes)}
        for key in ("failed", "out of time", "not reached"):
            result[key.replace(" ", "_")] = [name for name, end, _ in outcomes if end == key]
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
        command = [kit.program("cusae"), "bench", "--device", device, "--sizes", sizes, "--json", "--quiet", *flags]
        _, stdout, _ = kit.run(command, seconds)
        kit.tail = ""
        return {"table": json.loads(stdout)}

    return part


def peers(kit, seconds):
    """PyTorch's and Triton's figures: one JSON object a line, so that what was measured in time counts."""
    needs_gpu(kit)
    if not (kit.report.get("machine") or {}).get("torch"):
        raise Skipped("this Python has no PyTorch")
    command = [sys.executable, str(kit.folder / "gpu_peers.py"), "--seconds", str(int(seconds) - 5)]
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


# In the order of importance, with the seconds that each may take.
PARTS = [
    ("machine", 60, machine),
    ("kernels_gpu", 60, tests("kernels", "cuda")),
    ("model_gpu", 30, tests("gpt2_native", "cuda")),
    ("traces_gpu", 30, tests("training_traces", "cuda", ["kernels_"])),
    ("training_cpu", 60, training_cpu),
    ("training_gpu", 60, training_gpu),
    ("bench_gpu_gpt2", 100, bench("cuda", "gpt2")),
    ("bench_gpu_gemma", 80, bench("cuda", "gemma", "--quick")),
    ("peers", 100, peers),
    ("comparison", 5, comparison),
    ("memcheck", 60, sanitizer("memcheck")),
    ("racecheck", 60, sanitizer("racecheck")),
    ("synccheck", 40, sanitizer("synccheck")),
    ("kernels_emulated", 60, tests("kernels", "emulated")),
    ("model_emulated", 30, tests("gpt2_native", "emulated")),
    ("traces_emulated", 30, tests("training_traces", "emulated")),
    ("bench_cpu_small", 40, bench("cpu", "small", "--quick")),
]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True, help="the JSON file to write")
    kit = Kit(Path(__file__).parent, parser.parse_args().out)
    for name, seconds, work in PARTS:
        kit.part(name, seconds, work)
    states = [part["status"] for part in kit.report["parts"].values()]
    print(", ".join(f"{states.count(state)} {state}" for state in ("ok", "failed", "skipped")), file=sys.stderr)
    return 1 if "failed" in states else 0


if __name__ == "__main__":
    sys.exit(main())
