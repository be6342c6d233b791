"""Times, ids and JSON in requests: what is taken, and the words for what is not."""

import json
import math
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from kernelsvc.models.fields import Bounds, iso, parse_duration
from kernelsvc.models.limits import HIGHEST_LIMITS, Limits
from kernelsvc.models.run import RunRequest
from kernelsvc.models.session import CreateSession, PatchSession

BOUNDS = Bounds(max_timeout=60, max_data_bytes=1024, max_limits=HIGHEST_LIMITS)

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=5,
)


@pytest.mark.parametrize(
    ("given", "seconds"),
    [(1, 1), (0.25, 0.25), ("1s", 1), ("90s", 90), ("5m", 300), ("1.5h", 5400), ("2d", 172_800),
     ("never", math.inf), (1e300, 1e300)],
)  # fmt: skip
def test_a_duration_is_seconds_a_number_with_a_unit_or_never(given, seconds):
    assert parse_duration(given) == seconds


@pytest.mark.parametrize(
    "given",
    [0, -1, 0.0, -0.0, math.nan, math.inf, -math.inf, True, False, None, "", "5", "0s", "-5m",
     "5 m", " 5m", "5m ", "5m\n", "m", "5x", "5M", "1h30m", "NEVER", "inf", "1e3s", "٣s", ".5s",
     [], {}, [5], b"5m", 10**400, -(10**400)],
)  # fmt: skip
def test_anything_else_is_no_duration(given):
    with pytest.raises(ValueError, match='duration such as "5m"'):
        parse_duration(given)


@settings(deadline=None, max_examples=200)
@given(anything)
def test_a_duration_is_positive_or_a_value_error(value):
    try:
        assert parse_duration(value) > 0
    except ValueError:
        return


@settings(deadline=None, max_examples=200)
@given(anything)
def test_a_timeout_is_within_the_bounds_or_is_refused(value):
    try:
        request = RunRequest.model_validate({"code": "1", "timeout": value}, context=BOUNDS)
    except ValidationError:
        return
    assert request.timeout is None or 0 < request.timeout <= 60


@settings(deadline=None, max_examples=100)
@given(st.dictionaries(st.sampled_from([*CreateSession.model_fields, "x"]), anything))
def test_a_session_request_is_valid_or_a_validation_error(body):
    for model in (CreateSession, PatchSession):
        try:
            taken = model.model_validate(body, context=BOUNDS)
        except ValidationError:
            continue
        json.dumps(taken.model_dump(mode="json"), allow_nan=False)


def test_only_fields_that_were_given_change_and_null_clears():
    def changes(**fields):
        return PatchSession.model_validate(fields).changes(internet_by_default=False)

    assert changes() == {}
    assert changes(default_timeout=5, allowInternetAccess=True) == {
        "default_timeout": 5,
        "allow_internet_access": True,
    }
    assert changes(
        default_timeout=None, sleep_after=None, on_timeout=None, data=None, metadata=None
    ) == {
        "default_timeout": None,
        "sleep_after": None,
        "on_timeout": "restart",
        "data": {},
        "metadata": {},
    }


def test_a_time_is_utc_to_the_millisecond_ending_in_z():
    time = datetime(2026, 1, 2, 3, 4, 5, 678_999, tzinfo=UTC)
    assert iso(time) == "2026-01-02T03:04:05.678Z"
    assert iso(time.astimezone(timezone(timedelta(hours=-5)))) == "2026-01-02T03:04:05.678Z"
    assert iso(datetime(2026, 1, 2, tzinfo=UTC)) == "2026-01-02T00:00:00.000Z"


def test_a_whole_number_is_whole_however_json_writes_it():
    assert Limits(memory=64.0, processes=2.0) == Limits(memory=64, processes=2)
    for wrong in ({"memory": 64.5}, {"processes": 2.5}, {"processes": float("inf")}):
        with pytest.raises(ValidationError):
            Limits(**wrong)
