"""Submissions: the scores of a run in one file that others can check, and a static leaderboard made of any number of them."""

from attrlib.submissions.board import Board, Entry, make_board
from attrlib.submissions.reading import Refused, read_all, read_submission
from attrlib.submissions.site import write_site
from attrlib.submissions.submission import Submission, made_of

__all__ = ["Board", "Entry", "Refused", "Submission", "made_of", "make_board", "read_all", "read_submission", "write_site"]
