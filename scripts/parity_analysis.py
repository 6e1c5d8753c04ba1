#!/usr/bin/env python3
"""Compares what cusae sees inside a model with SAELens, TransformerLens and PyTorch, in float64, on a GPT-2 folder
of Hugging Face: features, attribution (and finite differences), ablation, steering (also with tokens that are drawn),
comparison, splices of several SAEs, the statistics of a dashboard; and lets SAEDashboard and SAEBench read the files that
are made for them.

parity_analysis.py --cusae PROGRAM   (sae-lens, transformers; sae-bench and sae-dashboard with --no-deps)
"""
import argparse
import importlib.util
import itertools
import json
import math
import shutil
import subprocess
import sys
import tempfile
import types
from pathlib import Path

import torch
from pydantic import TypeAdapter
from safetensors.torch import load_file
from transformers import (GPT2LMHeadModel, LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper,
                          TopPLogitsWarper)

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "tests/data"
sys.path.insert(0, str(DATA / "analysis"))
import make_analysis  # noqa: E402
import make_transcoder  # noqa: E402
from sae_lens import SAE  # noqa: E402

TARGET, OTHER, BOS = 17, 1234, 0
PROMPTS = ["The king went to the castle and", "A ship came over the sea", "Our king spoke to the people"]
AGAINST = ["It was the best of times", "He gave them bread", "In the beginning was the word"]
SAES = {name: f"evals/{name}/sae" for name in ("trained-topk-resid", "random-standard-resid", "random-standard-hook_z")}
SAES["transcoder"] = "analysis/transcoder"
SHARES = (.25, .5, .75, .9, .99)


class Checks:
    """Counts comparisons and remembers the largest deviation of each kind."""

    def __init__(self):
        self.worst = {}

    def close(self, what: str, found, expected, tolerance: float = 2e-5) -> None:
        found, expected = torch.as_tensor(found).double(), torch.as_tensor(expected).double()
        assert found.shape == expected.shape, f"{what}: {tuple(found.shape)}, expected {tuple(expected.shape)}"
        scale = max(1.0, expected.abs().max().item()) if expected.numel() else 1.0
        error = (found - expected).abs().max().item() / scale if expected.numel() else 0.0
        assert error <= tolerance, f"{what}: {error:.2e} of the largest, at most {tolerance:.0e}"
        count, worst = self.worst.get(what, (0, 0.0))
        self.worst[what] = (count + expected.numel(), max(worst, error))

    def count(self, what: str, number: int) -> None:
        count, worst = self.worst.get(what, (0, 0.0))
        self.worst[what] = (count + number, worst)

    def report(self) -> None:
        for what, (count, worst) in self.worst.items():
            print(f"{what:44} {count:>9,} numbers, at most {worst:.1e} apart")


class Case:
    def __init__(self, cusae: str, folder: Path, checks: Checks):
        self.cusae, self.folder, self.checks = cusae, folder, checks
        self.gpt2 = folder / "gpt2"
        shutil.copytree(DATA / "gpt2-rand-tiny", self.gpt2)
        shutil.copy(ROOT / "assets/tinygpt2/tokenizer.json", self.gpt2)
        hf = GPT2LMHeadModel.from_pretrained(self.gpt2, attn_implementation="eager").double().eval()
        self.model = make_analysis.model(hf, False)

    def run(self, command: str, sae: str, *flags: str) -> dict:
        line = [self.cusae, command, "--sae", str(DATA / SAES[sae]), "--model", str(self.gpt2), "--json", "--quiet",
                "--device", "cpu", *flags]
        done = subprocess.run(line, capture_output=True, text=True)
        assert done.returncode == 0, f"{' '.join(line)}: {done.stderr}"
        return json.loads(done.stdout)

    def sae(self, name: str):
        sae = SAE.load_from_disk(DATA / SAES[name], dtype="float64")
        metadata = sae.cfg.metadata
        return sae, metadata.hook_name, metadata.hook_name_out or metadata.hook_name

    def acts(self, name: str, tokens):
        sae, hook, _ = self.sae(name)
        _, cache = self.model.run_with_cache(tokens, names_filter=[hook])
        return sae.encode(cache[hook])[0]

    def tokens(self, prompt: str, sae="trained-topk-resid"):
        report = self.run("features", sae, "--prompt", prompt, "--top", "1")
        return torch.tensor([[it["id"] for it in report["prompts"][0]["tokens"]]])


