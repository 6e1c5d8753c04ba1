#!/usr/bin/env python3
"""Times cusae beside SAELens, sparsify, TransformerLens and transformers on this machine's CPU, and prints the ratios.

    compare_with_peers.py --out benches/results/$(date -u +%F)-cpu-peers.json
    compare_with_peers.py --table FILE     # the table of an earlier result

Makes an environment of the packages from PyPI in target/peers (or takes --python's), builds cusae, and runs each
measurement in a process of its own, one after the other: both sides get the same activations (or tokens) and weights,
are warmed up, and are timed at least five times. Medians are kept. Ratios are of CPU time of all threads, which a busy
machine changes less than wall time. --quick runs everything once at small sizes, to see that it runs.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
PEERS = ROOT / "scripts" / "peers"
sys.path.insert(0, str(PEERS))
from measure import busy_seconds, cpu_seconds, summary  # noqa: E402

PACKAGES = ("sae-lens", "eai-sparsify", "transformer-lens", "transformers")
FLOAT32, AUTOCAST = "SAELens", "SAELens, bf16 autocast"
NO_BF16 = "PyTorch takes minutes for a step in bf16 without AVX-512"
# glibc gives large blocks back to the system, and PyTorch asks for them again; so set, it keeps them.
KEEPING = {"MALLOC_MMAP_THRESHOLD_": str(1 << 34), "MALLOC_TRIM_THRESHOLD_": str(1 << 36)}
KEPT = ", malloc keeping"
ONE_THREAD = "cusae, 1 thread"
LARGE = {"d_in": 768, "d_sae": 24576, "batch": 4096}
SMALL = {"d_in": 128, "d_sae": 2048, "batch": 4096}
TINY = {"d_in": 32, "d_sae": 256, "batch": 256}

# What is compared at the large size: architecture, L0 where weights decide, peers with the least ratio aimed at.
LARGE_STEPS = [
    ("topk", None,
     {FLOAT32: 14, AUTOCAST: 6, "sparsify": 3, FLOAT32 + KEPT: None, "sparsify" + KEPT: None, ONE_THREAD: None}),
    ("batchtopk", None, {FLOAT32: 14, AUTOCAST: 6}),
    ("jumprelu", 60, {FLOAT32: 14, AUTOCAST: 6}),
    ("standard", 60, {FLOAT32: 10, AUTOCAST: None}),
    ("standard", None, {FLOAT32: 2, AUTOCAST: None}),
]
SMALL_ARCHITECTURES = [
    ("topk", None), ("abstopk", None), ("batchtopk", None), ("matryoshka_batchtopk", None),
    ("jumprelu", 32), ("gated", 32), ("standard", 32), ("standard", None),
]
CONTEXTS = {128: 3, 1024: 5}  # with the ratio aimed at against TransformerLens


class Comparison:
    """The rows so far, and how more are made."""

    def __init__(self, arguments, folder):
        self.arguments, self.folder, self.rows = arguments, folder, []
        self.repeats = 1 if arguments.quick else arguments.repeats
        self.python = str(arguments.python or peers_environment())
        self.cusae, self.library = built(arguments)
        features = json.loads(run([str(self.cusae), "info", "--json"], capture_output=True).stdout)["cpu_features"]
        self.has_avx512 = any(feature.startswith("avx512") for feature in features)

    def add(self, what, size, who, measured, target=None):
        """Keeps a row and shows it. `target` is the ratio that is aimed at, of a peer's time by ours."""
        row = {"what": what, "size": size, "who": who, **measured}
        if target is not None:
            row["target"] = target
        self.rows.append(row)
        figures = [f"{name} {row[key]:.4g}" for name, key in (("s", "seconds"), ("CPU s", "cpu_seconds")) if key in row]
        print(f"{what}, {size}: {who}: {row.get('skipped') or ', '.join(figures)}", file=sys.stderr)

    def peer(self, script, *words, threads=None, environment=None):
        """The row that a script in scripts/peers prints, or why there is none."""
        words = [*map(str, words), "--threads", str(threads or self.arguments.threads)]
        environment = {**os.environ, **(environment or {})}
        done = subprocess.run([self.python, PEERS / script, *words], capture_output=True, text=True, env=environment)
        if done.returncode == 0:
            return json.loads(done.stdout.splitlines()[-1])
        error = (done.stderr.strip().splitlines() or ["no output"])[-1]
        if self.arguments.quick:
            sys.exit(f"{script} {' '.join(words)}: {done.stderr}")
        return {"skipped": error}

    def sae(self, what, sizes, architecture, l0, peers):
        """One comparison of steps or encoding: SAELens first, which leaves its weights."""
        start = self.folder / f"{architecture}-{l0}-{sizes['d_sae']}"
        words = [architecture, *(f"--{key.replace('_', '-')}={value}" for key, value in sizes.items())]
        # Steps of a small SAE take 30 ms: more of them, for a median that other programs disturb less.
        repeats = self.repeats * (4 if sizes == SMALL else 1)
        words += [f"--repeats={repeats}", f"--start={start}", *([f"--l0={l0}"] if l0 else [])]
        state = f", L0 about {l0}" if l0 else ", as training starts" if architecture == "standard" else ""
        size = f"{sizes['d_in']} x {sizes['d_sae']:,}, batch {sizes['batch']:,}{state}"
        name = f"{what} {architecture}"
        own = ["sae_steps.py", "cusae", what, *words, f"--library={self.library}"]
        for peer, target in peers.items():
            if peer == ONE_THREAD:
                self.add(name, size, peer, self.peer(*own, threads=1))
                continue
            package = "sparsify" if peer.startswith("sparsify") else "saelens"
            autocast = ["--autocast"] if peer == AUTOCAST else []
            environment = KEEPING if peer.endswith(KEPT) else None
            if autocast and not self.has_avx512:
                measured = {"skipped": NO_BF16}
            else:
                measured = self.peer("sae_steps.py", package, what, *words, *autocast, environment=environment)
            self.add(name, size, peer, measured, target)
        self.add(name, size, "cusae", self.peer(*own))

    def forward(self, model, layer, sizes):
        """GPT-2 to the hook; ours as a row of the bench."""
        keys = ("seconds", "fastest", "slowest", "cpu_seconds", "samples")

        def own_by_context(threads):
            bench = [self.cusae, "bench", "--device", "cpu", "--sizes", sizes, "--filter", "forward", "--json",
                     "--quiet", "--threads", threads] + (["--quick"] if self.arguments.quick else [])
            rows = json.loads(run(list(map(str, bench)), capture_output=True).stdout)["rows"]
            context_of = {int(row["size"].split("T ")[1].split(",")[0]): row for row in rows}
            return {context: {key: row[key] for key in keys} for context, row in context_of.items()}

        own, alone = own_by_context(self.arguments.threads), own_by_context(1)
        for context, target in CONTEXTS.items():
            if context not in own:
                continue
            size = f"to layer {layer}, 4,096 tokens, context {context:,}"
            for who, target in (("transformer_lens", target), ("transformers", 2.5), ("transformers-eager", None)):
                words = [who, model, f"--context={context}", f"--layer={layer}", f"--repeats={self.repeats}"]
                self.add("GPT-2 forward", size, who, self.peer("gpt2.py", "forward", *words), target)
            self.add("GPT-2 forward", size, ONE_THREAD, alone[context])
            self.add("GPT-2 forward", size, "cusae", own[context])

    def pipeline(self, model, layer, d_sae, training_tokens):
        """Whole runs, in f32 and with bf16 autocast of model and SAE: SAELens' run(), and ours from the first batch to the
        last file. Neither saves a checkpoint beside the SAE. Ours has the CPU time of its whole process, with loading and
        an evaluation."""
        size = f"GPT-2 to layer {layer}, TopK with {d_sae:,} latents, {training_tokens:,} tokens"
        words = [model, f"--layer={layer}", f"--d-sae={d_sae}", f"--training-tokens={training_tokens}"]
        flags = {
            "model-name": model, "dataset-path": model / "tokens.npy", "hook-name": f"blocks.{layer}.hook_resid_pre",
            "d-sae": d_sae, "training-tokens": training_tokens, "train-batch-size-tokens": 4096, "buffer-tokens": 8192,
            "n-eval-batches": 1, "eval-batch-size-prompts": 1, "eval-every-n-steps": "none",
            "save-final-checkpoint": "false",
        }
        for peer, autocast, target in ((FLOAT32, False, 7), (AUTOCAST, True, None)):
            what = "whole run" + ", bf16 autocast" * autocast
            if autocast and not self.has_avx512:
                measured = {"skipped": NO_BF16}
            else:
                peers_words = [*words, f"--repeats={self.repeats}", *["--autocast"] * autocast]
                measured = self.peer("gpt2.py", "train", *peers_words)
            self.add(what, size, peer, measured, target)
            in_bf16 = {"autocast": "true", "autocast-lm": "true"} if autocast else {}
            self.add(what, size, "cusae", self.own_runs(flags | in_bf16, training_tokens))

    def start(self):
        """From the start of the program to its first step in metrics.jsonl; a run of one step writes it at once."""
        walls = []
        for _ in range(1 + self.repeats):
            out = Path(tempfile.mkdtemp(dir=self.folder))
            lines, start = out / "metrics.jsonl", time.perf_counter()
            process = subprocess.Popen(
                [self.cusae, "train", "--device", "cpu", "--threads", str(self.arguments.threads), "--quiet",
                 "--training-tokens", "2048", "--out", out], stdout=subprocess.DEVNULL)
            while process.poll() is None and not (lines.exists() and lines.stat().st_size > 0):
                time.sleep(0.001)
            walls.append(time.perf_counter() - start)
            if process.wait() != 0:
                sys.exit(f"cusae train: exit code {process.returncode}")
        walls = walls[1:]  # the first one warms the disk's cache
        measured = {"seconds": median(walls), "fastest": min(walls), "slowest": max(walls), "samples": len(walls)}
        self.add("start to first step", "embedded model and text", "cusae", measured)

    def own_runs(self, flags, training_tokens):
        """Processes of `cusae train`, timed by themselves."""
        words = [word for key, value in flags.items() for word in (f"--{key}", str(value))]
        words = ["train", "--device=cpu", f"--threads={self.arguments.threads}", "--quiet", "--json", *words]
        walls, cpus, others, peak = [], [], [], 0
        for _ in range(self.repeats):
            out = tempfile.mkdtemp(dir=self.folder)
            busy, ours, start = busy_seconds(), cpu_seconds(), time.perf_counter()
            process = subprocess.Popen([self.cusae, *words, "--out", out], stdout=subprocess.PIPE)
            printed = process.stdout.read()
            _, status, usage = os.wait4(process.pid, 0)
            wall, own = time.perf_counter() - start, usage.ru_utime + usage.ru_stime
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode != 0:
                sys.exit(f"cusae {' '.join(words)}: exit code {process.returncode}")
            shutil.rmtree(out)
            walls.append(training_tokens / json.loads(printed)["tokens_per_second"])
            cpus.append(own)
            others.append(max(0.0, busy_seconds() - busy - own - (cpu_seconds() - ours)) / wall)
            peak = max(peak, 1024 * usage.ru_maxrss)
        return summary(walls, cpus, others) | {"peak_memory": peak}

    def result(self):
        """All of it, with what a reader needs to repeat it."""
        versions = ("import json; from importlib.metadata import version; "
                    f"print(json.dumps({{name: version(name) for name in {(*PACKAGES, 'torch')!r}}}))")
        peers = json.loads(run([self.python, "-c", versions], capture_output=True).stdout)
        return origin(self.arguments, self.cusae) | {"peers": peers, "rows": self.rows}


