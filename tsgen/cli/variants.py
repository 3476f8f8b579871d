r"""Studies: several runs of one configuration, such as folds, seeds, or encoders to compare.

A configuration with the key ``variants``, a mapping from names to options, is a study:

.. code-block:: yaml

    variants:
      narrow: {model.encoder.hidden: 16}
      gru: {config: encoders/gru}
      mixture: {model.head: {class_path: tsgen.heads.MixtureHead, init_args: {components: 5}}}

The fragments that a variant names under ``config`` are applied to the options of the configuration first,
then the variant's own options (see :mod:`tsgen.cli.configs`). Each variant is an ordinary run, in
runs/NAME/VARIANT. After a test, :func:`summarise` tabulates their scores. With ``replicates: true`` the
variants are repetitions of one experiment, on other data or with other seeds. Once all have been tested, the
table then also has their mean and its standard error :math:`s / \sqrt{n}`, where s is the standard deviation
over the n variants. Folds share training data, so their standard error is approximate.
"""

from __future__ import annotations

import json
import math
import re
from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tsgen.cli.configs import apply, find, fragments, read
from tsgen.cli.loggers import expand_short_name
from tsgen.evaluation.columns import COLUMNS, format_number, printed_columns
from tsgen.evaluation.terminal import print_table
from tsgen.figures import BLUE, GREY, INK, PALE, VERMILLION, in_style, is_exact
from tsgen.storage.atomic import replacing, write_text
from tsgen.storage.display import print_line
from tsgen.storage.netcdf import open_netcdf

