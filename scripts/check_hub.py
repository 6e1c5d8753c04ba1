#!/usr/bin/env python3
"""`huggingface_hub` and cusae at the same Hub, with the same cache.

    python scripts/check_hub.py --cusae target/debug/cusae --server target/debug/examples/hub_server

The Hub is that of the tests, on loopback. What `cusae push` uploads, `hf_hub_download` gives back byte for
byte, and SAELens loads; what either of them has fetched, the other takes from the cache without a network.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

TOKEN = "hf_of_the_tests"
HOOK = "blocks.2.hook_resid_pre"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cusae", required=True)
    parser.add_argument("--server", required=True)
    args = parser.parse_args()
    server = subprocess.Popen([args.server], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with tempfile.TemporaryDirectory() as folder:
        try:
            check(Path(folder), args.cusae, server.stdout.readline().strip())
        finally:
            server.stdin.close()
            server.wait()


def check(folder: Path, cusae: str, endpoint: str) -> None:
    # Before the import: huggingface_hub reads them then.
    os.environ |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(folder / "home"), "HF_TOKEN": TOKEN,
                   "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1"}
    os.environ.pop("HF_HUB_OFFLINE", None)
    from huggingface_hub import HfApi, __version__, hf_hub_download

    def run(*arguments: str, **environment: str) -> str:
        done = subprocess.run([cusae, *arguments], env=os.environ | environment, capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"{' '.join(arguments)}: {done.stderr}")
        return done.stdout

    sae = folder / "sae"
    # Wide enough to be uploaded in parts.
    run("train", "--d-sae", "512", "--k", "8", "--training-tokens", "8192", "--train-batch-size-tokens", "1024",
        "--buffer-tokens", "8192", "--n-eval-batches", "1", "--out", str(sae))
    run("push", "--sae", str(sae), "--to", "me/saes")
    names = ["cfg.json", "sae_weights.safetensors", "sparsity.safetensors", "runner_cfg.json"]
    for name in names:
        fetched = hf_hub_download("me/saes", f"{HOOK}/{name}")
        assert Path(fetched).read_bytes() == (sae / name).read_bytes(), name
    info = HfApi().model_info("me/saes")
    assert "saelens" in info.tags, info.tags
    print(f"huggingface_hub {__version__} reads what cusae pushed")

    loaded = load_with_saelens(sae)
    print(f"SAELens loads it by SAE.from_pretrained: {loaded}")

    # Theirs is enough for ours, without a network.
    run("convert", "--from", f"me/saes:{HOOK}", "--to", "saelens", "--out", str(folder / "copy"), HF_HUB_OFFLINE="1")
    print("cusae reads the cache of huggingface_hub offline")

    # And ours for theirs.
    shutil.rmtree(folder / "home")
    run("pull", "--sae", f"me/saes:{HOOK}")
    for name in names[:3]:
        fetched = hf_hub_download("me/saes", f"{HOOK}/{name}", local_files_only=True)
        assert Path(fetched).read_bytes() == (sae / name).read_bytes(), name
    print("huggingface_hub reads the cache of cusae offline")

    # What they upload, we fetch.
    (folder / "text.jsonl").write_text('{"text": "The king and the queen."}\n' * 200)
    api = HfApi()
    api.create_repo("me/texts", repo_type="dataset", exist_ok=True)
    api.upload_file(path_or_fileobj=folder / "text.jsonl", path_in_repo="train.jsonl", repo_id="me/texts",
                    repo_type="dataset")
    run("pull", "--dataset", "me/texts", "--out", str(folder / "texts"))
    assert (folder / "texts/train.jsonl").read_bytes() == (folder / "text.jsonl").read_bytes()
    print("cusae fetches what huggingface_hub uploaded")


def load_with_saelens(folder: Path) -> str:
    """Loads the SAE from the Hub and from its folder, and compares what they compute."""
    import torch
    from sae_lens import SAE, __version__

    x = torch.randn(16, 128, generator=torch.Generator().manual_seed(0))
    there, here = SAE.from_pretrained("me/saes", HOOK), SAE.load_from_disk(str(folder))
    assert torch.equal(there.encode(x), here.encode(x))
    return f"sae-lens {__version__}, {there.cfg.architecture()}"


if __name__ == "__main__":
    main()