def origin(arguments, cusae):
    """Of what program, when, how and where figures are: the first keys of a result."""
    info = json.loads(run([str(cusae), "info", "--json"], capture_output=True).stdout)
    git = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    return {
        "schema": 1,
        "version": info["version"],
        "commit": run(git, capture_output=True, cwd=ROOT).stdout.strip(),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "machine": {key: info[key] for key in ("cpu", "cpu_features", "threads", "memory")},
        "threads": arguments.threads,
    }


def built(arguments):
    """The program and the library: those that were named, or of a release build."""
    if not (arguments.cusae and arguments.library):
        run(["cargo", "build", "--release", "--quiet", "-p", "cusae", "-p", "cusae-capi"], cwd=ROOT)
    release = ROOT / "target" / "release"
    return arguments.cusae or release / "cusae", arguments.library or release / "libcusae.so"


def run(words, **options):
    """A command that must succeed."""
    done = subprocess.run(words, text=True, **options)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, words))}: exit code {done.returncode}\n{done.stderr or ''}")
    return done


def peers_environment():
    """The Python of an environment with the peers, made where there is none."""
    python = ROOT / "target" / "peers" / "bin" / "python"
    if not python.exists():
        run([sys.executable, "-m", "venv", ROOT / "target" / "peers"])
        run([python, "-m", "pip", "install", "--quiet", *PACKAGES])
    return python


