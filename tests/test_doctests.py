"""Examples in docstrings run, and the main public functions have one."""

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
def test_examples_of_a_module_print_the_documented_output(module: str) -> None:
    result = doctest.testmod(importlib.import_module(module))
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize("function", [attrlib.aggregate, attrlib.compare, attrlib.explain, attrlib.resize, attrlib.score, attrlib.smooth])
def test_main_functions_have_an_example(function: object) -> None:
    assert ">>> " in str(function.__doc__)
