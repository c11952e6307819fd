"""Figures of studies as plain data: panels of lines, points, intervals by category, boxes, or a matrix."""

import math
from dataclasses import dataclass
from typing import Literal

Kind = Literal["lines", "points", "dots", "boxes", "matrix"]


@dataclass(frozen=True)
class Point:
    """A value y at x, each with its interval (NaN for none); `marked` points are drawn as stars."""

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
    """Points that share a name and a colour."""

    name: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Panel:
    """One set of axes.

    `lines` join the points of a series and shade their intervals. `points` label each point. `dots` have categories down and values
    across. `boxes` have categories across and show all values of a category. In a `matrix` x and y are categories, with a series for
    each row and values in [-1, 1]. `level` is a reference line, such as chance. If points are not `named`, their labels appear only on
    hover.
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
    """A figure: a caption that says what to look for, and panels side by side, or below each other (`stacked`)."""

    caption: str
    panels: tuple[Panel, ...]
    stacked: bool = False
