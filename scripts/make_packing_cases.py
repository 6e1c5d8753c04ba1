#!/usr/bin/env python3
"""Write tests/data/packing/cases.json: what SAELens makes of documents, for tests/packing.rs.

    python scripts/make_packing_cases.py tests/data/packing/cases.json

Documents are lists of token ids of a made-up vocabulary in which 0 is bos, 1 eos and 2 sep.
Needs sae-lens (written with 6.54.12).
"""

import itertools
import json
import random
import sys
from types import SimpleNamespace

import torch
from sae_lens.pretokenize_runner import get_special_token_from_cfg
from sae_lens.tokenization_and_batching import concat_and_batch_sequences

TOKENIZER = SimpleNamespace(bos_token_id=0, eos_token_id=1, sep_token_id=2)
CONTEXT_SIZES = [1, 2, 3, 5, 8]


def document_sets():
    """Lengths around every context size, documents that begin with special tokens, random ones."""
    draw = random.Random(0)

    def document(length, first=None):
        tokens = [draw.randrange(3, 40) for _ in range(length)]
        return [first, *tokens[1:]] if first is not None and tokens else tokens

    lengths = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 17]
    yield [document(n) for n in lengths]
    yield [document(n) for n in reversed(lengths)]
    yield [document(n, first=n % 3) for n in lengths]
    yield [document(n, first=0) for n in lengths]
    yield [[0], [0, 0], [1, 0, 0, 1], [], [2, 2, 2], [0, 5, 0, 6, 0, 7, 0, 8]]
    yield [document(n) for n in [8, 8, 5, 5, 3, 3, 2, 2, 1, 1]]
    for _ in range(4):
        yield [document(draw.randrange(20), draw.choice([None, None, 0, 1, 2])) for _ in range(25)]
    yield [document(3)]


def rows(documents, context_size, prepend_bos, separator, disable_concat):
    return concat_and_batch_sequences(
        tokens_iterator=iter([torch.tensor(d, dtype=torch.long) for d in documents]),
        context_size=context_size,
        begin_batch_token_id=TOKENIZER.bos_token_id if prepend_bos else None,
        begin_sequence_token_id=None,
        sequence_separator_token_id=get_special_token_from_cfg(separator, TOKENIZER),
        disable_concat_sequences=disable_concat,
    )


def main():
    sets, cases = list(document_sets()), []
    settings = itertools.product(CONTEXT_SIZES, [True, False], ["bos", "eos", "sep", 7, None], [False, True])
    for context_size, prepend_bos, separator, disable_concat in settings:
        if context_size == 1 and prepend_bos:
            continue  # SAELens gives rows of bos without end
        if disable_concat and separator != "bos":
            continue  # no separator is used
        for number, documents in enumerate(sets):
            made = [row.tolist() for row in rows(documents, context_size, prepend_bos, separator, disable_concat)]
            cases.append(
                {
                    "context_size": context_size,
                    "prepend_bos": prepend_bos,
                    "sequence_separator_token": "none" if separator is None else str(separator),
                    "disable_concat_sequences": disable_concat,
                    "documents": number,
                    "rows": made,
                }
            )
    with open(sys.argv[1], "w", encoding="utf-8") as out:
        out.write('{"documents": ' + json.dumps(sets) + ',\n"cases": [\n')
        out.write(",\n".join(json.dumps(case, separators=(",", ":")) for case in cases) + "\n]}\n")


if __name__ == "__main__":
    main()
