#!/usr/bin/env python3
"""Select the text that is compiled into cusae: assets/text/{training,heldout}.jsonl.zst.

    python scripts/build_corpus.py PACKAGES CORPUS      (says which packages, and where from)
    python scripts/select_embedded_text.py CORPUS assets/text

Only documents of the public-domain parts are taken.  The training text is the start of
train.jsonl (which is ordered by the hash of the text, so every part is in it in proportion),
up to TRAINING_BYTES of text; the held-out text is all of heldout.jsonl.  The same corpus
gives the same documents each time.  Needs the `zstd` program.
"""

import argparse
import json
import subprocess
from pathlib import Path

PUBLIC_DOMAIN = ["sotu", "austen", "moby_dick", "kjv", "devils_dictionary"]
TRAINING_BYTES = 12_000_000


def documents(path):
    with open(path, encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line in lines]


def select(texts, allowed, max_bytes):
    """The allowed documents in their order, up to the first that would go over max_bytes."""
    chosen, size = [], 0
    for text in texts:
        if text in allowed:
            size += len(text.encode())
            if size > max_bytes:
                break
            chosen.append(text)
    return chosen


def write(path, texts):
    lines = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
    packed = subprocess.run(["zstd", "--ultra", "-22"], input=lines.encode(), capture_output=True, check=True).stdout
    path.write_bytes(packed)
    size = sum(len(text.encode()) for text in texts)
    print(f"{path.name}: {len(texts)} documents, {size} bytes of text, {len(packed)} compressed")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path, help="folder that build_corpus.py wrote")
    parser.add_argument("out", type=Path, help="folder to write the two files to")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    allowed = {text for part in PUBLIC_DOMAIN for text in documents(args.corpus / f"{part}.jsonl")}
    write(args.out / "training.jsonl.zst", select(documents(args.corpus / "train.jsonl"), allowed, TRAINING_BYTES))
    write(args.out / "heldout.jsonl.zst", select(documents(args.corpus / "heldout.jsonl"), allowed, float("inf")))


if __name__ == "__main__":
    main()
