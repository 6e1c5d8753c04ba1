#!/usr/bin/env python3
"""Tests of run_gpu_kit.sh and gpu_kit.py that need no GPU: a kit of stand-ins for its programs, the
results that are checked in, and, with --cusae, the names in gpu_peers.py.

    test_gpu_kit.py [--cusae PROGRAM]    the last needs PyTorch, and takes half a minute
"""

import gzip
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

import gpu_kit

SCRIPTS = Path(__file__).resolve().parent
RESULTS = SCRIPTS.parent / "benches" / "results"
CUSAE = None

# A program that has a GPU where STUB_GPU is set, and there STUB_OFF as relative error of its losses.
STUB_CUSAE = """#!/usr/bin/env python3
import json, os, pathlib, sys
words, gpu = sys.argv[1:], "STUB_GPU" in os.environ
value = lambda flag: words[words.index(flag) + 1]
if words[0] == "info":
    print(json.dumps({"cuda": gpu, "gpus": ["a GPU"], "why_no_cuda": None if gpu else "there is no driver"}))
elif words[0] == "bench":
    print(json.dumps({"sizes": value("--sizes"), "rows": [{"operation": "adam", "size": "6 numbers", "seconds": 2.0}]}))
else:
    out = pathlib.Path(value("--out"))
    out.mkdir()
    off = 1 + float(os.environ.get("STUB_OFF", 0)) if value("--device") == "cuda" else 1
    losses = [{"step": step, "losses/overall_loss": off * 8 / step} for step in (10, 20, 40)]
    (out / "metrics.jsonl").write_text("\\n".join(map(json.dumps, losses)))
    (out / "sae_weights.safetensors").write_bytes(b"weights")
    print("{}")
"""
# Two tests of each file; kernels::sum fails on the device that STUB_FAILS names.
STUB_TESTS = """#!/usr/bin/env python3
import os, sys
words = sys.argv[1:]
names = [f"{file}::{test}" for file in ("kernels", "gpt2_native", "training_traces", "refusals") for test in ("kernels_a", "sum")]
names = [name for name in names if any(word in name for word in words if not word.startswith("--"))]
if "--list" in words:
    sys.exit(print("\\n".join(f"{name}: test" for name in names)))
device = os.environ["CUSAE_TEST_DEVICE"]
failed = [name for name in names if name == "kernels::sum" and os.environ.get("STUB_FAILS") == device]
for name in names:
    print(f"test {name} ... {'FAILED' if name in failed else 'ok'}")
print(f"test result: {len(names) - len(failed)} passed; {len(failed)} failed")
sys.exit(101 if failed else 0)
"""
# Finds a race in kernels::sum, and supports no GPU where STUB_NO_TOOL is set.
STUB_SANITIZER = """#!/usr/bin/env python3
import os, sys
if "STUB_NO_TOOL" in os.environ:
    sys.exit(print("========= Error: Device not supported") or 1)
race = "racecheck" in sys.argv and sys.argv[-1] == "kernels::sum"
sys.exit(print("========= ERROR: Race reported") or 99 if race else 0)
"""
MADE = {"version": "1.2.3", "commit": "abc", "built": "2026-11-24T00:00:00Z", "profile": "release", "needs": "x86-64"}