def compare(arguments, folder):
    comparison = Comparison(arguments, folder)
    quick = arguments.quick
    for architecture, l0, peers in LARGE_STEPS[:1] if quick else LARGE_STEPS:
        comparison.sae("step", TINY if quick else LARGE, architecture, l0, peers)
    comparison.sae("encode", TINY if quick else LARGE, "topk", None, {FLOAT32: 4})
    for architecture, l0 in SMALL_ARCHITECTURES[1:] if quick else SMALL_ARCHITECTURES:
        comparison.sae("step", TINY if quick else SMALL, architecture, l0, {FLOAT32: 8})
    model, layer = folder / "gpt2", 2 if quick else 8
    make = ["make", model, f"--shape={'tiny' if quick else 'small'}", f"--rows={64 if quick else 768}"]
    run([comparison.python, str(PEERS / "gpt2.py"), *map(str, make)])
    comparison.forward(model, layer, "small" if quick else "gpt2")
    comparison.pipeline(model, layer, *((256, 4096) if quick else (24576, 16384)))
    comparison.start()
    return comparison.result()


# ---- The table -----------------------------------------------------------------------------------


def table(result):
    """Markdown: every peer beside the row of cusae that it is compared with."""
    machine, threads = result["machine"].get("cpu") or "an unnamed CPU", result["threads"]
    peers = ", ".join(f"{name} {version}" for name, version in result["peers"].items())
    lines = [f"{result['date'][:10]}, commit {result['commit'][:12]}, {machine}, {threads} threads; {peers}.", ""]
    lines += ["| | peer | its CPU seconds | ours | ratio | wall ratio | aimed at | memory, peer / ours |",
              "|---|---|---|---|---|---|---|---|"]
    own = {(row["what"], row["size"]): row for row in result["rows"] if row["who"] == "cusae"}
    for row in result["rows"]:
        ours = own[row["what"], row["size"]]
        name = f"{row['what']}, {row['size']}"
        if row["who"] != "cusae":
            lines.append(line(name, row, ours))
    first = own.get(("start to first step", "embedded model and text"))
    if first:
        lines += ["", f"From the start of the program to its first step, on the embedded model and text: "
                  f"{first['seconds']:.2f} s (aimed at: less than 1 s)."]
    return "\n".join(lines)


