"""Tuning: search a method's parameters for the setting that a protocol scores best, and judge it on held-out items."""

from attrlib.tuning.plan import TunePlan, plan_tuning
from attrlib.tuning.result import Trial, TuneResult
from attrlib.tuning.run import run_tuning, tune

__all__ = ["Trial", "TunePlan", "TuneResult", "plan_tuning", "run_tuning", "tune"]