def features(case: Case) -> None:
    for name, prompt in itertools.product(SAES, PROMPTS):
        report = case.run("features", name, "--prompt", prompt, "--top", "100000")["prompts"][0]["tokens"]
        expected = case.acts(name, torch.tensor([[it["id"] for it in report]]))
        found = torch.zeros_like(expected)
        for row, token in enumerate(report):
            for it in token["features"]:
                found[row, it["feature"]] = it["activation"]
        case.checks.close("features of tokens", found, expected)


def logit_difference(logits):
    return logits[0, -1, TARGET] - logits[0, -1, OTHER]


def attribution(case: Case) -> None:
    for name, exclude in itertools.product(SAES, (False, True)):
        tokens = case.tokens(PROMPTS[0])
        flags = ["--prompt", PROMPTS[0], "--target", f"#{TARGET}", "--versus", f"#{OTHER}", "--top", "1000000",
                 "--exclude-special-tokens", str(exclude).lower()]
        report = case.run("attribute", name, *flags)["features"]
        sae, _, at = case.sae(name)
        kept = {}

        def keep(value, hook):
            value.retain_grad()
            kept["acts"] = value
            return value

        spliced = case.model.saes(saes=[sae], use_error_term=True, exclude_special_tokens=exclude and tokens[0, :1].tolist())
        with torch.enable_grad(), spliced:
            logits = case.model.run_with_hooks(tokens, fwd_hooks=[(f"{at}.hook_sae_acts_post", keep)])
            logit_difference(logits).backward()
        acts = kept["acts"].detach()[0]
        expected = kept["acts"].grad[0] * acts
        found, direct, at_last = torch.zeros_like(acts), torch.zeros(acts.shape[1]), acts.shape[0] - 1
        for it in report:
            found[it["position"], it["feature"]] = it["gradient"]
            if it["position"] == at_last and it["direct"] is not None:
                direct[it["feature"]] = it["direct"]
        case.checks.close("gradient attribution", found, expected)
        if exclude:
            assert expected[0].count_nonzero() == 0 and expected[1:].count_nonzero() > 0
            continue
        finite_differences(case, sae, at, tokens, acts, report)
        if at.split(".")[-1] != "hook_z":
            _, cache = case.model.run_with_cache(tokens, names_filter=["ln_final.hook_scale"])
            unembed = case.model.ln_final.w * (case.model.W_U[:, TARGET] - case.model.W_U[:, OTHER])
            toward = (unembed - unembed.mean()) / cache["ln_final.hook_scale"][0, -1]
            case.checks.close("direct attribution", direct, acts[-1] * (sae.W_dec @ toward))


def finite_differences(case: Case, sae, at: str, tokens, acts, report) -> None:
    """The largest of them by a small change of the activation to both sides, in float64."""
    for it in report[:5]:
        step = 1e-4 * it["activation"]

        def logits(change: float):
            def edit(value, hook):
                value[0, it["position"], it["feature"]] += change
                return value

            with case.model.saes(saes=[sae], use_error_term=True):
                return case.model.run_with_hooks(tokens, fwd_hooks=[(f"{at}.hook_sae_acts_post", edit)])

        slope = (logit_difference(logits(step)) - logit_difference(logits(-step))) / (2 * step)
        case.checks.close("attribution by finite differences", it["gradient"], slope * it["activation"])


def outcome(logits, tokens):
    logs = logits[0].log_softmax(-1)
    loss = -logs[:-1].gather(1, tokens[0, 1:, None]).mean()
    return torch.stack([logits[0, -1, TARGET], logs[-1, TARGET].exp(), loss])


