"""Test sessions in environments of their own: `nox -s oldest` runs the numeric tests on the oldest supported torch and torchvision."""

import nox

NUMERIC = ["tests/methods", "tests/protocols", "tests/aggregation", "tests/engine", "tests/models", "tests/test_imports.py"]


@nox.session(venv_backend="venv")
@nox.parametrize(("torch", "torchvision"), [("2.6.0", "0.21.0")])
def oldest(session: nox.Session, torch: str, torchvision: str) -> None:
    """Run the numeric tests on the oldest pair that pyproject.toml allows."""
    session.install(f"torch=={torch}", f"torchvision=={torchvision}", ".[app]", "pytest", "pytest-xdist", "captum", "grad-cam")
    session.run("pytest", *NUMERIC, *session.posargs)
