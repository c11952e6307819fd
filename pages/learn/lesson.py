"""What a lesson is, and the registry of all of them, in the order of the lecture."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from attrlib.errors import SpecError
from attrlib.registry import Paper, Registry
from pages.learn.context import LessonContext


@dataclass(frozen=True)
class Beyond:
    """Where the same is done for real: a page by its path in the address, what it is called there, and the query of its link."""

    path: str
    label: str
    query: str


@dataclass(frozen=True)
class Lesson(ABC):
    """One screen. A subclass is a frozen dataclass whose fields are its controls, and is registered.

    `formula` is LaTeX, `letters` says in words what stands in it; `shape` is how many pictures stand side by side, and how many rows
    they make, from which their size follows.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    claim: ClassVar[str]
    formula: ClassVar[str]
    letters: ClassVar[str]
    paper: ClassVar[Paper]
    shape: ClassVar[tuple[int, int]] = (3, 2)

    @abstractmethod
    def show(self, context: LessonContext) -> str:
        """Asks the desk for all that it needs, then draws it; returns what to see, in one or two sentences."""

    @abstractmethod
    def beyond(self, model: str) -> Beyond:
        """Where the same is done for real, with the right settings."""


LESSONS: Registry[Lesson] = Registry("lesson", SpecError)