def ablation(case: Case) -> None:
    for name, (error, exclude) in itertools.product(SAES, ((True, False), (False, False), (False, True))):
        tokens = case.tokens(PROMPTS[0])
        sae, _, at = case.sae(name)
        wanted = case.acts(name, tokens)[1:].amax(0).topk(6).indices.tolist()
        for position in (None, 3):
            def without(features):
                def edit(value, hook):
                    value[:, slice(None) if position is None else position, features] = 0.0
                    return value

                with case.model.saes(saes=[sae], use_error_term=error, exclude_special_tokens=exclude and tokens[0, :1].tolist()):
                    hooks = [(f"{at}.hook_sae_acts_post", edit)]
                    return outcome(case.model.run_with_hooks(tokens, fwd_hooks=hooks), tokens)

            flags = ["--prompt", PROMPTS[0], "--target", f"#{TARGET}", "--feature", *map(str, wanted)]
            flags += ["--position", "all" if position is None else str(position)]
            flags += ["--exclude-special-tokens", str(exclude).lower()]
            report = case.run("ablate", name, *flags, *([] if error else ["--no-error-term"]))
            values = lambda it: torch.tensor([it["logit"], it["probability"], it["loss"]], dtype=torch.float64)
            case.checks.close("ablation: the model", values(report["model"]), outcome(case.model(tokens), tokens))
            case.checks.close("ablation: with the SAE", values(report["sae"]), without([]))
            case.checks.close("ablation: all together", values(report["together"]), without(wanted))
            for it in report["features"]:
                # The change is given; a run's own outcome is what float32 rounds relative to its size.
                alone = values(report["sae"]) + values(it)
                case.checks.close("ablation: each alone", alone, without([it["feature"]]))


def steering(case: Case) -> None:
    for name, changes in itertools.product(SAES, [{3: 12.0}, {3: 30.0, 100: -8.0}]):
        flags = [f"--feature={feature}={amount:+}" for feature, amount in changes.items()]
        report = case.run("steer", name, "--prompt", PROMPTS[0], "--max-new-tokens", "12", *flags)
        sae, _, at = case.sae(name)

        def more(value, hook):
            for feature, amount in changes.items():
                value[0, 1:, feature] += amount  # not at the beginning-of-sequence token
            return value

        for of, hooks in [("without", []), ("steered", [(f"{at}.hook_sae_acts_post", more)])]:
            tokens = case.tokens(PROMPTS[0])
            for _ in range(12):
                with case.model.saes(saes=[sae], use_error_term=True):
                    logits = case.model.run_with_hooks(tokens, fwd_hooks=hooks)
                tokens = torch.cat([tokens, logits[:, -1].argmax(-1, keepdim=True)], 1)
                if tokens[0, -1] == BOS:
                    break
            found = report[of]["tokens"]
            case.checks.close(f"tokens {of}", found, tokens[0, -len(found):], 0.0)


def chi_square(counts, expected, what: str) -> None:
    """Σ (count - expected)² / expected has mean n - 1 and variance 2 (n - 1); four deviations, with seeds that do not
    change, are no accident."""
    counts, expected = torch.as_tensor(counts).double(), torch.as_tensor(expected).double()
    freedom = len(counts) - 1
    found = ((counts - expected) ** 2 / expected).sum().item()
    assert found <= freedom + 4 * math.sqrt(2 * max(freedom, 1)), f"{what}: χ² {found:.1f} of {freedom}"


