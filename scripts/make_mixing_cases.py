#!/usr/bin/env python3
"""Write tests/data/mixing/cases.json: the batches that SAELens' mixing buffer serves, for tests/mixing_buffer.rs.

    python scripts/make_mixing_cases.py tests/data/mixing/cases.json

A row is its number. torch.randperm is replaced by cusae's own permutations (src/random.rs), so that the
shuffled order can be compared, too. Needs sae-lens (written with 6.54.12).
"""

import json
import sys

import torch
from sae_lens.training.mixing_buffer import mixing_buffer

STREAM_BUFFER = 2


def philox(counter, key):
    """Philox 4x32-10."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & 0xFFFFFFFF, (p0 >> 32) ^ c3 ^ k1, p0 & 0xFFFFFFFF
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return c0, c1, c2, c3


def permutation(seed, nth, n):
    """Random::new(seed, Stream::Buffer, nth).permutation(n)"""

    def words():
        block = 0
        while True:
            yield from philox((block & 0xFFFFFFFF, block >> 32, STREAM_BUFFER, nth), (seed & 0xFFFFFFFF, seed >> 32))
            block += 1

    draw, order = words(), list(range(n))

    def below(bound):
        reject_under = (2**32 - bound) % bound
        while True:
            product = next(draw) * bound
            if product & 0xFFFFFFFF >= reject_under:
                return product >> 32

    for last in range(n - 1, 0, -1):
        other = below(last + 1)
        order[last], order[other] = order[other], order[last]
    return torch.tensor(order)


def batches(buffer_tokens, batch_size, mix_fraction, seed, appends):
    shuffles = 0

    def randperm(n):
        nonlocal shuffles
        shuffles += 1
        return permutation(seed, shuffles - 1, n)

    def rows():
        first = 0
        for count in appends:
            yield torch.arange(first, first + count)
            first += count

    torch.randperm = randperm
    return [batch.tolist() for batch in mixing_buffer(buffer_tokens, batch_size, rows(), mix_fraction)]


def main():
    cases = []
    for buffer_tokens, batch_size, appends in [
        (16, 4, [5] * 12),
        (16, 4, [3, 0, 7, 1, 16, 20, 2, 2, 2, 11]),
        (12, 12, [5] * 9),
        (10, 3, [10, 10, 10]),
        (10, 3, [40, 1, 1]),
        (50, 7, [8, 8]),
    ]:
        for mix_fraction in [0.0, 0.3, 0.5, 0.99, 1.0]:
            case = {
                "buffer_tokens": buffer_tokens,
                "batch_size": batch_size,
                "mix_fraction": mix_fraction,
                "seed": 2**40 + 7,
                "appends": appends,
            }
            cases.append({**case, "batches": batches(*case.values())})
    with open(sys.argv[1], "w", encoding="utf-8") as out:
        out.write("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n")


if __name__ == "__main__":
    main()
