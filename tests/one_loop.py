"""The loop in which a quick test suffices; the slow tests repeat it in the others."""

import pytest

ONE_LOOP = [
    "fit_plain",
    *(pytest.param(loop, marks=pytest.mark.slow) for loop in ("fit", "fit_hf")),
]
