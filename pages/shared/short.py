"""The shortest form of a spec, without values at their defaults: names stay readable and equal runs are recognised as one."""

from dataclasses import replace

from attrlib.methods import METHODS
from attrlib.methods import resolve as resolve_method
from attrlib.protocols import resolve as resolve_protocol
from attrlib.specs import MethodSpec, ProtocolSpec, RunSpec


def short_method(given: MethodSpec) -> MethodSpec:
    """Return the method without its default layer and default parameters. Raises `AttrlibError` if it is invalid."""
    own, default = resolve_method(given), resolve_method(MethodSpec(given.name))
    layer = "" if own.layer == METHODS[own.name].default_layer else own.layer
    return MethodSpec(own.name, layer, tuple(pair for pair in own.params if pair not in default.params))


def short_protocol(given: ProtocolSpec) -> ProtocolSpec:
    """Return the protocol without default parameters. Raises `AttrlibError` if it is invalid."""
    own, default = resolve_protocol(given), resolve_protocol(ProtocolSpec(given.name))
    return ProtocolSpec(own.name, tuple(pair for pair in own.params if pair not in default.params))


def short_run(spec: RunSpec) -> RunSpec:
    """Return the run with protocols and methods in their shortest form, without duplicates."""
    protocols = tuple(dict.fromkeys(map(short_protocol, spec.protocols)))
    return replace(spec, protocols=protocols, methods=tuple(dict.fromkeys(map(short_method, spec.methods))))
