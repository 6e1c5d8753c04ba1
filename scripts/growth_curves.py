#!/usr/bin/env python3
"""How time and memory of cusae grow: a TopK training step with d_sae, k and the batch, GPT-2's forward pass with the
context, each point in a process of its own. Writes a JSON file and draws it as an SVG beside it.

    growth_curves.py --out benches/results/$(date -u +%F)-cpu-growth.json
    growth_curves.py --draw FILE     # only the drawing of an earlier result

Lines are what the counts predict: time is a sum of one constant by the multiplications of the encoder's product, one by
the weights (gradients and Adam), one by the entries of lists times their width; memory is a sum of one constant by the
weights, one by the numbers of a batch and one for the program. The constants are fitted to all points of a step at
once, so that a point off the line is a cliff. The forward pass grows with the tokens, and with tokens times context.
"""

import argparse
import json
import math
import subprocess
import sys
from pathlib import Path

from compare_with_peers import PEERS, add_common_flags, built, origin, peers_environment, run

BASE = {"d_in": 768, "d_sae": 24576, "k": 32, "batch": 4096}
AXES = {
    "d_sae": [4096, 8192, 16384, 32768, 65536, 131072],
    "k": [8, 16, 32, 64, 128, 256],
    "batch": [512, 1024, 2048, 4096, 8192],
}
QUICK_BASE = {"d_in": 32, "d_sae": 512, "k": 8, "batch": 256}
QUICK_AXES = {"d_sae": [256, 1024], "k": [4, 16], "batch": [128, 512]}


def step(arguments, python, library, sizes):
    """A TopK step at these sizes."""
    words = [f"--{key.replace('_', '-')}={value}" for key, value in sizes.items()]
    words += [f"--repeats={1 if arguments.quick else arguments.repeats}", f"--threads={arguments.threads}"]
    done = run([python, str(PEERS / "sae_steps.py"), "cusae", "step", "topk", *words, f"--library={library}"],
               stdout=subprocess.PIPE)
    measured = json.loads(done.stdout.splitlines()[-1])
    print(f"{sizes}: {measured['seconds']:.4g} s, {measured['peak_memory'] / 1e9:.2f} GB", file=sys.stderr)
    return measured


def measure(arguments):
    python = str(arguments.python or peers_environment())
    cusae, library = built(arguments)
    base, axes = (QUICK_BASE, QUICK_AXES) if arguments.quick else (BASE, AXES)
    rows = []
    for axis, values in axes.items():
        for value in values:
            sizes = base | {axis: value}
            rows.append({"what": "step topk", "axis": axis, **sizes, **step(arguments, python, library, sizes)})
    bench = [cusae, "bench", "--device", "cpu", "--sizes", "small" if arguments.quick else "contexts", "--filter",
             "forward", "--json", "--quiet", "--threads", arguments.threads, *(["--quick"] if arguments.quick else [])]
    for row in json.loads(run(list(map(str, bench)), stdout=subprocess.PIPE).stdout)["rows"]:
        number = lambda after: int(row["size"].split(after)[1].split(",")[0])
        kept = {key: row[key] for key in ("seconds", "fastest", "slowest", "cpu_seconds", "samples")}
        rows.append({"what": "forward", "axis": "context", "context": number("T "), "batch": number("rows "), **kept})
    result = origin(arguments, cusae) | {"rows": rows}
    for quantity, fit in FITS.items():
        result[f"largest_deviation_{quantity}"] = predict(rows, *fit)
    return result


# ---- What the counts predict -----------------------------------------------------------------------


def step_time(row):
    weights, batch = row["d_in"] * row["d_sae"], row["batch"]
    return [batch * weights, weights, batch * row["k"] * row["d_in"]]


def step_memory(row):
    return [row["d_in"] * row["d_sae"], row["batch"] * (row["d_in"] + row["k"]), 1]


def forward_time(row):
    return [row["batch"], row["batch"] * row["context"]]


FITS = {
    "seconds": ("step topk", step_time, "seconds"),
    "memory": ("step topk", step_memory, "peak_memory"),
    "forward_seconds": ("forward", forward_time, "seconds"),
}


def predict(rows, what, terms, key):
    """Fits the constants by least squares of relative errors; notes each row's prediction, and returns the largest
    relative deviation."""
    rows = [row for row in rows if row["what"] == what]
    if len(rows) < 2:
        return None
    scaled = [[term / row[key] for term in terms(row)] for row in rows]
    constants = least_squares(scaled, [1.0] * len(rows))
    largest = 0.0
    for row in rows:
        row[f"predicted_{key}"] = sum(constant * term for constant, term in zip(constants, terms(row)))
        largest = max(largest, abs(row[f"predicted_{key}"] / row[key] - 1))
    return largest


