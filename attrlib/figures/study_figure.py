"""Figures of a study as plain numbers: panels of lines, points, intervals by category, boxes, or a matrix."""

import math
from dataclasses import dataclass
from typing import Literal

Kind = Literal["lines", "points", "dots", "boxes", "matrix"]


@dataclass(frozen=True)
class Point:
    """A value y at x, each with its interval where there is one (NaN: none); `marked` points are drawn as stars."""

    x: float | str
    y: float
    low: float = math.nan
    high: float = math.nan
    label: str = ""
    x_low: float = math.nan
    x_high: float = math.nan
    marked: bool = False


@dataclass(frozen=True)
class Series:
    """Points of one name and colour."""

    name: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Panel:
    """One set of axes.

    `lines` join the points of a series and shade their intervals; `points` label each point; `dots` have categories down and values
    across, `boxes` categories across and all values of a category; in a `matrix` x and y are categories: a series for each row,
    values in [-1, 1]. `level` is a line to compare with, such as chance; where points are not
    `named`, a label is only told when one is pointed at.
    """

    kind: Kind
    title: str
    x: str
    y: str
    series: tuple[Series, ...]
    log_x: bool = False
    log_y: bool = False
    level: float | None = None
    named: bool = True


@dataclass(frozen=True)
class StudyFigure:
    """A figure: a caption that says what to see, and panels beside each other, or below (`stacked`)."""

    caption: str
    panels: tuple[Panel, ...]
    stacked: bool = False