VARIANTS_FORM = "variants must be a mapping from names to options, such as {fold_1: {data.fold: 1}}"
LINE_LOOKS = cycler(linestyle=["-", "--", ":"]) * cycler(
    color=[BLUE, VERMILLION, "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]
)
LEAD_SCORES = {"crps": "CRPS [{}]", "mae": "MAE [{}]", "nll": "NLL [nats per scored entry]"}
"""The scores drawn against the lead time, with their axis labels; {} stands for the unit of the data."""


@dataclass(frozen=True)
class Study:
    """The runs of a command line: one, or several variants.

    Args:
        words: The command and its options, without ``--config``, ``--variant`` and ``--trusted``.
        name: The bare names of the configurations, joined, without those of strategies.
        options: The options of the configurations.
        variants: The complete options of each variant; empty for an ordinary run.
        chosen: The names of the variants to run.
        replicates: Whether to average their scores.
    """

    words: tuple[str, ...]
    name: str
    options: dict[str, Any]
    variants: dict[str, dict[str, Any]]
    chosen: tuple[str, ...]
    replicates: bool

    def text(self, variant: str | None = None) -> str:
        """Returns what the configurations say, of the study or of one variant, as JSON."""
        options = self.options if variant is None else self.variants[variant]
        return json.dumps(options, sort_keys=True)

    def command(self, variant: str | None = None) -> list[str]:
        """Returns the arguments that run a variant: its options as one configuration, then the user's."""
        options = self.options if variant is None else self.variants[variant]
        config = ["--config", json.dumps(options)] if options else []
        return [*self.words[:1], *config, *self.words[1:]]


def read_study(given: Namespace) -> Study:
    """Returns the study of a command line.

    Args:
        given: The result of :func:`~tsgen.cli.arguments.parse` for ``fit``, ``test`` or ``predict``.

    Raises:
        ValueError: If a configuration cannot be read or its ``variants`` are invalid.
    """
    paths = [find(name) for name in given.config]
    shipped = {path.resolve(): name for name, path in fragments().items()}
    if paths and (fragment := shipped.get(paths[0].resolve())):
        raise ValueError(
            f"{fragment} is a fragment and must follow an experiment; it comes first. "
            f"Give --config demo --config {fragment}, or another experiment before it."
        )
    options: dict[str, Any] = {}
    for path in paths:
        options = apply(options, read(path))
    replicates = options.pop("replicates", False)
    variants = _variants(options) if "variants" in options else {}
    if not isinstance(replicates, bool) or (replicates and not variants):
        raise ValueError(f"replicates must be true or false, and needs variants; got {replicates!r}.")
    unknown = [name for name in given.variant if name not in variants]
    if unknown:
        rule = f"be one of {', '.join(variants)}" if variants else "be used with a --config that has variants"
        raise ValueError(f"--variant must {rule}; got {unknown[0]!r}.")
    chosen = [name for name in variants if name in (given.variant or variants)]
    # a strategy determines how a run is computed, not its results: each command may use another
    named = [path for path in paths if not shipped.get(path.resolve(), "").startswith("strategies/")]
    name = "-".join(path.stem for path in named) or "run"
    words = [
        given.command,
        *(f"--trainer.logger={expand_short_name(logger)}" for logger in given.logger),
        *given.rest,
    ]
    return Study(tuple(words), name, options, variants, tuple(chosen), replicates)


def _variants(options: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Removes the key ``variants`` from the options and returns the options of each variant."""
    variants = options.pop("variants")
    if not isinstance(variants, dict) or not variants:
        raise ValueError(f"{VARIANTS_FORM}; got {variants!r:.60}.")
    result = {}
    for name, changes in variants.items():
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", str(name)):
            raise ValueError(f"variants must have names of letters, digits, _, - and .; got {name!r}.")
        try:
            result[str(name)] = _variant(options, {} if changes is None else changes)
        except ValueError as error:
            raise ValueError(f"variant {name}: {error}") from error
    return result


def _variant(options: Mapping[str, Any], changes: Any) -> dict[str, Any]:
    """Returns the options of the study, overridden by those of a variant."""
    if not isinstance(changes, dict):
        raise ValueError(f"{VARIANTS_FORM}; got the options {changes!r:.60}.")
    for key in ("name", "runs", "variants", "replicates"):
        if key in changes:
            raise ValueError(f"{key} must stand beside variants, not inside one; move it there.")
    fragments = changes.get("config", [])
    for fragment in fragments if isinstance(fragments, list) else [fragments]:
        options = apply(options, read(find(str(fragment))))
    return apply(options, {key: value for key, value in changes.items() if key != "config"})


# -------------------------------------------------------------------------------------------------- summary


def summarise(folder: Path, variants: Sequence[str], replicates: bool) -> None:
    """Writes and prints a table of the scores of all tested variants.

    Args:
        folder: The study's folder, which contains those of its variants. The results are written to it:
            ``scores.json``, and ``lead_time.png`` if all variants were scored by lead time.
        variants: The names of the variants.
        replicates: Whether to average over the variants once all have been tested.
    """
    tables = {
        name: json.loads((folder / name / "scores.json").read_text("utf-8"))
        for name in variants
        if (folder / name / "scores.json").is_file()
    }
    untested = [name for name in variants if name not in tables]
    averaged = replicates and not untested
    rows = {name: table["rows"][0] for name, table in tables.items()}
    summary: dict[str, Any] = {"variants": rows}
    if averaged:
        summary |= {"mean": mean(list(rows.values())), "standard_error": standard_error(list(rows.values()))}
    first, *others = (table["rows"] for table in tables.values())
    summary["exact"] = [row for row in first if is_exact(row) and all(row in other for other in others)]
    write_text(folder / "scores.json", json.dumps(summary, indent=1, ensure_ascii=False) + "\n")
    print_summary(folder, summary)
    if all(table.get("by_lead_time") for table in tables.values()) and _drawn(tables):
        figure = lead_time(tables, averaged, _unit(folder, tables))
        with replacing(folder / "lead_time.png") as unfinished:
            figure.savefig(unfinished, dpi=150, format="png")
        print_line(f"Scores by lead time: {folder / 'lead_time.png'}")
    if untested:
        print_line(f"Not tested yet: {', '.join(untested)}.")


def mean(rows: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Returns the mean of each score over the rows; None where a row lacks it."""
    return {key: None if None in x else round(math.fsum(x) / len(x), 6) for key, x in _scores(rows).items()}


def standard_error(rows: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Returns the standard error of each mean; None where a row lacks the score, or with a single row."""
    result: dict[str, float | None] = {}
    for key, x in _scores(rows).items():
        if None in x or len(x) < 2:
            result[key] = None
            continue
        centre = math.fsum(x) / len(x)
        variance = math.fsum((value - centre) ** 2 for value in x) / (len(x) - 1)
        result[key] = round(math.sqrt(variance / len(x)), 6)
    return result


def _scores(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    return {key: [row.get(key) for row in rows] for key in COLUMNS}


def print_summary(folder: Path, summary: Mapping[str, Any]) -> None:
    """Prints the table of all variants."""
    variants = [(f"{name} ({row['conditioning']})", row) for name, row in summary["variants"].items()]
    averages = [(key.replace("_", " "), summary[key]) for key in ("mean", "standard_error") if key in summary]
    exact = [(row["name"], row) for row in summary["exact"]]
    columns = printed_columns(row for _, row in variants + exact)
    print_table(
        f"{folder.name}: {len(variants)} variants",
        ["", *columns.values()],
        *(
            [(name, *(format_number(row.get(key)) for key in columns)) for name, row in section]
            for section in (variants, averages, exact)
        ),
    )


# ------------------------------------------------------------------------------------------------ lead time


@in_style
def lead_time(tables: Mapping[str, Mapping[str, Any]], replicates: bool = False, unit: str = "") -> Figure:
    """Draws the scores against the lead time, one line per variant.

    Args:
        tables: The content of each variant's ``scores.json``, with ``by_lead_time``: a list of mappings with
            ``lead`` in steps and scores. If all have the same ``by_lead_time_exact``, it is drawn too.
        replicates: Draw all variants in one colour, and their mean.
        unit: The unit of the data.
    """
    curves = {name: table["by_lead_time"] for name, table in tables.items()}
    exact, *others = (table.get("by_lead_time_exact") for table in tables.values())
    keys = _drawn(tables)
    figure = Figure(figsize=(1 + 3.4 * len(keys), 3.6), layout="constrained")
    for ax, key in zip(figure.subplots(1, len(keys), squeeze=False)[0], keys, strict=True):
        _draw_lead_time(ax, key, curves, replicates)
        if exact and all(other == exact for other in others):
            ax.plot(*_curve(exact, key), color=INK, lw=1.2, ls=(0, (4, 2)), label="exact")
        ax.set(xlabel="lead time [steps]", ylabel=LEAD_SCORES[key].format(unit or "units of the data"))
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.grid(axis="y", color=PALE, lw=0.5)
        ax.tick_params(colors=GREY)
    lines, labels = ax.get_legend_handles_labels()
    # widths in inches of a line sample and of a letter at this font size
    columns = int(figure.get_figwidth() / (0.6 + 0.07 * max(map(len, labels))))
    figure.legend(lines, labels, loc="outside lower center", ncols=max(1, columns), fontsize=8)
    return figure


def _drawn(tables: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Returns the scores that any table has by lead time."""
    points = [point for table in tables.values() for point in table["by_lead_time"]]
    return [key for key in LEAD_SCORES if any(point.get(key) is not None for point in points)]


def _draw_lead_time(
    ax: Axes, key: str, curves: Mapping[str, Sequence[Mapping[str, Any]]], replicates: bool
) -> None:
    """Draws the curves of all variants; those of replicates in one colour, with their mean."""
    marks: dict[str, Any] = {"marker": "o", "ms": 2.5} if all(len(c) <= 30 for c in curves.values()) else {}
    if not replicates:
        ax.set_prop_cycle(LINE_LOOKS)
        for name, curve in curves.items():
            ax.plot(*_curve(curve, key), lw=1.4, label=name, **marks)
        return
    values: dict[int, list[float]] = {}
    for i, curve in enumerate(curves.values()):
        leads, scores = _curve(curve, key)
        ax.plot(leads, scores, color="#BBBBBB", lw=0.8, label="" if i else f"each of {len(curves)}")
        for lead, score in zip(leads, scores, strict=True):
            values.setdefault(lead, []).append(score)
    whole = {lead: math.fsum(x) / len(x) for lead, x in sorted(values.items()) if len(x) == len(curves)}
    ax.plot(list(whole), list(whole.values()), color=BLUE, lw=1.6, label="mean", **marks)


def _curve(points: Sequence[Mapping[str, Any]], key: str) -> tuple[list[int], list[float]]:
    """Returns the lead times that have the score, and the scores."""
    known = [(point["lead"], point[key]) for point in points if point.get(key) is not None]
    return [lead for lead, _ in known], [score for _, score in known]


def _unit(folder: Path, variants: Iterable[str]) -> str:
    """Returns the unit of the data if all channels of all variants share it, else an empty text."""
    units = set()
    for name in variants:
        with open_netcdf(folder / name / "evaluation.nc") as evaluation:
            units |= {str(unit) for unit in evaluation["unit"].values}
    return units.pop() if len(units) == 1 else ""