def least_squares(matrix, target):
    """Constants that are not negative: those that would be are left out. Normal equations suffice for two or three."""
    kept = list(range(len(matrix[0])))
    while True:
        size = [max(abs(row[i]) for row in matrix) for i in kept]
        columns = [[row[i] / s for row in matrix] for i, s in zip(kept, size)]
        system = [[sum(a * b for a, b in zip(left, right)) for right in columns + [target]] for left in columns]
        solution = solve(system)
        if min(solution) >= 0:
            constants = [0.0] * len(matrix[0])
            for i, value, s in zip(kept, solution, size):
                constants[i] = value / s
            return constants
        kept.pop(min(range(len(kept)), key=lambda i: solution[i]))


def solve(system):
    """Gaussian elimination with pivots; the last column is the right side."""
    n = len(system)
    for i in range(n):
        pivot = max(range(i, n), key=lambda row: abs(system[row][i]))
        system[i], system[pivot] = system[pivot], system[i]
        for row in range(n):
            if row != i and system[i][i]:
                factor = system[row][i] / system[i][i]
                system[row] = [a - factor * b for a, b in zip(system[row], system[i])]
    return [row[n] / row[i] if row[i] else 0.0 for i, row in enumerate(system)]


# ---- The drawing -----------------------------------------------------------------------------------

PANELS = [("d_sae", "latents (d_sae)"), ("k", "active latents (k)"), ("batch", "tokens of a batch"),
          ("context", "context of the forward pass")]
WIDTH, HEIGHT, MARGIN = 300, 200, 46
TIME, MEMORY = "#2563c9", "#b4531f"


def draw(result):
    """Four panels, both axes logarithmic: points are measured, lines predicted."""
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {4 * WIDTH} {HEIGHT + 40}" '
             'font-family="sans-serif" font-size="11" fill="#333">',
             f'<rect width="{4 * WIDTH}" height="{HEIGHT + 40}" fill="white"/>',
             f'<text x="{MARGIN}" y="16"><tspan fill="{TIME}">&#9679; seconds</tspan>  '
             f'<tspan fill="{MEMORY}">&#9679; peak memory, GB</tspan>  &#8212; as the counts predict</text>']
    for number, (axis, title) in enumerate(PANELS):
        rows = [row for row in result["rows"] if row["axis"] == axis]
        if rows:
            parts.append(f'<g transform="translate({number * WIDTH} 24)">{panel(rows, axis, title)}</g>')
    return "\n".join([*parts, "</svg>", ""])


def panel(rows, axis, title):
    curves = [("seconds", TIME, 1), ("peak_memory", MEMORY, 1e9)]
    curves = [(key, colour, unit) for key, colour, unit in curves if key in rows[0]]
    values = [row[name] / unit for row in rows for key, _, unit in curves for name in (key, f"predicted_{key}")
              if name in row]
    xs = [row[axis] for row in rows]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    right, bottom = WIDTH - 12, HEIGHT - MARGIN / 2
    x_of = lambda x: MARGIN + (right - MARGIN) * math.log(x / min(xs)) / (math.log(max(xs) / min(xs)) or 1)
    y_of = lambda y: bottom - (bottom - 8) * (math.log10(y) - low) / ((high - low) or 1)
    parts = []
    for power in range(low, high + 1):
        y = y_of(10**power)
        parts.append(f'<path d="M{MARGIN} {y:.1f}H{right}" stroke="#ddd"/>')
        parts.append(f'<text x="{MARGIN - 5}" y="{y + 4:.1f}" text-anchor="end">{10**power:g}</text>')
    for x in xs:
        place = f'x="{x_of(x):.1f}" y="{bottom + 14:.1f}" text-anchor="middle" font-size="9"'
        parts.append(f"<text {place}>{short(x)}</text>")
    parts.append(f'<text x="{(MARGIN + right) / 2}" y="{bottom + 28:.1f}" text-anchor="middle">{title}</text>')
    for key, colour, unit in curves:
        line = [(x_of(row[axis]), y_of(row[f"predicted_{key}"] / unit)) for row in rows if f"predicted_{key}" in row]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in line)
        if line:
            parts.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-opacity="0.5"/>')
        for row in rows:
            parts.append(f'<circle cx="{x_of(row[axis]):.1f}" cy="{y_of(row[key] / unit):.1f}" r="3" fill="{colour}"/>')
    return "".join(parts)


def short(number):
    return f"{number // 1024}k" if number >= 1024 and number % 1024 == 0 else str(number)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="JSON file to write; the drawing has the ending .svg")
    parser.add_argument("--draw", type=Path, metavar="FILE", help="only draw a JSON file")
    add_common_flags(parser)
    arguments = parser.parse_args()
    if arguments.draw:
        return arguments.draw.with_suffix(".svg").write_text(draw(json.loads(arguments.draw.read_text())))
    result = measure(arguments)
    for key in (key for key in result if key.startswith("largest_deviation")):
        print(f"{key}: {result[key] if result[key] is None else format(result[key], '.1%')}")
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")
        arguments.out.with_suffix(".svg").write_text(draw(result))


if __name__ == "__main__":
    main()
