"""A suite of behavioural tests of a tumour classifier, cut into cases: run by a `command` stage.

Each case shifts one measurement of real data by growing noise and asks that most predictions stay
what they were: usual robustness testing, and real work for the processor. It runs in the working
directory of the stage: ``python suite.py MODEL CASE…``.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import skops.io
from sklearn.datasets import load_breast_cancer

LEAST_SAME = 0.8
"""Share of predictions that must stay."""


def check(model: object, case: str) -> float:
    """Return the share of predictions that one measurement's noise does not change."""
    feature, _, level = case.rpartition("/")
    frame = load_breast_cancer(as_frame=True).data
    random = np.random.default_rng(0)
    truth = model.predict(frame)  # type: ignore[attr-defined]
    same = []
    for _ in range(50 * int(level)):
        shifted = frame.copy()
        noise = random.normal(0, 0.1 * int(level), len(frame))
        shifted[feature] += shifted[feature].std() * noise
        same.append((model.predict(shifted) == truth).mean())  # type: ignore[attr-defined]
    return float(np.mean(same))


def main() -> int:
    """Run the cases named on the command line and write a JUnit report."""
    (file,) = Path(sys.argv[1]).glob("*.skops")
    model = skops.io.load(file, trusted=skops.io.get_untrusted_types(file=file))
    suite = ElementTree.Element("testsuite", name="behaviour")
    failed = 0
    for case in sys.argv[2:]:
        started = time.perf_counter()
        share = check(model, case)
        seconds = time.perf_counter() - started
        element = ElementTree.SubElement(suite, "testcase", name=case, time=f"{seconds:.3f}")
        if share < LEAST_SAME:
            failed += 1
            ElementTree.SubElement(element, "failure", message=f"only {share:.3f} stay the same")
    ElementTree.ElementTree(suite).write("report.xml")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
