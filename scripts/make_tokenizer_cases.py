#!/usr/bin/env python3
"""Write tests/data/tokenizer/cases.json: ids that transformers gives to texts, for tests/tokenizer.rs.

    python scripts/make_tokenizer_cases.py GPT2 TINYGPT2 tests/data/tokenizer/cases.json

GPT2 is a folder with GPT-2's vocab.json and merges.txt, TINYGPT2 is assets/tinygpt2.
Needs transformers and tokenizers.
"""

import json
import sys
from pathlib import Path

from tokenizers import Tokenizer
from transformers import GPT2TokenizerFast

TEXTS = [
    "",
    "Hello world",
    " Hello  world\n\n\tand   more ",
    "It's we'll they'VE I'd",
    "naïve café, 東京 and 🦀🦀; 12345 67.8e-9",
    "one<|endoftext|>two <|endoftext|> three",
    "def f(x):\n    return x ** 2  # comment\r\n",
    "\u00a0non-breaking\u2003space\ufeff",
    "a" * 100,
]


def main():
    gpt2_folder, tiny_folder, out = map(Path, sys.argv[1:])
    gpt2 = GPT2TokenizerFast(vocab=str(gpt2_folder / "vocab.json"), merges=str(gpt2_folder / "merges.txt"))
    tiny = Tokenizer.from_file(str(tiny_folder / "tokenizer.json"))
    cases = [
        {
            "text": text,
            "gpt2": gpt2(text, add_special_tokens=False)["input_ids"],
            "tinygpt2": tiny.encode(text, add_special_tokens=False).ids,
        }
        for text in TEXTS
    ]
    lines = ",\n".join(json.dumps(case) for case in cases)
    out.write_text("[\n" + lines + "\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