def sampled_steering(case: Case) -> None:
    """What is drawn comes from the probabilities that transformers' own warpers leave of the steered logits. At the first
    step: each token that is left is drawn, no other is, as often as it should. At every step of all texts, with the
    cache and the steering of what was generated: by the rank of a token among those that are left."""
    name, changes, steps, seeds = "trained-topk-resid", {3: 30.0, 100: -8.0}, 6, 200
    sae, _, at = case.sae(name)
    prompt = case.tokens(PROMPTS[0])

    def more(value, hook):
        for feature, amount in changes.items():
            value[:, 1:, feature] += amount  # not at the beginning-of-sequence token
        return value

    for temperature, top_k, top_p in [(2.0, 6, 1.0), (1.0, 0, 0.5), (1.5, 10, 0.8)]:
        flags = [f"--feature={feature}={amount:+}" for feature, amount in changes.items()]
        flags += ["--temperature", str(temperature), "--top-k", str(top_k), "--top-p", str(top_p)]
        texts = [case.run("steer", name, "--prompt", PROMPTS[0], "--max-new-tokens", str(steps), "--seed", str(seed),
                          *flags) for seed in range(seeds)]
        warpers = LogitsProcessorList([TemperatureLogitsWarper(temperature)])
        warpers += [TopKLogitsWarper(top_k)] if top_k else []
        warpers += [TopPLogitsWarper(top_p)] if top_p < 1 else []
        for of, hooks in [("without", []), ("steered", [(f"{at}.hook_sae_acts_post", more)])]:
            drawn = [text[of]["tokens"] for text in texts]
            what = f"{of} at {temperature}, {top_k}, {top_p}"
            counts, expected = [0.0] * 4096, torch.zeros(4096).double()
            for step in range(steps):
                rows = [tokens for tokens in drawn if len(tokens) > step]
                before = torch.tensor([prompt[0].tolist() + tokens[:step] for tokens in rows])
                with case.model.saes(saes=[sae], use_error_term=True):
                    logits = case.model.run_with_hooks(before, fwd_hooks=hooks)[:, -1]
                left = warpers(None, logits).softmax(-1)
                of_rows = torch.tensor([tokens[step] for tokens in rows])
                assert (left.gather(1, of_rows[:, None]) > 0).all(), f"{what}: a token that transformers leaves out"
                if step == 0:
                    kept = left[0].nonzero().flatten()
                    assert torch.equal(of_rows.unique(), kept), f"{what}: {of_rows.unique()}, expected {kept}"
                    chi_square(of_rows.bincount(minlength=4096)[kept], len(rows) * left[0][kept], what)
                ranks = (left > left.gather(1, of_rows[:, None])).sum(1)
                for rank in ranks.tolist():
                    counts[rank] += 1
                expected += left.sort(descending=True).values.sum(0)
            # Ranks of few expected draws, together: χ² is of counts that are not small.
            likely = int((expected >= 5).sum())
            alone = likely if expected[likely:].sum() >= 5 else likely - 1
            observed, due = ([*all[:alone], sum(all[alone:])] for all in (counts, expected.tolist()))
            chi_square(observed, due, f"{what}, all steps")
            case.checks.count(f"tokens drawn, {of}", sum(map(len, drawn)))


def comparison(case: Case) -> None:
    flags = [f"--prompt={it}" for it in PROMPTS] + [f"--against={it}" for it in AGAINST]
    for name in ("trained-topk-resid", "random-standard-resid"):
        report = case.run("compare", name, *flags, "--top", "100000")["features"]
        most = torch.stack([case.acts(name, case.tokens(prompt))[1:].amax(0) for prompt in PROMPTS + AGAINST])
        divisions = [list(it) for it in itertools.combinations(range(6), 3)]
        means = torch.stack([most[it].mean(0) - most[[i for i in range(6) if i not in it]].mean(0) for it in divisions])
        p = (means.abs() >= means[0].abs() * (1 - 1e-5)).double().mean(0)
        which = [it["feature"] for it in report]
        assert set(which) == set(most.amax(0).nonzero().flatten().tolist())
        case.checks.close("comparison: means", [it["mean"] - it["mean_against"] for it in report], means[0][which])
        case.checks.close("comparison: p", [it["p_value"] for it in report], p[which])


def splices() -> None:
    """What the Rust tests compare with is what SAELens computes today."""
    stored = load_file(DATA / "analysis/transcoder.safetensors")
    for name, value in make_transcoder.compute().items():
        assert torch.allclose(stored[name], value, rtol=1e-5, atol=1e-6), name


def cosines(rows):
    unit = rows / rows.norm(dim=1, keepdim=True)
    return unit @ unit.T - 2 * torch.eye(len(rows), dtype=rows.dtype)


