#!/usr/bin/env bash
# Instructions that a training step takes on the CPU, counted by valgrind, against the bounds in
# scripts/instructions.txt: a change that needs more has to raise them there, and say why.
# One thread, without AVX-512, which valgrind does not have: the program finds AVX2 then. CUSAE is that of the
# tests' build, target/debug/cusae.
#
#   scripts/check_instructions.sh CUSAE            fails beyond a bound
#   scripts/check_instructions.sh CUSAE --write    writes what it counts, with 5 % of room, for other compilers
set -euo pipefail
shopt -s inherit_errexit
cusae=$(realpath "$1")
bounds=$(realpath "$(dirname "$0")")/instructions.txt
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"

# 20 batches of 128 rows of 64 numbers, the same every time.
python3 - <<'PYTHON'
import array, json, random
random.seed(1)
values = array.array("f", (random.gauss(0, 1) for _ in range(20 * 128 * 64)))
header = json.dumps({"x": {"dtype": "F32", "shape": [20 * 128, 64], "data_offsets": [0, 4 * len(values)]}}).encode()
with open("x.safetensors", "wb") as file:
    file.write(len(header).to_bytes(8, "little") + header + values.tobytes())
PYTHON

# Instructions of a run of so many steps.
count() { # architecture steps
    valgrind --tool=callgrind --callgrind-out-file=/dev/null "$cusae" train --device cpu --threads 1 --quiet \
        --activations x.safetensors --no-shuffle --architecture "$1" --d-sae 1024 --k 16 --l1-coefficient 1 \
        --train-batch-size-tokens 128 --training-tokens $((128 * $2)) --log-every 1000 --feature-sampling-window 1000 \
        --dead-feature-window 1000 --tensorboard false --save-final-checkpoint false --out "$1-$2" >log 2>&1 ||
        { cat log >&2 && exit 1; }
    awk '/Collected/ { print $4 }' log
}

# Of one step in the mean: what starting and saving takes is in both runs.
per_step() { # architecture
    local short long
    short=$(count "$1" 10)
    long=$(count "$1" 20)
    echo $(((long - short) / 10))
}

failed=0
for architecture in topk standard; do
    n=$(per_step "$architecture")
    if [ "${2:-}" = --write ]; then
        echo "$architecture $((n * 105 / 100))" >>"$folder/new"
        continue
    fi
    bound=$(awk -v name="$architecture" '$1 == name { print $2 }' "$bounds")
    echo "$architecture: $n instructions a step, at most $bound"
    if [ "$n" -gt "$bound" ]; then
        echo "a $architecture step takes more instructions than scripts/instructions.txt allows" >&2
        failed=1
    fi
done
[ "${2:-}" != --write ] || cp "$folder/new" "$bounds"
exit $failed
