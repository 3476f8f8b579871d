"""What README shows works as it stands."""

import re
from pathlib import Path

from experiments.configs import shipped

README = (Path(__file__).parents[1] / "README.md").read_text("utf-8")


def test_the_python_of_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", README, re.S) if "Trainer" in block]
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["samples"].values.shape[1:] == names["batch"].values.shape == names["law"].batch_shape


def test_the_readme_names_what_is_shipped():
    for name in shipped():
        assert f"`{name}`" in README
    for path in re.findall(r"\]\(((?!http|#)[^)]+)\)", README):
        assert (Path(__file__).parents[1] / path).exists(), path
