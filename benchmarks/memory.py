"""Measure the memory of runs over few and over many images: `python -m benchmarks.memory`.

Reports the peak resident memory of the process after a run of each size. All runs take place in one process with a separate store, which
reveals memory that grows with the number of images. On CUDA, the peak memory allocated on the device is also reported.
"""

import argparse
import os
import resource
import sys
import tempfile

import torch

import attrlib
from attrlib.store import Store


def peak() -> float:
    """Return the peak resident memory of the process in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="birds_resnet10")
    parser.add_argument("--data", default="birds")
    parser.add_argument("--protocols", default="sds,pointing")
    parser.add_argument("--methods", default="IxG,Grad-CAM,SmoothGrad:samples=4")
    parser.add_argument("--images", type=int, nargs="*", default=[16, 64, 1000])
    options = parser.parse_args()
    model, data = attrlib.load_model(options.model), attrlib.load_dataset(options.data)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["ATTRLIB_CACHE"] = folder
        store = Store()
        print(f"{'images':>8} {'computed':>9} {'resident MB':>12} {'device MB':>10}   ({model.name} on {model.device})")
        for count in options.images:
            if model.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(model.device)
            result = attrlib.compare(
                options.protocols.split(","), model, options.methods.split(","), data, limit=count, max_memory=2**28, store=store
            )
            device = f"{torch.cuda.max_memory_allocated(model.device) / 2**20:10.1f}" if model.device.type == "cuda" else f"{'':>10}"
            print(f"{count:8} {result.computed:9} {peak():12.1f} {device}", flush=True)


if __name__ == "__main__":
    main()
