"""The examples of README run, and it names what is shipped."""

import re
from pathlib import Path

import numpy as np
import pandas as pd

from tsgen.cli.configs import shipped

README = (Path(__file__).parents[1] / "README.md").read_text("utf-8")


def test_the_python_of_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = [b for b in re.findall(r"```python\n(.*?)```", README, re.S) if "open_dataset" not in b]
    times = pd.date_range("2024-01-01", periods=40, freq="h")
    values = np.random.default_rng(0).normal(size=(40, 3)).cumsum(axis=0)
    frame = pd.DataFrame(values, index=times, columns=["north", "south", "west"])
    frame.iloc[7:12, 1] = np.nan
    names: dict = {"df": frame}
    for code in blocks[:1]:
        exec(compile(code, "README.md", "exec"), names)
    assert np.isfinite(names["filled"]).all(axis=None) and (names["lower"] <= names["upper"]).all(axis=None)
    seen = frame.notna().to_numpy()
    assert names["filled"].to_numpy()[seen].tobytes() == frame.to_numpy()[seen].tobytes()
    for code in blocks[1:]:
        exec(compile(code, "README.md", "exec"), names)
    assert names["samples"].values.shape[1:] == names["batch"].values.shape == names["law"].batch_shape
    series, (holes, ahead, anew) = (
        names["series"],
        (names[n]["imputation"] for n in ("holes", "ahead", "anew")),
    )
    assert holes.shape == (20, *series.values.shape) and ahead.shape == (20, 6, *series.values.shape[1:])
    assert anew.sizes["time"] == 48 and names["filled"].values.shape[1:] == names["batch"].values.shape
    assert names["median"].dims == ("time", "channel") and np.isfinite(names["median"]).all()


def test_the_readme_names_what_is_shipped():
    for name in shipped():
        assert f"`{name}`" in README
    for path in re.findall(r"\]\(((?!http|#)[^)]+)\)", README):
        assert (Path(__file__).parents[1] / path).exists(), path
