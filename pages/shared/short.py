"""The shortest form of a spec, without values at their defaults: names stay readable and equal runs are recognised as one."""

from dataclasses import replace

from attrlib.methods import METHODS
from attrlib.methods import resolve as resolve_method
from attrlib.protocols import resolve as resolve_protocol
from attrlib.specs import MethodSpec, ProtocolSpec, RunSpec
from attrlib.targets import short as short_target
from pages.shared.roots import check_maps


def short_method(spec: MethodSpec) -> MethodSpec:
    """Return the method without its default layer and default parameters.

    Raises `AttrlibError` if it is invalid, or reads maps that the app may not read.
    """
    resolved, default = resolve_method(check_maps(spec)), resolve_method(MethodSpec(spec.name))
    layer = "" if resolved.layer == METHODS[resolved.name].default_layer else resolved.layer
    params = tuple(pair for pair in resolved.params if pair not in default.params)
    return MethodSpec(resolved.name, layer, params, short_target(resolved.target))


def short_protocol(spec: ProtocolSpec) -> ProtocolSpec:
    """Return the protocol without default parameters. Raises `AttrlibError` if it is invalid."""
    resolved, default = resolve_protocol(spec), resolve_protocol(ProtocolSpec(spec.name))
    return ProtocolSpec(resolved.name, tuple(pair for pair in resolved.params if pair not in default.params))


def short_run(spec: RunSpec) -> RunSpec:
    """Return the run with protocols and methods in their shortest form, without duplicates."""
    protocols = tuple(dict.fromkeys(map(short_protocol, spec.protocols)))
    return replace(spec, protocols=protocols, methods=tuple(dict.fromkeys(map(short_method, spec.methods))))