def dashboard(case: Case, name: str) -> None:
    tokens = f"{DATA}/evals/trained-topk-resid/tokens.safetensors:sparsity_tokens"
    page, np = case.folder / f"page-{name}", case.folder / f"np-{name}"
    case.run("dashboard", name, "--tokens", tokens, "--context-size", "64", "--out", str(page),
             "--neuronpedia", str(np))
    found = load_file(page / "features.safetensors")
    text = found["tokens"].long()
    stored = load_file(DATA / "evals/trained-topk-resid/tokens.safetensors")["sparsity_tokens"].long()
    assert torch.equal(text, stored)
    acts = torch.cat([case.acts(name, row[None]) for row in text])
    acts[text.flatten() == BOS] = 0.0
    sae, _, at = case.sae(name)
    fires, n = acts > 0, len(acts)
    check = case.checks.close
    check("statistics: counts", found["count"].long(), fires.sum(0), 0.0)
    check("statistics: density", found["density"], fires.double().mean(0))
    check("statistics: mean", found["mean"], acts.sum(0) / fires.sum(0).clamp(min=1))
    check("statistics: maximum", found["max"], acts.amax(0))
    both = fires.T.double() @ fires.double()
    either = fires.sum(0)[:, None] + fires.sum(0)[None] - both
    jaccard = (both / either.clamp(min=1)).fill_diagonal_(0)
    centred = acts - acts.mean(0)
    norms = centred.norm(dim=0).clamp(min=1e-30)
    pearson = (centred.T @ centred) / norms[:, None] / norms
    lengths = acts.norm(dim=0).clamp(min=1e-30)
    cosine = (acts.T @ acts) / lengths[:, None] / lengths
    for feature in range(acts.shape[1]):
        values = acts[:, feature]
        active = values[fires[:, feature]].sort().values
        if len(active) == 0:
            continue
        at_share = [min(max(math.ceil(share * len(active)), 1), len(active)) - 1 for share in SHARES]
        check("statistics: quantiles", found["quantiles"][feature], active[at_share])
        # The program's own activations: one that is rounded over a bin's edge is not what is looked for.
        start, end = found["feature_starts"][feature:feature + 2].tolist()
        own = found["values"][start:end].double()
        bins = (own / own.max() * 50).long().clamp(max=49).bincount(minlength=50)
        check("statistics: histogram", found["histogram"][feature].long(), bins, 0.0)
        rows = values.view(text.shape).amax(1).sort(descending=True).values
        rows = rows[rows > 0][:20]
        check("statistics: top contexts", found["top_values"][feature][:len(rows)], rows)
        places = found["top_places"][feature][:len(rows)].long()
        check("statistics: their places", values[places], rows)
        neighbours = jaccard[feature].sort(descending=True).values[:10]
        neighbours = neighbours[neighbours > 0]
        check("statistics: fire together", found["together_share"][feature][:len(neighbours)], neighbours)
        slots = found["correlated"][feature].long() < 2**31
        others = found["correlated"][feature][slots].long()
        # Relative to the feature's own activations, which may be a hundredth of the largest.
        check("statistics: correlated", found["correlated_pearson"][feature][slots], pearson[feature, others], 1e-4)
        check("statistics: cosine of activations", found["correlated_cosine"][feature][slots],
              cosine[feature, others], 1e-4)
        shared = (both[feature] > 0) & (torch.arange(len(both)) != feature)
        best = pearson[feature][shared].sort(descending=True).values[:len(others)]
        check("statistics: correlated most", found["correlated_pearson"][feature][slots], best, 1e-4)
    check("statistics: decoder neighbours", found["decoder_neighbour_cosine"],
          cosines(sae.W_dec).sort(descending=True).values[:, :10])
    check("statistics: decoder norm", found["decoder_norm"], sae.W_dec.norm(dim=1))
    check("statistics: encoder and decoder", found["encoder_decoder_cosine"],
          torch.cosine_similarity(sae.W_enc.T, sae.W_dec, dim=1))
    if at.split(".")[-1] != "hook_z":
        unembed = case.model.ln_final.w[:, None] * case.model.W_U
        lens = (sae.W_dec - sae.W_dec.mean(1, keepdim=True)) @ unembed
        check("statistics: logit lens", found["top_token_logits"], lens.sort(descending=True).values[:, :10])
        check("statistics: logit lens, bottom", found["bottom_token_logits"], lens.sort().values[:, :10])
    neuronpedia(case, name, np, text, acts)
    places = json.loads(subprocess.run(
        [case.cusae, "find", str(page), "--feature", "3", "--above", "0.5", "--top", "100000", "--json"],
        capture_output=True, check=True).stdout)["places"]
    expected = acts[:, 3][acts[:, 3] > 0.5].sort(descending=True).values
    check("find", [it["activation"] for it in places], expected)


