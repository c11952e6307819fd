"""The base class of lessons, and the registry of all lessons in the order of the lecture."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from attrlib.errors import SpecError
from attrlib.registry import Paper, Registry
from pages.learn.context import LessonContext


@dataclass(frozen=True)
class Beyond:
    """A link from a lesson to the page that does the same in full: its path, its name there, and the query."""

    path: str
    label: str
    query: str


@dataclass(frozen=True)
class Lesson(ABC):
    """A lesson on one screen. A subclass is a registered frozen dataclass whose fields are the lesson's controls.

    `formula` is LaTeX, and `letters` explains its symbols in words. `shape` is the number of pictures side by side and the number of rows;
    the size of the pictures follows from it.
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
        """Request everything that the lesson needs, then draw it; return what to see, in one or two sentences."""

    @abstractmethod
    def beyond(self, model: str) -> Beyond:
        """Return the link to the page that does the same, with the right settings."""


LESSONS: Registry[Lesson] = Registry("lesson", SpecError)
