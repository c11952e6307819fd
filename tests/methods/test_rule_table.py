"""The table of rules says the truth: a method is defined for a network with an operation exactly if its row has a rule."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from support.method_nets import CLASSES, made
from torch import Tensor, nn

import attrlib
from attrlib.errors import MethodError
from attrlib.methods import METHODS
from attrlib.methods.operation_rules import OPERATIONS, OfRules, by_function
from attrlib.models.operations import operation


class With(nn.Module):
    """A convolution, one operation on its output (B,6,8,8), a mean and a linear head."""

    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.between = between
        self.conv, self.fc = nn.Conv2d(3, 6, 1), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.between(self.conv(x)).mean((2, 3)))


SQUARE = torch.ones(8, 8)
PROBES: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda x: F.linear(x, SQUARE),
    "convolution": lambda x: F.conv2d(x, torch.ones(6, 1, 3, 3), padding=1, groups=6),
    "batch_norm": lambda x: F.batch_norm(x, torch.zeros(6), torch.ones(6)),
    "norm": lambda x: F.layer_norm(x, (8, 8)) + F.group_norm(x, 2),
    "rectifier": lambda x: x.relu(),
    "activation": lambda x: F.gelu(x),
    "sigmoid": lambda x: x * x.mean((2, 3), keepdim=True).sigmoid(),
    "softmax": lambda x: x.mT.softmax(-1) @ x,
    "product": lambda x: x * x.flip(1),
    "quotient": lambda x: x / ((x * x).mean(1, keepdim=True) + 1e-6).sqrt(),
    "matrix_product": lambda x: x @ x.mT,
    "maximum": lambda x: F.max_pool2d(x, 2),
    "sum": lambda x: F.interpolate(x + F.avg_pool2d(torch.cat([x.roll(1, 2), x], 1)[:, 3:9], 3, 1, 1), scale_factor=2),
}


@pytest.mark.parametrize("method", [name for name, cls in METHODS.items() if issubclass(cls, OfRules)])
@pytest.mark.parametrize("key", OPERATIONS)
def test_a_method_is_defined_for_an_operation_exactly_if_the_table_has_a_rule(key: str, method: str) -> None:
    model = attrlib.wrap_model(made(With, PROBES[key]), 8)
    cls = METHODS[method]
    assert issubclass(cls, OfRules)
    described = cls.described()
    assert described.keys() == OPERATIONS.keys()
    try:
        METHODS[method]().check(model, model.layer("Input"))
    except MethodError:
        assert not described[key]
    else:
        assert described[key]


def test_every_function_is_one_kind_of_operation() -> None:
    functions = [function for each in OPERATIONS.values() for function in each.functions]
    assert len(functions) == len(set(functions))
    rules = {key: object() for key, each in OPERATIONS.items() if each.functions}
    assert by_function(rules).keys() == set(functions)


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (torch.Tensor.__iadd__, "add"),
        (torch.Tensor.__radd__, "add"),
        (torch.Tensor.mul_, "mul"),
        (torch.multiply, "mul"),
        (torch.Tensor.__truediv__, "div"),
        (torch.true_divide, "div"),
        (torch.Tensor.__matmul__, "matmul"),
        (torch.concat, "cat"),
        (F.softmax, "softmax"),
        (torch.negative, "neg"),
    ],
)
def test_the_forms_of_an_operation_have_one_name(function: Callable[..., Tensor], name: str) -> None:
    assert operation(function) == name