def line(name, peer, ours):
    target = f"{peer['target']:g}x" if "target" in peer else ""
    if "skipped" in peer or "skipped" in ours:
        why = peer.get("skipped") or ours["skipped"]
        return f"| {name} | {peer['who']} | | | not measured: {why} | | {target} | |"
    memory = ""
    if "peak_memory" in peer and "peak_memory" in ours:
        memory = " / ".join(f"{side['peak_memory'] / 1e9:.2f}" for side in (peer, ours)) + " GB"
    ratio, wall = (peer[key] / ours[key] for key in ("cpu_seconds", "seconds"))
    return (f"| {name} | {peer['who']} | {peer['cpu_seconds']:.3g} | {ours['cpu_seconds']:.3g} | {ratio:.1f}x | "
            f"{wall:.1f}x | {target} | {memory} |")


def add_common_flags(parser):
    parser.add_argument("--quick", action="store_true", help="everything once, at small sizes")
    parser.add_argument("--repeats", type=int, default=5, help="samples of each measurement")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--python", type=Path, help="a Python that has the peers, instead of target/peers")
    parser.add_argument("--cusae", type=Path, help="the program, instead of building it")
    parser.add_argument("--library", type=Path, help="libcusae.so, instead of building it")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--table", type=Path, metavar="FILE", help="only print the table of a JSON file")
    add_common_flags(parser)
    arguments = parser.parse_args()
    if arguments.table:
        return print(table(json.loads(arguments.table.read_text())))
    with tempfile.TemporaryDirectory() as folder:
        result = compare(arguments, Path(folder))
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(table(result))


if __name__ == "__main__":
    main()
