#!/usr/bin/env python3
"""Runs the commands of docs/tutorials.md, and then the README's, which look at the same SAE, again and compares what they
print with what is there: words exactly, numbers within what float32 on another machine may differ by.

check_tutorials.py --cusae PROGRAM [--write]   (--write puts what they print into the files)
"""
import argparse
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FILES = [ROOT / "docs/tutorials.md", ROOT / "README.md"]
BLOCK = re.compile(r"```console\n(.*?)```", re.DOTALL)
NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?")
RELATIVE, ABSOLUTE = 0.02, 0.002


def commands(block: str) -> list[str]:
    """Each with its continuation lines, as it is written."""
    return re.findall(r"^\$ (?:.*\\\n)*.*\n", block, re.MULTILINE)


def run(command: str, cusae: str, folder: str) -> str:
    words = shlex.split(command.removeprefix("$ ").replace("\\\n", " "))
    assert words[0] == "cusae", command
    done = subprocess.run([cusae, *words[1:], "--device", "cpu"], cwd=folder, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{command}{done.stderr}")
    return done.stdout


def same(found: str, expected: str) -> bool:
    if NUMBER.sub("#", " ".join(found.split())) != NUMBER.sub("#", " ".join(expected.split())):
        return False
    value = lambda text: float(text.replace(",", ""))
    pairs = zip(map(value, NUMBER.findall(found)), map(value, NUMBER.findall(expected)))
    return all(abs(a - b) <= ABSOLUTE + RELATIVE * abs(b) for a, b in pairs)


def compare(found: str, expected: str) -> list[str]:
    """The lines that differ. What depends on the clock is not looked at."""
    lines = [[line for line in text.splitlines() if not re.search(r"tokens/s|events\.out", line)]
             for text in (found.strip(), expected.strip())]
    if len(lines[0]) != len(lines[1]):
        return [f"{len(lines[0])} lines, expected {len(lines[1])}"]
    return [f"- {b}\n+ {a}" for a, b in zip(*lines) if not same(a, b)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cusae", required=True)
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    cusae, wrong, count = str(Path(args.cusae).resolve()), [], 0

    with tempfile.TemporaryDirectory() as folder:
        def block(match: re.Match) -> str:
            nonlocal count
            inside, written = match.group(1), ""
            asked = commands(inside)
            for number, command in enumerate(asked):
                count += 1
                found = run(command, cusae, folder)
                start = inside.index(command) + len(command)
                end = inside.index(asked[number + 1]) if number + 1 < len(asked) else len(inside)
                wrong.extend(f"{command}{line}" for line in compare(found, inside[start:end]))
                written += command + "".join(f"{line.rstrip()}\n" for line in found.rstrip().splitlines())
            return f"```console\n{written}```"

        texts = [BLOCK.sub(block, file.read_text()) for file in FILES]
    if args.write:
        for file, text in zip(FILES, texts):
            file.write_text(text)
    elif wrong:
        sys.exit("\n".join(wrong))
    print(f"tutorials: {count} commands, " + ("written" if args.write else "print what the files say"))


if __name__ == "__main__":
    main()
