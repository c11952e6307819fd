"""Studies: prepared questions about models, methods and protocols, and their registry."""

import attrlib.studies.accuracy
import attrlib.studies.agreement
import attrlib.studies.design
import attrlib.studies.localisation
import attrlib.studies.meta
import attrlib.studies.ranking
import attrlib.studies.recent
import attrlib.studies.robustness
import attrlib.studies.settings
import attrlib.studies.smoothing  # noqa: F401
from attrlib.studies.base import PARSERS, STUDIES, Study, StudyInfo, StudyResult, create, list_studies, parse_study, resolve
from attrlib.studies.runner import StudyEvent, StudyPlan, plan_study, run_study, study

__all__ = [
    "PARSERS",
    "STUDIES",
    "Study",
    "StudyEvent",
    "StudyInfo",
    "StudyPlan",
    "StudyResult",
    "create",
    "list_studies",
    "parse_study",
    "plan_study",
    "resolve",
    "run_study",
    "study",
]
