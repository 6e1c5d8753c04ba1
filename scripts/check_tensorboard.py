"""Reads a run's event files with the real tensorboard package and compares them with metrics.jsonl.

    pip install tensorboard
    python scripts/check_tensorboard.py --cusae target/debug/cusae   # makes a run, interrupted once
    python scripts/check_tensorboard.py --run runs/topk-1            # looks at this one

Every number of metrics.jsonl must be in the event files, at the same step, to float32, and no other
scalar; the files of a resumed run count as one. Exit code 0 and a line if so, 1 and the difference else.
"""

import argparse
import json
import signal
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


HISTOGRAMS = {"plots/feature_density_line_chart", "weights/W_dec_norms", "weights/b_e"}


def float32(value):
    return struct.unpack("f", struct.pack("f", value))[0]


def expected_scalars(folder):
    scalars = {}
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        metrics = json.loads(line)
        step = metrics.pop("step")
        metrics.pop("n_training_samples")
        for key, value in metrics.items():
            if isinstance(value, (int, float)):
                scalars[key, step] = float32(value)
    return scalars


def written_scalars(folder):
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "histograms": 0})
    events.Reload()
    tags = events.Tags()
    scalars = {(tag, event.step): event.value for tag in tags["scalars"] for event in events.Scalars(tag)}
    return scalars, {tag: len(events.Histograms(tag)) for tag in tags["histograms"]}


def interrupted_run(cusae, folder):
    """A run that is stopped after its first metrics and then resumed: it leaves two event files."""
    train = [cusae, "train", "--quiet"]
    settings = ["--training-tokens", "200000", "--feature-sampling-window", "30", "--n-eval-batches", "1"]
    run = subprocess.Popen([*train, *settings, "--eval-every-n-steps", "40", "--out", str(folder)])
    while run.poll() is None and not list(folder.glob("events.*")):
        time.sleep(0.01)
    run.send_signal(signal.SIGINT)
    if run.wait() != 130:
        sys.exit(f"the interrupted run ended with exit code {run.returncode}, expected 130")
    subprocess.run([*train, "--resume", str(folder)], check=True)
    if len(list(folder.glob("events.*"))) != 2:
        sys.exit("the run was not interrupted")


def check(folder):
    expected = expected_scalars(folder)
    written, histograms = written_scalars(folder)
    different = sorted(key for key in expected.keys() | written.keys() if expected.get(key) != written.get(key))
    for key in different[:10]:
        print(f"{key}: metrics.jsonl {expected.get(key)}, event files {written.get(key)}")
    missing = HISTOGRAMS - histograms.keys()
    if different or not expected or missing:
        sys.exit(f"{len(different)} of {len(expected)} numbers differ; missing histograms: {sorted(missing)}")
    print(f"{len(expected)} numbers agree; {sum(histograms.values())} histograms can be read")


def main():
    parser = argparse.ArgumentParser()
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--cusae", type=Path, help="the program: makes a run and looks at it")
    what.add_argument("--run", type=Path, help="a run folder")
    arguments = parser.parse_args()
    if arguments.run:
        return check(arguments.run)
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        interrupted_run(str(arguments.cusae.resolve()), run)
        check(run)


if __name__ == "__main__":
    main()
