"""Whether a version was reproduced: predictions decide, and what is otherwise is said."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelplane.decisions.reproduction import (
    Finding,
    Outcome,
    Step,
    agree,
    compare_artifacts,
    compare_environments,
    compare_metrics,
    compare_parameters,
    compare_predictions,
    judge,
    settle_data,
)
from modelplane.decisions.reproduction_command import (
    HIDDEN,
    RecordedCommand,
    hide_secrets,
    read_command,
)
from modelplane.resources.dataset import DatasetReference
from modelplane.resources.model import Training

STEPS: list[Step] = [
    "code", "data", "environment", "command", "artifact", "parameters", "metrics", "predictions",
]  # fmt: skip
OUTCOMES: list[Outcome] = ["match", "differs", "not reproducible"]
FINDINGS = st.lists(
    st.builds(Finding, st.sampled_from(STEPS), st.sampled_from(OUTCOMES), st.just("why")),
    unique_by=lambda finding: finding.step,
)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False, width=64)
TOLERANCES = st.floats(min_value=0, max_value=1)


def answer(*values: Any, shape: list[int] | None = None, name: str = "y") -> dict[str, Any]:
    output = {"name": name, "datatype": "FP64", "shape": shape or [len(values)], "data": values}
    return {"outputs": [{**output, "data": list(values)}]}


@given(FINDINGS)
def test_nothing_but_matching_predictions_is_a_reproduction(findings: list[Finding]) -> None:
    verdict = judge(findings)
    by_step = {finding.step: finding.outcome for finding in findings}
    assert verdict.reproduced == (by_step.get("predictions") == "match")
    assert (verdict.result == "reproduced") == (
        by_step.get("predictions") == by_step.get("artifact") == "match"
    )


@given(FINDINGS)
def test_whatever_is_not_as_recorded_is_said(findings: list[Finding]) -> None:
    verdict = judge(findings)
    for finding in findings:
        said = any(reason.startswith(f"{finding.step}: ") for reason in verdict.reasons)
        # Other bytes are in the result's own words.
        told = verdict.result == "reproduced with other bytes" and finding.step == "artifact"
        assert said == (finding.outcome != "match" and not told)
    assert verdict.reasons or verdict.reproduced


def test_a_verdict_in_words() -> None:
    data = Finding("data", "differs", "other rows")
    same = [Finding("artifact", "match", "-"), Finding("predictions", "match", "-")]
    assert str(judge(same)) == "reproduced"
    assert str(judge([data, *same])) == "reproduced, although data: other rows"
    assert str(judge([data])) == "not reproduced: data: other rows"
    assert str(judge([])) == "not reproduced: predictions: they were not compared"


@given(recorded=NUMBERS, found=NUMBERS, tolerance=TOLERANCES, more=TOLERANCES)
def test_a_larger_tolerance_never_tells_more_apart(
    recorded: float, found: float, tolerance: float, more: float
) -> None:
    assert agree(recorded, recorded, 0)
    if agree(recorded, found, tolerance):
        assert agree(recorded, found, tolerance + more)


@pytest.mark.parametrize(
    ("recorded", "found", "same"),
    [
        (math.nan, math.nan, True),
        (math.nan, 1.0, False),
        (math.inf, math.inf, True),
        (math.inf, -math.inf, False),
        (math.inf, 1e308, False),
        (0.0, 1e-6, True),
        (0.0, 2e-6, False),
        (1e6, 1e6 + 1, True),
        (1e6, 1e6 + 2, False),
    ],
)
def test_numbers_agree_absolutely_below_one_and_relatively_above(
    recorded: float, found: float, same: bool
) -> None:
    assert agree(recorded, found, 1e-6) is same


@given(st.lists(NUMBERS, min_size=1), st.data())
def test_one_number_that_is_too_far_off_is_found_and_measured(
    values: list[float], data: st.DataObject
) -> None:
    place = data.draw(st.integers(0, len(values) - 1))
    apart = data.draw(st.floats(min_value=0.01, max_value=1e6))
    other = list(values)
    other[place] += apart * max(1.0, abs(values[place]))
    same = compare_predictions([answer(*values)], [answer(*values)], 1e-6)
    assert same.outcome == "match"
    assert same.details["maxAbsolute"] == 0
    changed = compare_predictions([answer(*values)], [answer(*other)], 1e-6)
    assert changed.outcome == "differs"
    assert changed.details["differing"] == 1
    if math.isfinite(other[place]):
        assert changed.details["maxAbsolute"] == abs(other[place] - values[place])


@pytest.mark.parametrize(
    ("recorded", "found", "said"),
    [
        ([answer(1.0)], [], "0 answers, recorded 1"),
        ([answer(1.0)], [answer(1.0, name="z")], "only the recorded version gives the output 'y'"),
        ([answer(1.0)], [{"outputs": []}], "only the recorded version"),
        ([answer(1.0, 2.0)], [answer(1.0, 2.0, shape=[2, 1])], "the shape [2, 1], recorded [2]"),
        ([answer(1.0)], [answer(None)], "1 of 1 value differ"),
        ([answer("spam")], [answer("ham")], "1 of 1 value differ"),
        ([answer(True)], [answer(False)], "1 of 1 value differ"),
    ],
)
def test_answers_that_cannot_be_the_same_differ(
    recorded: list[dict[str, Any]], found: list[dict[str, Any]], said: str
) -> None:
    finding = compare_predictions(recorded, found, 1e-6)
    assert finding.outcome == "differs"
    assert said in finding.message


def test_missing_values_text_and_nested_data_are_compared_as_they_are() -> None:
    flat = answer(1.0, None, "a", True, shape=[2, 2])
    nested = {"outputs": [{"name": "y", "shape": [2, 2], "data": [[1.0, None], ["a", True]]}]}
    finding = compare_predictions([flat], [nested], 0)
    assert (finding.outcome, finding.details["values"]) == ("match", 4)


def test_answers_without_values_show_nothing() -> None:
    empty = {"outputs": [{"name": "y", "shape": [0], "data": []}]}
    assert compare_predictions([empty], [empty], 0).outcome == "not reproducible"


def test_metrics_and_parameters_are_compared_by_name() -> None:
    same = compare_metrics({"auc": 0.9}, {"auc": 0.9 + 1e-9}, 1e-6)
    assert same is not None
    assert same.outcome == "match"
    other = compare_metrics({"auc": 0.9, "f1": 0.5}, {"auc": 0.8}, 1e-6)
    assert other is not None
    assert other.message == "auc 0.8, recorded 0.9; f1 none, recorded 0.5"
    assert compare_metrics({}, {}, 1e-6) is None
    depth = compare_parameters({"depth": "3"}, {"depth": "4", "seed": "1"})
    assert depth is not None
    assert depth.message == "depth 4, recorded 3; seed 1, recorded none"
    assert compare_parameters({}, {}) is None


def test_a_version_without_files_has_nothing_to_compare_with() -> None:
    assert compare_artifacts(None, "sha256:ab").outcome == "not reproducible"
    assert compare_artifacts("sha256:ab", "sha256:ab").outcome == "match"
    assert compare_artifacts("sha256:cd", "sha256:ab").outcome == "differs"


def test_what_the_run_read_counts_more_than_what_lay_there() -> None:
    recorded = [DatasetReference(name=name, digest="sha256:1") for name in ("a", "b", "c", "d/e")]
    found = [
        DatasetReference(name="a", digest="sha256:1"),
        DatasetReference(name="b", digest="sha256:2"),
        DatasetReference(name="c"),
        DatasetReference(name="d/e", digest="sha256:1"),
    ]
    before = [
        Finding("data", "not reproducible", "a was in memory"),
        Finding("data", "match", "b was there"),
        Finding("data", "match", "c was there"),
        Finding("data", "match", "d was there"),
    ]
    after = settle_data(before, recorded, found)
    assert [finding.outcome for finding in after] == ["match", "differs", "match", "match"]
    assert "read other data" in after[1].message
    assert after[2:] == tuple(before[2:])


def test_environments_differ_by_what_was_recorded_alone() -> None:
    training = Training(python="3.11.7", packages={"Scikit_Learn": "1.6.1", "numpy": "2.0.0"})
    have = {"scikit-learn": "1.6.1", "numpy": "2.0.0", "pytest": "9.0"}
    assert compare_environments(training, "3.11.7", have).outcome == "match"
    other = compare_environments(training, "3.12.1", {"numpy": "2.1.0"})
    assert other.outcome == "differs"
    assert other.message == (
        "Python 3.12.1, recorded 3.11.7; Scikit_Learn missing, recorded 1.6.1; "
        "numpy 2.1.0, recorded 2.0.0"
    )
    assert compare_environments(Training(), "3.11.7", have).outcome == "not reproducible"


@pytest.mark.parametrize(
    ("recorded", "said"),
    [
        ("unknown", "no command was recorded"),
        ("", "no command was recorded"),
        ("''", "no command was recorded"),
        ("python -", "Python's prompt"),
        ("python", "Python's prompt"),
        ("/usr/bin/python3.11", "Python's prompt"),
        ("python 'half", "cannot be read"),
        ("python -m ipykernel_launcher -f /tmp/k.json", "notebook"),
        ("python " + 4000 * "x", "recorded cut"),
        ("python t.py --token '***'", "--secret token=VARIABLE"),
        ("python t.py '--db-password=***'", "--secret db-password=VARIABLE"),
    ],
)
def test_a_command_that_cannot_be_run_again_says_why(recorded: str, said: str) -> None:
    assert said in str(read_command(recorded, {"unrelated": "x"}))


@given(st.text(st.characters(exclude_characters="<>"), min_size=1), st.booleans())
def test_secrets_are_filled_in_and_never_shown(secret: str, joined: bool) -> None:
    recorded = f"python t.py '--api-key={HIDDEN}'" if joined else f"python t.py --api_key {HIDDEN}"
    command = read_command(recorded, {"--API-key": secret})
    assert isinstance(command, RecordedCommand)
    assert command.words[-1] == (f"--api-key={secret}" if joined else secret)
    assert command.shown == recorded
    assert hide_secrets(f"<{secret}>", command.secrets) == f"<{HIDDEN}>"


def test_of_a_secret_that_begins_with_another_nothing_is_left_over() -> None:
    assert hide_secrets("token abcdef, short abc", ("abc", "abcdef")) == "token ***, short ***"


@pytest.mark.parametrize(
    ("recorded", "script"),
    [
        ("python train.py --rows 5", "train.py"),
        ("/venv/bin/python3.11 -u -W error /src/train.py", "/src/train.py"),
        ("python -m team.train", None),
        ("python -c 'print()' x.py", None),
        ("bash train.sh", None),
    ],
)
def test_the_script_of_a_python_command_is_found(recorded: str, script: str | None) -> None:
    command = read_command(recorded, {})
    assert isinstance(command, RecordedCommand)
    found = None if command.script is None else command.words[command.script]
    assert found == script
