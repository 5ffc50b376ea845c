"""Odd values anywhere in a config: one line and exit status 2 or 1, or a run that works."""

import math
import os
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

CONFIG = yaml.safe_load((Path(__file__).parent.parent / "configs/debug.yaml").read_text())
EXAMPLES = int(os.environ.get("LITPOOL_FUZZ_EXAMPLES", "1000"))

ODD = st.one_of(
    st.sampled_from([None, True, False, math.nan, math.inf, -math.inf, 1e308, -1e-9, 1e-320]),
    st.sampled_from([0, -1, 1, 2, 3, 10**9, 2**31, 2**63, 10**30, "", " ", "a\0b", "null", "1e3"]),
    st.sampled_from(["x" * 5000, "../..", "/", "~", "한국어", "{", "[", "a: b", "os.system", "-1"]),
    st.sampled_from([[], {}, [1, 2], [[]], [None], {"a": 1}, {"": None}, {"class_path": "X"}]),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.lists(st.integers(-2, 2), max_size=3),
)


def keys(value, prefix=()):
    """Every section and every leaf of a config."""
    for name, item in value.items():
        yield (*prefix, name)
        if isinstance(item, dict):
            yield from keys(item, (*prefix, name))


def hangs(place, value):
    """Whether a value asks for a run of hours or for more memory than there is; it would work."""
    sizes = ("hidden_size", "num_hidden_layers", "intermediate_size", "num_attention_heads")
    long = place[-1] in (*sizes, "max_epochs", "overrides")
    return long and ((isinstance(value, float | int) and abs(value) > 100) or value is None)


def mutated(place, value):
    """The config with another value in one place; fast_dev_run trains a single batch."""
    config = yaml.safe_load(yaml.safe_dump(CONFIG))
    config["data"] |= {"source": "rows.csv", "max_length": 20}
    config["trainer"] |= {"fast_dev_run": True}
    *parents, last = place
    section = config
    for parent in parents:
        section = section[parent]
    section[last] = value
    return config


CASES = st.tuples(st.sampled_from([*keys(CONFIG)]), ODD).filter(lambda case: not hangs(*case))


@pytest.fixture
def try_config(cli, tmp_path):
    """A function that runs `fit` with a config; it must work, or fail in one line."""
    (tmp_path / "rows.csv").write_text("text,label\n" + "a good film,pos\na bad film,neg\n" * 15)

    def run(case):
        text = yaml.safe_dump(mutated(*case), allow_unicode=True)
        (tmp_path / "job.yaml").write_text(text, encoding="utf-8")
        status, out, err = cli("fit", "--config", "job.yaml")
        assert status in (0, 1, 2), out + err
        if status:
            assert sum(line.startswith("error: ") for line in err.splitlines()) == 1, err
        assert "Traceback" not in err

    return run


UNBOUNDED = {"deadline": None, "suppress_health_check": list(HealthCheck)}


@pytest.mark.filterwarnings("ignore::UserWarning")  # a warning is a good answer to an odd value
@settings(max_examples=40, derandomize=True, database=None, **UNBOUNDED)
@given(case=CASES)
@example(case=(("model", "encoder", "name"), "x" * 5000))  # cannot be a path
@example(case=(("data", "batch_size"), 2**57))  # times another number, too large for 64 bits
def test_an_odd_value_is_refused_in_one_line_or_works(try_config, case):
    try_config(case)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(max_examples=EXAMPLES, database=None, **UNBOUNDED)
@given(case=CASES)
def test_many_odd_values_are_refused_in_one_line_or_work(try_config, case):
    try_config(case)
