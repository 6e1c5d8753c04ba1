#!/usr/bin/env python3
"""Write the small files of tests/data/documents: parquet by pyarrow and .npy by numpy.

    python scripts/make_document_files.py tests/data/documents

Needs pyarrow and numpy.
"""

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

TEXTS = ["one", "", "three 東京", "four", "five"]
ROWS = [[1, 2, 3], [4, 5, 6], [7, 8, 9], [10, 11, 12], [40000, 1, 2]]


def main():
    out = Path(sys.argv[1])
    urls = [f"https://example.org/{n}" for n in range(5)]
    texts = pa.table({"url": urls, "text": TEXTS})
    pq.write_table(texts, out / "text.parquet", row_group_size=2)
    pq.write_table(texts, out / "text-zstd.parquet", compression="zstd", use_dictionary=False)
    pq.write_table(pa.table({"text": ["one", None]}), out / "null-text.parquet")

    for name, dtype in [("int64", pa.int64()), ("int32", pa.int32()), ("uint16", pa.uint16())]:
        rows = pa.array(ROWS, type=pa.list_(dtype))
        pq.write_table(pa.table({"input_ids": rows}), out / f"tokens-{name}.parquet", row_group_size=2)
    pq.write_table(pa.table({"input_ids": [[1, 2], [3, None]]}), out / "null-token.parquet")
    pq.write_table(pa.table({"input_ids": [[1, 2], [], [-3]]}), out / "negative-token.parquet")
    pq.write_table(pa.table({"text": [1.5, 2.5]}), out / "numbers.parquet")

    for name in ["int64", "int32", "uint32", "uint16"]:
        np.save(out / f"tokens-{name}.npy", np.array(ROWS, dtype=name))
    np.save(out / "flat-uint16.npy", np.arange(7, dtype=np.uint16))
    np.save(out / "negative.npy", np.array([[1, -2]], dtype=np.int32))
    np.save(out / "big-endian.npy", np.array(ROWS, dtype=">i4"))
    np.save(out / "fortran.npy", np.asfortranarray(np.array(ROWS)))
    np.save(out / "cube.npy", np.zeros((2, 2, 2), dtype=np.int32))
    np.save(out / "floats.npy", np.zeros((2, 2), dtype=np.float32))


if __name__ == "__main__":
    main()
