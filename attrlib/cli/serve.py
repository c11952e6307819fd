"""`attrlib app`: open the app in a browser."""

import importlib.util
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from attrlib.cli.common import Cluster, Workers, command
from attrlib.errors import AttrlibError
from attrlib.places import app_script


@command()
def app(
    port: Annotated[int, typer.Option("--port", help="Port of the app.", min=1, max=65535)] = 8501,
    host: Annotated[str, typer.Option("--host", help="Address to listen on; 0.0.0.0 for other machines.")] = "localhost",
    data_root: Annotated[
        list[Path] | None,
        typer.Option("--data-root", help="Folder that the app may read data and checkpoints from; repeat for several."),
    ] = None,
    max_upload: Annotated[
        int | None,
        typer.Option("--max-upload", help="Largest upload, in MB: checkpoints of models that are added; by default 500.", min=20),
    ] = None,
    workers: Workers = None,
    cluster: Cluster = None,
    headless: Annotated[bool, typer.Option("--headless", help="Do not open a browser.")] = False,
) -> None:
    """Open the app in a browser."""
    if importlib.util.find_spec("streamlit") is None:
        raise AttrlibError('the app needs Streamlit: pip install "attrlib[app]"')
    environment = dict(os.environ)
    if data_root:
        for folder in data_root:
            if not folder.is_dir():
                raise AttrlibError(f"--data-root: {str(folder)!r} is not a folder")
        environment["ATTRLIB_DATA_ROOTS"] = os.pathsep.join(str(folder.absolute()) for folder in data_root)
    environment |= _executors(workers, cluster)
    script = app_script()
    # Streamlit reads this file only if it is in the current folder.
    settings = tomllib.loads((script.parent / ".streamlit" / "config.toml").read_text())
    settings["server"] |= {"port": port, "address": host, "headless": headless}
    # Streamlit's greeting offers tools for those who write apps, here and as a pop-up on every page.
    settings["logger"] = {"hideWelcomeMessage": True}
    if max_upload is not None:
        settings["server"]["maxUploadSize"] = max_upload
    flags = [
        word for name, value in _flat(settings) for word in (f"--{name}", str(value).lower() if isinstance(value, bool) else str(value))
    ]
    typer.echo(f"attrlib opens at http://{host}:{port}; stop it with Ctrl+C")
    sys.stdout.flush()
    run = [sys.executable, "-m", "streamlit", "run", str(script), *flags]
    if os.name == "posix":
        # In place of this process, so that a signal to it ends the app.
        os.execve(run[0], run, environment)
    raise typer.Exit(subprocess.run(run, env=environment, check=False).returncode)


def _executors(workers: int | None, cluster: str | None) -> dict[str, str]:
    """Return the environment variables by which the app runs scores on workers. Raises `SpecError` if an option is not valid."""
    from attrlib.engine.executors.choice import CLUSTER, WORKERS
    from attrlib.engine.executors.processes import check_size
    from attrlib.engine.executors.ray_cluster import check_installed, parse_cluster

    if cluster is not None:
        parse_cluster(cluster)
        check_installed()
    if workers is not None:
        check_size(workers)
    chosen = {WORKERS: None if workers is None else str(workers), CLUSTER: cluster}
    return {name: value for name, value in chosen.items() if value is not None}


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the settings of nested tables with dotted names."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