def sae_dashboard_module(path: str):
    """A file of SAEDashboard without what the package imports beside it."""
    # What of them the classes used here have at their definition alone.
    sys.modules.setdefault("eindex", types.SimpleNamespace(eindex=None))
    sys.modules.setdefault("dataclasses_json", types.SimpleNamespace(dataclass_json=lambda it: it))
    package = Path(importlib.util.find_spec("sae_dashboard").submodule_search_locations[0])
    spec = importlib.util.spec_from_file_location("of_sae_dashboard", package / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def neuronpedia(case: Case, name: str, folder: Path, text, acts) -> None:
    """SAEDashboard's own classes take the files and give them back unchanged; the neurons that correlate are those of its
    RollingCorrCoef, values those of an SAE after fold_W_dec_norm."""
    module = sae_dashboard_module("neuronpedia/neuronpedia_dashboard.py")
    features = {}
    for path in folder.glob("batch-*.json"):
        batch = json.loads(path.read_text())
        assert module.NeuronpediaDashboardBatch(**batch).to_dict() == batch, path
        features.update((it["feature_index"], it) for it in batch["features"])
    assert len(features) == acts.shape[1]

    sae, hook, _ = case.sae(name)
    norms = sae.W_dec.norm(dim=-1)
    neurons = torch.cat([case.model.run_with_cache(row[None], names_filter=[hook])[1][hook] for row in text])
    neurons = neurons.reshape(len(acts), -1)
    neurons[text.flatten() == BOS] = 0.0
    rolling = sae_dashboard_module("utils_fns.py").RollingCorrCoef(dtype=torch.float64)
    rolling.update(acts.T, neurons.T)
    pearson, cosine = rolling.corrcoef()
    rounding = 6e-4
    for feature, it in features.items():
        if not acts[:, feature].any():
            assert it["correlated_neurons_indices"] == []
            continue
        which = it["correlated_neurons_indices"]
        case.checks.close("Neuronpedia: neurons", it["correlated_neurons_pearson"],
                          pearson[feature].sort(descending=True).values[:3], rounding)
        case.checks.close("Neuronpedia: neurons", it["correlated_neurons_pearson"], pearson[feature, which], rounding)
        case.checks.close("Neuronpedia: neurons", it["correlated_neurons_l1"], cosine[feature, which], rounding)
        aligned = sae.W_dec[feature] / norms[feature]
        case.checks.close("Neuronpedia: aligned neurons", it["neuron_alignment_values"],
                          aligned.sort(descending=True).values[:3], rounding)
        top = it["activations"][0]
        case.checks.close("Neuronpedia: the largest activation", top["values"][top["qualifying_token_index"]],
                          acts[:, feature].max() * norms[feature], rounding)


def sae_bench(case: Case) -> None:
    from sae_bench.evals.core.eval_output import CoreEvalOutput

    for name in ("trained-topk-resid", "random-standard-resid"):
        path = case.folder / "core.json"
        tokens = f"{DATA}/evals/trained-topk-resid/tokens.safetensors:sparsity_tokens"
        case.run("eval", name, "--tokens", tokens, "--context-size", "64", "--batch-size-prompts", "4",
                 "--n-eval-reconstruction-batches", "1", "--sae-bench", str(path))
        written = json.loads(path.read_text())
        read = TypeAdapter(CoreEvalOutput).validate_python(written, strict=False)
        again = json.loads(read.to_json())
        assert again == {**again, **written}, "SAEBench writes again what it has read"
        sae, _, _ = case.sae(name)
        details = written["eval_result_details"]
        for key, rows in [("max_decoder_cosine_sim", sae.W_dec), ("max_encoder_cosine_sim", sae.W_enc.T)]:
            case.checks.close(f"SAEBench: {key}", [it[key] for it in details], cosines(rows).amax(1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cusae", required=True)
    args = parser.parse_args()
    torch.set_grad_enabled(False)
    checks = Checks()
    with tempfile.TemporaryDirectory() as folder:
        case = Case(args.cusae, Path(folder), checks)
        for check in (features, attribution, ablation, steering, sampled_steering, comparison, sae_bench):
            check(case)
            print(f"{check.__name__}: as SAELens", flush=True)
        for name in SAES:
            dashboard(case, name)
        splices()
    checks.report()
    print("analysis: as SAELens, TransformerLens and PyTorch; SAEDashboard and SAEBench read their files")


if __name__ == "__main__":
    main()
