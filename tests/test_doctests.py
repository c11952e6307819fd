"""The examples in docstrings are run, and the functions that people call first have one."""

import doctest
import importlib
import inspect
import pkgutil

import pytest

import attrlib

MODULES = [
    info.name
    for info in pkgutil.walk_packages(attrlib.__path__, "attrlib.")
    if info.name != "attrlib.__main__" and ">>> " in inspect.getsource(importlib.import_module(info.name))
]


@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize("module", MODULES)
def test_the_examples_of_a_module_give_what_they_say(module: str) -> None:
    found = doctest.testmod(importlib.import_module(module))
    assert found.attempted > 0
    assert found.failed == 0


@pytest.mark.parametrize("function", [attrlib.aggregate, attrlib.compare, attrlib.explain, attrlib.resize, attrlib.score, attrlib.smooth])
def test_a_function_of_the_library_shows_how_it_is_called(function: object) -> None:
    assert ">>> " in str(function.__doc__)
