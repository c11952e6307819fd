"""Build wheel and sdist, install the wheel outside the checkout, without extras and with `app`, and use what it brings.

Run it in the development environment, which has the tools and the browser: `python .ci/wheel.py`.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ABSENT = "streamlit", "plotly", "matplotlib", "pandas"
CLIENT = """
import attrlib
from attrlib import Attribution, Classifier, RunResult

model: Classifier = attrlib.load_model("birds_resnet10", device="cpu")
maps: Attribution = attrlib.explain(model, "sample:cat", "IxG")
result: RunResult = attrlib.compare(["sds"], model, ["IxG", "Random"], "birds", limit=4)
print(maps.maps.shape, result.computed, [row["method"] for row in result.table()])
"""


def run(*command: object, cwd: Path, **environment: str) -> str:
    """Run a command, and return what it prints; an error ends the script."""
    print("$", *command, flush=True)  # noqa: T201
    result = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    if result.returncode:
        sys.exit(f"{result.stdout}\n{result.stderr}\nexit code {result.returncode}")
    return result.stdout


def build(folder: Path) -> Path:
    """Build and check wheel and sdist; return the wheel."""
    run(sys.executable, "-m", "build", "--outdir", folder, ROOT, cwd=folder)
    wheel, sdist = next(folder.glob("*.whl")), next(folder.glob("*.tar.gz"))
    run(sys.executable, "-m", "twine", "check", "--strict", wheel, sdist, cwd=folder)
    run(sys.executable, "-m", "check_wheel_contents", wheel, cwd=folder)
    return wheel


def use_library(bin_folder: Path, outside: Path) -> None:
    """Use the command line and the library where no extra is installed."""
    python, attrlib = bin_folder / "python", bin_folder / "attrlib"
    installed = {package["name"].lower() for package in json.loads(run(python, "-m", "pip", "list", "--format=json", cwd=outside))}
    assert not installed & set(ABSENT), f"the core brings {installed & set(ABSENT)}"
    assert run(attrlib, "--version", cwd=outside).startswith("attrlib ")
    assert "birds_resnet18" in run(attrlib, "models", cwd=outside)
    run(
        attrlib,
        "explain",
        "--model",
        "birds_resnet10",
        "--image",
        "birds:test/3",
        "--methods",
        "IxG,Grad-CAM",
        "--out",
        "maps",
        cwd=outside,
    )
    assert {path.name for path in (outside / "maps").iterdir()} == {"panel.png", "maps.npz", "manifest.json"}
    scored = json.loads(
        run(
            attrlib,
            "score",
            "--model",
            "birds_resnet10",
            "--protocol",
            "sds",
            "--methods",
            "IxG",
            "--data",
            "birds",
            "--limit",
            4,
            "--json",
            cwd=outside,
        )
    )
    assert scored["computed"] == 4
    (outside / "client.py").write_text(CLIENT)
    print(run(python, "client.py", cwd=outside))  # noqa: T201
    run(sys.executable, "-m", "mypy", "--strict", "--python-executable", python, "client.py", cwd=outside)


def use_app(bin_folder: Path, outside: Path) -> None:
    """Use what the extra `app` brings: figures of a study, and the app in a browser."""
    attrlib = bin_folder / "attrlib"
    run(
        attrlib, "study", "robustness", "--models", "birds_resnet10", "--methods", "IxG,Random", "--limit", 2, "--out", "study", cwd=outside
    )
    assert (outside / "study" / "robustness-1.png").stat().st_size > 1000
    with serving(attrlib, outside) as address:
        from playwright.sync_api import expect, sync_playwright

        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-gpu"])
            page = browser.new_page(viewport={"width": 1400, "height": 900})
            page.goto(f"{address}/?model=birds_resnet10&image=birds:test/3&methods=IxG,Grad-CAM")
            expect(page.locator('img[alt*="over the photo"]')).to_have_count(2, timeout=300_000)
            browser.close()


@contextmanager
def serving(attrlib: Path, outside: Path) -> Iterator[str]:
    """Run the app, and yield its address once it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with subprocess.Popen([attrlib, "app", "--headless", "--port", str(port)], cwd=outside) as app:
        try:
            address, end = f"http://localhost:{port}", time.monotonic() + 120
            while True:
                try:
                    urllib.request.urlopen(f"{address}/_stcore/health", timeout=5)
                    break
                except OSError:
                    if time.monotonic() > end or app.poll() is not None:
                        sys.exit("the app does not answer")
                    time.sleep(0.2)
            yield address
        finally:
            app.terminate()


def main() -> None:
    """Build, install and use the wheel."""
    with tempfile.TemporaryDirectory() as name:
        folder, outside = Path(name) / "dist", Path(name) / "outside"
        folder.mkdir()
        outside.mkdir()
        os.environ["ATTRLIB_CACHE"] = str(outside / "cache")
        wheel = build(folder)
        venv.create(Path(name) / "venv", with_pip=True)
        bin_folder = Path(name) / "venv" / "bin"
        # The pair of torch and torchvision that the requirements pin, so that what is tested is what is used here.
        pins = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if line.startswith(("torch==", "torchvision=="))]
        run(bin_folder / "pip", "install", "-q", *pins, wheel, cwd=outside)
        use_library(bin_folder, outside)
        run(bin_folder / "pip", "install", "-q", *pins, f"{wheel}[app]", cwd=outside)
        use_app(bin_folder, outside)
    print("the wheel works")  # noqa: T201


if __name__ == "__main__":
    main()
