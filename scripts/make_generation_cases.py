"""Expected tokens of greedy generation, and the tokens that top-k and top-p leave, by `transformers`.

python scripts/make_generation_cases.py   (torch, transformers; writes tests/data/generation/cases.json)
"""
import json
from pathlib import Path

import torch
from transformers import GPT2LMHeadModel
from transformers.generation.logits_process import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

ROOT = Path(__file__).resolve().parent.parent
MODELS = {"gpt2-rand-tiny": ROOT / "tests/data/gpt2-rand-tiny", "embedded": ROOT / "assets/tinygpt2"}
NEW = 40


def greedy(folder: Path) -> dict:
    """Continuations of three prompts of 9 tokens, and how far the best logit was ahead at least."""
    model = GPT2LMHeadModel.from_pretrained(folder).double().eval()
    prompts = torch.randint(0, model.config.vocab_size, (3, 9), generator=torch.Generator().manual_seed(1))
    out = model.generate(prompts, attention_mask=torch.ones_like(prompts), do_sample=False, max_new_tokens=NEW,
                         eos_token_id=None, pad_token_id=0, output_logits=True, return_dict_in_generate=True)
    best = torch.stack(out.logits).topk(2).values
    return {"prompts": prompts.tolist(), "tokens": out.sequences[:, 9:].tolist(),
            "smallest_margin": (best[..., 0] - best[..., 1]).min().item()}


def kept(temperature: float, top_k: int, top_p: float) -> dict:
    """The tokens that stay possible of 40 logits, some of them tied, and their probabilities."""
    logits = (torch.randn(40, generator=torch.Generator().manual_seed(2)) * 8).round() / 4
    scores = TemperatureLogitsWarper(temperature)(None, logits[None])
    scores = TopKLogitsWarper(top_k)(None, scores) if top_k else scores
    left = scores
    if top_p < 1:
        # The warper sorts without saying how ties are ordered; a stable sort makes it the smaller id that stays.
        sorted_scores, order = scores.flip(1).sort(dim=1, stable=True)
        warped = TopPLogitsWarper(top_p)(None, sorted_scores)
        left = torch.full_like(scores, -torch.inf).scatter(1, 39 - order, warped)
    probabilities = left.softmax(-1)[0]
    tokens = (probabilities > 0).nonzero()[:, 0].tolist()
    return {"temperature": temperature, "top_k": top_k, "top_p": top_p, "logits": logits.tolist(), "tokens": tokens,
            "probabilities": probabilities[tokens].tolist()}


def main():
    cases = {"greedy": {name: greedy(folder) for name, folder in MODELS.items()},
             "kept": [kept(*limits) for limits in [(1.0, 0, 1.0), (1.0, 5, 1.0), (2.0, 9, 1.0), (1.0, 0, 0.9), (2.0, 0, 0.6),
                                                   (1.5, 12, 0.8), (1.0, 0, 0.05)]]}
    path = ROOT / "tests/data/generation/cases.json"
    path.write_text(json.dumps(cases, indent=1) + "\n")
    print({name: case["smallest_margin"] for name, case in cases["greedy"].items()}, [len(c["tokens"]) for c in cases["kept"]])


if __name__ == "__main__":
    with torch.no_grad():
        main()