class StandIns(unittest.TestCase):
    """Runs of a kit whose programs are stand-ins."""

    def setUp(self):
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        self.kit = self.folder / "kit"
        (self.kit / "bin").mkdir(parents=True)
        for name in ("run_gpu_kit.sh", "gpu_kit.py", "gpu_peers.py"):
            shutil.copy(SCRIPTS / name, self.kit)
        for name, text in (("cusae", STUB_CUSAE), ("tests", STUB_TESTS)):
            (self.kit / "bin" / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
        (self.kit / "kit.json").write_text(json.dumps(MADE))

    def tool(self):
        """Makes a compute-sanitizer; returns the folder that it is in."""
        tool = self.folder / "cuda" / "bin" / "compute-sanitizer"
        tool.parent.mkdir(parents=True)
        tool.write_text(STUB_SANITIZER)
        tool.chmod(0o755)
        return {"CUDA_HOME": str(tool.parent.parent)}

    def run_kit(self, **environment):
        out = self.folder / "result.json"
        done = subprocess.run(
            [self.kit / "run_gpu_kit.sh", out], env={**os.environ, "CUDA_HOME": "", **environment}, text=True,
            capture_output=True, cwd=self.folder,
        )
        report = json.loads(out.read_text())
        parts = report["parts"]
        self.assertEqual(list(parts), [name for name, _, _ in gpu_kit.PARTS], done.stderr)
        for name, part in parts.items():
            self.assertIn(part["status"], ("ok", "failed", "skipped"), name)
            self.assertEqual("reason" in part, part["status"] != "ok", name)
            self.assertGreaterEqual(part["seconds"], 0, name)
        failed = [name for name, part in parts.items() if part["status"] == "failed"]
        self.assertEqual(done.returncode, 1 if failed else 0, done.stderr)
        return report, parts

    def test_without_a_gpu_its_parts_are_skipped_and_the_others_run(self):
        report, parts = self.run_kit()
        self.assertEqual(
            list(report), ["schema", "version", "commit", "date", "command", "kit", "machine", "parts"])
        self.assertEqual((report["schema"], report["version"], report["commit"]), (gpu_kit.SCHEMA, "1.2.3", "abc"))
        self.assertEqual(report["command"], f"gpu_kit.py --out {self.folder / 'result.json'}")
        self.assertRegex(report["date"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")
        self.assertEqual(report["kit"], MADE)
        ok = {name for name, part in parts.items() if part["status"] == "ok"}
        emulated = {f"{part}_emulated" for part in ("kernels", "refusals", "model", "traces")}
        self.assertEqual(ok, {"machine", "training_cpu", "bench_cpu_small"} | emulated)
        self.assertEqual(parts["kernels_gpu"]["reason"], "there is no driver")
        self.assertEqual(parts["kernels_emulated"]["passed"], 2)
        self.assertEqual(parts["traces_emulated"]["passed"], 1)
        self.assertEqual(parts["training_cpu"]["first_loss"], 0.8)

    def test_with_a_gpu_everything_runs(self):
        _, parts = self.run_kit(STUB_GPU="1", **self.tool())
        for name in ("kernels_gpu", "refusals_gpu", "model_gpu", "traces_gpu", "training_gpu", "bench_gpu_gpt2",
                     "bench_gpu_gemma", "memcheck", "synccheck"):
            self.assertEqual(parts[name]["status"], "ok", parts[name])
        self.assertEqual(parts["training_gpu"]["largest_difference"], 0)
        self.assertEqual(parts["bench_gpu_gemma"]["table"]["sizes"], "gemma")
        self.assertEqual(parts["memcheck"]["passed"], 2)
        race = parts["racecheck"]
        self.assertEqual((race["status"], race["failed"], race["passed"]), ("failed", ["kernels::sum"], 1))
        self.assertIn("Race reported", race["tail"])

    def test_without_the_tool_or_where_it_does_not_work_its_parts_are_skipped(self):
        _, parts = self.run_kit(STUB_GPU="1", PATH="/usr/bin:/bin")
        self.assertEqual(parts["memcheck"]["status"], "skipped")
        self.assertIn("comes with the CUDA toolkit", parts["memcheck"]["reason"])
        (self.folder / "result.json").unlink()
        _, parts = self.run_kit(STUB_GPU="1", STUB_NO_TOOL="1", **self.tool())
        self.assertEqual(parts["memcheck"]["status"], "skipped")
        self.assertIn("Device not supported", parts["memcheck"]["reason"])

    def test_what_goes_wrong_is_named(self):
        _, parts = self.run_kit(STUB_GPU="1", STUB_FAILS="cuda", STUB_OFF="0.1")
        kernels = parts["kernels_gpu"]
        self.assertEqual((kernels["status"], kernels["failed"], kernels["passed"]), ("failed", ["kernels::sum"], 1))
        self.assertEqual(parts["kernels_emulated"]["status"], "ok")
        training = parts["training_gpu"]
        self.assertEqual((training["status"], training["same_bits_twice"]), ("failed", True))
        self.assertAlmostEqual(training["first_difference"], 0.1)


class Parts(unittest.TestCase):
    """What the parts are made of."""

    def kit(self, folder, seconds):
        (Path(folder) / "kit.json").write_text(json.dumps(MADE))
        return gpu_kit.Kit(folder, Path(folder) / "out.json", seconds)

    def test_limits_leave_time_within_nine_minutes(self):
        self.assertLess(gpu_kit.TOTAL_SECONDS, 9 * 60)
        limits = [limit for _, limit, _ in gpu_kit.PARTS if not isinstance(limit, gpu_kit.Share)]
        self.assertLessEqual(sum(limits), gpu_kit.TOTAL_SECONDS)

    def test_a_part_that_hangs_is_ended_with_what_it_has_started(self):
        with tempfile.TemporaryDirectory() as folder:
            kit = self.kit(folder, 60)
            start = time.monotonic()
            kit.part("hangs", 3, lambda kit, seconds: kit.run(["sh", "-c", "echo begun; sleep 60 & sleep 60"], seconds))
            self.assertLess(time.monotonic() - start, 20)
            part = kit.report["parts"]["hangs"]
            self.assertEqual((part["status"], part["reason"], part["tail"]), ("failed", "sh was ended after 3 s", "begun\n"))

    def test_a_part_for_which_no_time_is_left_is_skipped_and_a_share_is_of_what_is_left(self):
        with tempfile.TemporaryDirectory() as folder:
            kit = self.kit(folder, 90)
            kit.part("third", gpu_kit.Share(1 / 3), lambda kit, seconds: {"left": round(seconds)})
            self.assertEqual(kit.report["parts"]["third"]["left"], 30)
            kit.deadline = time.monotonic()
            kit.part("late", 60, lambda kit, seconds: {})
            self.assertEqual(kit.report["parts"]["late"]["reason"], "no time is left for it")

    def test_a_mistake_in_a_part_is_that_parts_failure(self):
        with tempfile.TemporaryDirectory() as folder:
            kit = self.kit(folder, 60)
            kit.part("mistaken", 60, lambda kit, seconds: [][0])
            self.assertEqual(kit.report["parts"]["mistaken"]["reason"], "IndexError: list index out of range")
            self.assertEqual(json.loads((Path(folder) / "out.json").read_text()), kit.report)

    def test_peers_have_time_left_for_what_is_not_measured(self):
        with tempfile.TemporaryDirectory() as folder:
            kit = self.kit(folder, 60)
            kit.report["machine"] = {"cusae": {"cuda": True}, "torch": {"torch": "2.9"}}
            commands = []
            kit.run = lambda command, seconds, check: commands.append(command) or (0, '{"sizes": "gpt2"}\n', "")
            gpu_kit.peers(kit, 59.9)
            self.assertEqual(commands[0][-2:], ["--seconds", "39"])

    def test_tests_are_counted_also_when_they_did_not_end(self):
        stdout = "test kernels::a ... ok\ntest kernels::b ... FAILED\n"
        self.assertEqual(gpu_kit.test_counts(stdout), {"passed": 1, "failed": ["kernels::b"]})

    def test_losses_are_compared_step_by_step(self):
        found = gpu_kit.compare_losses({1: 4.0, 2: 2.0, 3: 1.0}, {1: 4.0, 2: 2.5, 3: 1.1})
        self.assertEqual((found["first_difference"], found["largest_at_step"]), (0, 2))
        self.assertAlmostEqual(found["last_difference"], 0.1)
        with self.assertRaises(gpu_kit.Failed):
            gpu_kit.compare_losses({1: 4.0}, {2: 4.0})

    def test_peers_stand_beside_the_rows_that_they_are_like(self):
        table = [{"operation": "adam", "size": "6 numbers", "seconds": 2.0}, {"operation": "sum", "size": "6 numbers"}]
        peer = {"sizes": "gpt2", "operation": "adam", "like": "6 num", "peer": "torch", "seconds": 3.0}
        others = [{**peer, "operation": "sum"}, {**peer, "like": "7"}, {**peer, "sizes": "gemma"}]
        rows = gpu_kit.side_by_side({"gpt2": table}, [peer, *others])
        self.assertEqual(rows, [{
            "operation": "adam", "size": "6 numbers", "cusae_seconds": 2.0, "peer": "torch", "peer_seconds": 3.0,
            "times_as_fast": 1.5,
        }])


class Results(unittest.TestCase):
    """benches/results, as its README describes it."""

    def test_every_result_says_what_where_and_when(self):
        for path in RESULTS.glob("*.json"):
            result = json.loads(path.read_text())
            for key in ("version", "commit", "date", "command", "machine"):
                self.assertTrue(result.get(key), f"{path.name}: {key}")
            self.assertTrue("rows" in result or "parts" in result, path.name)
            self.assertFalse(result["commit"].endswith("-dirty"), f"{path.name}: not of a commit")


class Peers(unittest.TestCase):
    """gpu_peers.py beside the real program, on the CPU."""

    def setUp(self):
        if CUSAE is None:
            self.skipTest("no program was named by --cusae")

    def test_every_peer_is_like_one_row(self):
        bench = [CUSAE, "bench", "--device", "cpu", "--sizes", "small", "--quick", "--json", "--quiet"]
        rows = json.loads(subprocess.run(bench, check=True, capture_output=True).stdout)["rows"]
        peers = [sys.executable, SCRIPTS / "gpu_peers.py", "--device", "cpu", "--sizes", "small", "--seconds", "600"]
        lines = subprocess.run(peers, check=True, capture_output=True, text=True).stdout.splitlines()
        self.assertGreater(len(lines), 30)
        for peer in map(json.loads, lines):
            like = [row for row in rows if row["operation"] == peer["operation"] and peer["like"] in row["size"]]
            self.assertEqual(len(like), 0 if peer["operation"] == "ceiling" else 1, peer)
            self.assertIn("seconds", peer)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--cusae"]:
        CUSAE = str(Path(sys.argv.pop(2)).resolve())
        sys.argv.pop(1)
    unittest.main()
