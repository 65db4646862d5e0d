"""What modelplane answers itself is what a real Prometheus answers.

Random expressions of the subset over random counters, evaluated by modelplane's ring; promtool
evaluates them too and says where it differs.
"""

from __future__ import annotations

import random
import re
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from modelplane.adapters.metrics.querying import RingQuerier
from modelplane.adapters.metrics.series import MemorySeriesRing
from modelplane.decisions.promql_functions import AGGREGATIONS, OVER_TIME
from modelplane.decisions.series import Sample
from modelplane.ports.alerting import QueryRefused
from tests.prometheus_server import PROMTOOL, require_prometheus

NAMES = ("modelplane_requests_total", "modelplane_request_failures_total")
SECONDS = 120
EXPRESSIONS = 150
START = datetime(1970, 1, 1, tzinfo=UTC)
# Between two points: whether a range takes in its first moment changed with Prometheus 3.
AT = timedelta(seconds=110, milliseconds=500)

_DIFFERENCE = re.compile(r'expr: "(.*)", time: .*\n\s+exp: (.*)\n\s+got: (.*)')
_ELEMENT = re.compile(r"(\S*\{[^}]*\}) (\S+?),?(?= |$)")
Series = dict[tuple[str, tuple[tuple[str, str], ...]], list[int]]


def make_series(choose: random.Random) -> Series:
    series: Series = {}
    for name in NAMES:
        for labels in [(d, v) for d in "xy" for v in "123" if choose.random() < 0.7]:
            total, values = 0, []
            for _ in range(SECONDS + 1):
                total = 0 if choose.random() < 0.03 else total + choose.choice([0, 0, 1, 2, 5])
                values.append(total)
            series[name, (("deployment", labels[0]), ("version", labels[1]))] = values
    return series


def make_expression(choose: random.Random, depth: int) -> str:
    kind = choose.random()
    matchers = ["", '{deployment="x"}', '{version!="2"}', '{version=~"1|3"}', '{version!~"x"}']
    if depth <= 0 or kind < 0.15:
        return f"{choose.choice(NAMES)}{choose.choice(matchers)}{choose.choice(['', ' offset 7s'])}"
    if kind < 0.4:
        range_s, offset = choose.choice([3, 10, 30, 60]), choose.choice(["", " offset 5s"])
        return f"{choose.choice(sorted(OVER_TIME))}({choose.choice(NAMES)}[{range_s}s]{offset})"
    inner = make_expression(choose, depth - 1)
    if kind < 0.6:
        by = choose.choice(["", "by (deployment)", "without (version)", "by (version, deployment)"])
        return f"{choose.choice(sorted(AGGREGATIONS))} {by} ({inner})"
    if kind < 0.7:
        forms = ["abs(-({0}))", "clamp_min({0}, 3)", "clamp_max({0}, 3)", "-({0})", "absent({0})"]
        return choose.choice(forms).format(inner)
    if kind < 0.85:
        signs = ["+", "-", "*", "/", "%", ">", "<", "==", "!=", ">=", "<=", "> bool", "== bool"]
        return f"({inner}) {choose.choice(signs)} {choose.choice(['2', '3.5', '0'])}"
    signs = [
        *("and", "or", "unless", "+", "/", ">", "> bool", "and on (version)"),
        *("- on (version, deployment)", "unless ignoring (version)", "or on (deployment)"),
    ]
    return f"({inner}) {choose.choice(signs)} ({make_expression(choose, depth - 1)})"


def shown(name: str, labels: dict[str, str]) -> str:
    return name + "{" + ",".join(f'{key}="{value}"' for key, value in labels.items()) + "}"


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_answers_are_those_of_prometheus(seed: int, tmp_path: Path) -> None:
    require_prometheus()
    choose = random.Random(seed)
    series = make_series(choose)
    ring = MemorySeriesRing()
    for second in range(SECONDS + 1):
        one_set = [Sample(n, dict(labels), v[second]) for (n, labels), v in series.items()]
        ring.record(START + timedelta(seconds=second), one_set)
    querier = RingQuerier(ring)
    asked: list[dict[str, Any]] = []
    while len(asked) < EXPRESSIONS:
        expression = make_expression(choose, 3)
        answer = querier.query_at(expression, START + AT)
        if isinstance(answer, QueryRefused):
            assert "pair with one" in answer.message or "differ in nothing" in answer.message
            continue
        expected = [
            {
                "labels": shown(
                    one.labels.get("__name__", ""),
                    {k: v for k, v in one.labels.items() if k != "__name__"},
                ),
                "value": one.value,
            }
            for one in answer
        ]
        asked.append({"expr": expression, "eval_time": "1m50s500ms", "exp_samples": expected})
    given = [
        {"series": shown(name, dict(labels)), "values": " ".join(map(str, values))}
        for (name, labels), values in series.items()
    ]
    test = {"interval": "1s", "input_series": given, "promql_expr_test": asked}
    file = tmp_path / "test.yml"
    with file.open("w") as stream:
        YAML(typ="safe", pure=True).dump({"evaluation_interval": "1s", "tests": [test]}, stream)
    done = subprocess.run(
        [str(PROMTOOL), "test", "rules", str(file)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    said = done.stdout + done.stderr
    differences = _DIFFERENCE.findall(said)
    assert done.returncode == 0 or differences, said
    for expression, ours, theirs in differences:
        # Sums in another order differ in their last digit, and promtool forgives nothing.
        mine, others = dict(_ELEMENT.findall(ours)), dict(_ELEMENT.findall(theirs))
        assert mine.keys() == others.keys(), expression
        for labels, value in mine.items():
            theirs_too = pytest.approx(float(others[labels]), rel=1e-9, nan_ok=True)
            assert float(value) == theirs_too, expression
