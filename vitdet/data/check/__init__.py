"""Checking a data set before it is trained on: what is wrong with its images and labels, where, and what to do.

Nothing here imports torch, so that a check starts at once; semantic data and configs need more.
"""

from vitdet.data.check.codes import CODES
from vitdet.data.check.finding import Example, Finding
from vitdet.data.check.report import Report
from vitdet.data.check.run import Place, Plan, check

__all__ = ["CODES", "Example", "Finding", "Place", "Plan", "Report", "check"]
