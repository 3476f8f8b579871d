"""What the figures of the documentation share."""

from tsgen.report.figures import GREY

WIDTH_50, WIDTH_90 = 0.6745, 1.6449
"""Half the width of a central interval of a Gaussian, in standard deviations."""

STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#999999",
    "axes.labelcolor": GREY,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.titlesize": 9.5,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "legend.frameon": False,
}
