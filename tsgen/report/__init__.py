"""What an evaluation found, for people: figures and one page of HTML.

* :func:`write_report`: one page that needs nothing beside it, from the files of a run.
* :mod:`tsgen.report.figures`: its figures, each on its own, from the evaluation's dataset.
"""

from tsgen.report.html import write_report

__all__ = ["write_report"]
