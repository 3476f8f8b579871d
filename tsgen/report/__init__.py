"""What an evaluation found, for people: figures and one page of HTML.

* :func:`write_report`: one page that needs nothing beside it, from the files of a run.
* :func:`write_comparison`: one page on two runs that scored the same entries.
* :mod:`tsgen.figures`: their figures, each on its own, from the evaluation's dataset.
"""

from tsgen.report.comparison import write_comparison
from tsgen.report.html import write_report

__all__ = ["write_comparison", "write_report"]
