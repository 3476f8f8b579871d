"""Pages of HTML with the scores and figures of one run, or of two.

* :func:`write_report`: one page that needs no other file, from the files of a run.
* :func:`write_comparison`: one page on two runs that scored the same entries.
* :mod:`tsgen.figures`: the figures alone, from the evaluation's dataset.
"""

from tsgen.report.comparison import write_comparison
from tsgen.report.run import write_report

__all__ = ["write_comparison", "write_report"]
