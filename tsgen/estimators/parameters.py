"""Parameters as scikit-learn's conventions have them, without the need to install it.

The constructor stores its arguments and checks nothing; ``fit`` checks them. ``clone``, pipelines and
searches over parameters work with any object that has these methods.
"""

from __future__ import annotations

import inspect
import sys
from numbers import Real
from typing import Any, Literal

import numpy as np

from tsgen.argument_types import check_arguments

NUMBERS = (int, float, np.integer, np.floating)
"""Types of numbers."""


@check_arguments
class Parameters:
    """The base class of estimators: its parameters are the arguments of its constructor."""

    @classmethod
    def _names(cls) -> list[str]:
        return [name for name in inspect.signature(cls.__init__).parameters if name != "self"]

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Returns the parameters by name.

        Args:
            deep: Not used: no parameter is an estimator.
        """
        return {name: getattr(self, name) for name in self._names()}

    def set_params(self, **params: Any) -> Parameters:
        """Sets parameters by name, for the next call of ``fit``, and returns the estimator.

        Args:
            params: The parameters.

        Raises:
            ValueError: If there is no parameter of a name.
        """
        known = self._names()
        for name in params:
            if name not in known:
                raise ValueError(
                    f"the parameters of {type(self).__name__} must be among {', '.join(known)}; got {name!r}."
                )
        vars(self).update(params)
        return self

    def __repr__(self) -> str:
        defaults = inspect.signature(type(self).__init__).parameters
        changed = {n: x for n, x in self.get_params().items() if x is not defaults[n].default}
        shown = (f"{n}={x!r}" if isinstance(x, str | Real) else f"{n}=..." for n, x in changed.items())
        return f"{type(self).__name__}({', '.join(shown)})"

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "model_")

    def __sklearn_tags__(self) -> Any:
        # only scikit-learn calls it
        from sklearn.utils import InputTags, Tags, TargetTags, TransformerTags

        transformer = TransformerTags(preserves_dtype=["float64", "float32"])
        return Tags(
            estimator_type="transformer" if hasattr(self, "transform") else None,
            target_tags=TargetTags(required=False),
            transformer_tags=transformer if hasattr(self, "transform") else None,
            input_tags=InputTags(allow_nan=True),
        )


def not_fitted(name: str) -> ValueError:
    """Returns the error of an estimator that must be fitted first; scikit-learn's own, if that is in use.

    Args:
        name: The class of the estimator.
    """
    text = f"the {name} must be fitted first; call fit(data)."
    exceptions = sys.modules.get("sklearn.exceptions")
    return ValueError(text) if exceptions is None else exceptions.NotFittedError(text)


def check_number(name: str, value: Any, least: int) -> None:
    """Raises ``ValueError`` unless a parameter is a whole number that is large enough.

    Args:
        name: The parameter.
        value: Its value.
        least: The smallest value.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not least <= value < 2**63:
        raise ValueError(f"{name} must be a whole number, at least {least}; it is {value!r:.60}.")


def check_minutes(minutes: Any) -> None:
    """Raises ``ValueError`` unless a time for training is 0 or more, and finite.

    Args:
        minutes: The time in minutes.
    """
    if isinstance(minutes, bool) or not isinstance(minutes, NUMBERS) or not 0 <= minutes < float("inf"):
        raise ValueError(f"minutes must be a number, 0 or more, and finite; it is {minutes!r:.60}.")


Container = Literal["default", "pandas", "polars"]
"""The kind of data frame that ``transform`` returns; ``default`` is the kind that came."""


def container(estimator: Any) -> str:
    """Returns the kind of data frame that an estimator's ``transform`` returns.

    Args:
        estimator: The estimator.
    """
    own = getattr(estimator, "_sklearn_output_config", {}).get("transform")
    sklearn = sys.modules.get("sklearn")
    return own or ("default" if sklearn is None else sklearn.get_config()["transform_output"])
