"""Self-contained HTML pages with the scores and figures of one run, or of two.

* :func:`write_report` writes a page on one run.
* :func:`write_comparison` writes a page on two runs that scored the same entries.

The figures themselves are in :mod:`tsgen.figures`.
"""

from tsgen.report.comparison import write_comparison
from tsgen.report.run import write_report

__all__ = ["write_comparison", "write_report"]
