"""Studies: saved questions over models, methods and protocols, and their registry."""

import attrlib.studies.accuracy
import attrlib.studies.agreement
import attrlib.studies.design
import attrlib.studies.localisation
import attrlib.studies.ranking
import attrlib.studies.robustness
import attrlib.studies.settings
import attrlib.studies.smoothing  # noqa: F401
from attrlib.studies.base import STUDIES, Study, StudyInfo, StudyResult, create, list_studies, parse_study, resolve
from attrlib.studies.runner import StudyEvent, StudyPlan, plan_study, run_study, study
from attrlib.studies.spec import StudySpec, parse_models, read_study_link

__all__ = [
    "STUDIES",
    "Study",
    "StudyEvent",
    "StudyInfo",
    "StudyPlan",
    "StudyResult",
    "StudySpec",
    "create",
    "list_studies",
    "parse_models",
    "parse_study",
    "plan_study",
    "read_study_link",
    "resolve",
    "run_study",
    "study",
]
