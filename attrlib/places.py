"""Where the files lie that come with attrlib: beside the package in a checkout, inside it in an installed wheel."""

from importlib.resources import files
from pathlib import Path

from attrlib.errors import AttrlibError


def app_script() -> Path:
    """Return the script of the app, `app.py`.

    Raises:
        AttrlibError: If the app is not there, as in a wheel that was built without it.
    """
    return _find("app.py", "_app/app.py")


def assets() -> Path:
    """Return the folder of the shipped models.

    Raises:
        AttrlibError: If it is not there.
    """
    return _find("assets/models", "_assets/models")


def import_folder() -> Path:
    """Return the folder that must be on the import path of a process so that it finds this package."""
    return Path(str(files("attrlib"))).parent


def _find(in_checkout: str, in_wheel: str) -> Path:
    package = Path(str(files("attrlib")))
    for place in (package / in_wheel, package.parent / in_checkout):
        if place.exists():
            return place
    raise AttrlibError(f"{in_checkout} is missing in this installation of attrlib; install it again")
