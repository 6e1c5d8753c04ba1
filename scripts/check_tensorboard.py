"""Reads a run's event files with the real tensorboard package and compares them with metrics.jsonl.

    pip install tensorboard
    python scripts/check_tensorboard.py runs/topk-1

Every number of metrics.jsonl must be in the event files, at the same step, to float32, and no other
scalar; the files of a resumed run count as one. Exit code 0 and a line if so, 1 and the difference else.
"""

import json
import struct
import sys
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


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
    return scalars, sum(len(events.Histograms(tag)) for tag in tags["histograms"])


def main():
    folder = Path(sys.argv[1])
    expected = expected_scalars(folder)
    written, n_histograms = written_scalars(folder)
    different = sorted(key for key in expected.keys() | written.keys() if expected.get(key) != written.get(key))
    for key in different[:10]:
        print(f"{key}: metrics.jsonl {expected.get(key)}, event files {written.get(key)}")
    if different or not expected:
        sys.exit(f"{len(different)} of {len(expected)} numbers differ")
    print(f"{len(expected)} numbers agree; {n_histograms} histograms can be read")


if __name__ == "__main__":
    main()
