"""Draws in the form that ArviZ reads."""

from __future__ import annotations

import xarray as xr

from tsgen.argument_types import check_arguments


@check_arguments
def to_datatree(draws: xr.DataArray) -> xr.DataTree:
    """Returns draws as a tree with the groups ``posterior_predictive`` and ``observed_data``.

    Both groups have a variable ``value``. That of the draws has the dimensions chain, of size 1, and draw
    before those of the data; that of the data is NaN where nothing was measured. ArviZ reads such a tree.

    Args:
        draws: The draws of :meth:`tsgen.Imputer.sample`: an array with the dimension ``sample`` and the
            coordinate ``observed``.

    Raises:
        ValueError: If there is no such dimension or coordinate.

    Example:
        >>> import numpy as np
        >>> draws = xr.DataArray(np.zeros((5, 3, 2)), dims=("sample", "time", "node"))
        >>> tree = to_datatree(draws.assign_coords(observed=(("time", "node"), np.eye(3, 2) == 1)))
        >>> dict(tree["posterior_predictive"].sizes)
        {'chain': 1, 'draw': 5, 'time': 3, 'node': 2}
        >>> int(tree["observed_data"]["value"].count())
        2
    """
    if "sample" not in draws.dims or "observed" not in draws.coords:
        raise ValueError(
            "draws must have the dimension sample and the coordinate observed, as Imputer.sample returns "
            f"them; they have the dimensions {', '.join(map(str, draws.dims))}."
        )
    measured = draws.isel(sample=0, drop=True).where(draws["observed"]).drop_vars("observed")
    values = draws.drop_vars(["observed", "sample"], errors="ignore").rename(sample="draw")
    values = values.expand_dims(chain=[0]).assign_coords(draw=range(draws.sizes["sample"]))
    groups = {"posterior_predictive": values, "observed_data": measured}
    return xr.DataTree.from_dict({name: x.to_dataset(name="value") for name, x in groups.items()})
