"""Measure what imports cost against `import torch`, in CPU seconds of new processes, in turns: `python -m benchmarks.imports`."""

import argparse
import os
import statistics
import subprocess
import sys

CASES = {
    "import torch": "import torch",
    "import attrlib": "import attrlib",
    "attrlib, a first map": "import attrlib; attrlib.explain(attrlib.load_model('birds_resnet10', device='cpu'), 'sample:cat', 'IxG')",
    "attrlib --help": "import sys; sys.argv = ['attrlib', '--help']; from attrlib.cli import main; main()",
}


def cpu_seconds(code: str) -> float:
    """Return the CPU seconds of a new process that runs the code."""
    before = os.times()
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def main() -> None:
    """Print the medians and their ratios to that of torch."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="runs of each case")
    options = parser.parse_args()
    seconds: dict[str, list[float]] = {name: [] for name in CASES}
    for _ in range(options.runs):
        for name, code in CASES.items():
            seconds[name].append(cpu_seconds(code))
    base = statistics.median(seconds["import torch"])
    for name, values in seconds.items():
        print(f"{name:22} {statistics.median(values):6.2f} s  {statistics.median(values) / base:5.2f} x torch")


if __name__ == "__main__":
    main()
