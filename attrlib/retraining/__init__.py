"""Retraining: ROAR and KAR, which judge methods by networks trained without the pixels that they hold relevant, or with only those."""

from attrlib.retraining.plan import RoarPlan, plan_roar
from attrlib.retraining.result import RoarCurve, RoarResult
from attrlib.retraining.run import roar, run_roar

__all__ = ["RoarCurve", "RoarPlan", "RoarResult", "plan_roar", "roar", "run_roar"]
