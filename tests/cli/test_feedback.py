"""``feedback import`` and ``predictions …`` as people type them."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas
import pytest

from modelplane.client.label_files import BATCH_ROWS
from modelplane.errors import FieldError, InvalidResource
from tests.cli.conftest import Run
from tests.cli.fakes import NOW, FakeClient


class Telling(FakeClient):
    """Remembers labels, refuses text where 0 or 1 is meant, and has two predictions."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[dict[str, Any]] = []
        self.batches: list[int] = []
        self.window: tuple[datetime, datetime] | None = None

    def send_feedback(
        self, deployment: str, labels: Sequence[Mapping[str, Any]], environment: str = ""
    ) -> dict[str, Any]:
        assert (deployment, environment) == ("fraud", "production")
        bad = [n for n, label in enumerate(labels) if isinstance(label.get("label"), str)]
        if len(bad) == len(labels):
            fields = [FieldError(f"labels[{n}].label", "must be 0 or 1") for n in bad]
            raise InvalidResource("no label is valid; nothing was kept", fields)
        self.told += [dict(label) for n, label in enumerate(labels) if n not in bad]
        self.batches.append(len(labels))
        faults = [{"path": f"labels[{n}].label", "message": "must be 0 or 1"} for n in bad]
        return {"fates": {"joined": len(labels) - len(bad), "invalid": len(bad)}, "faults": faults}

    def count_predictions(
        self, deployment: str, environment: str = "", *, seconds: int = 0
    ) -> dict[str, Any]:
        place = {"version": "2.0.0", "revision": "bbbb", "rule": "", "mirrored": True}
        counts = {"predictions": 12000, "dropped": 3, "labelled": 900, "rewarded": 0}
        tally = {**place, **counts, "due": 1000, "dueLabelled": 850}
        return {"seconds": seconds, "isLogged": False, "places": [tally], "totals": []}

    def predictions(
        self, deployment: str, environment: str = "", *, since: datetime, until: datetime
    ) -> Iterator[dict[str, Any]]:
        self.window = (since, until)
        row = {"requestId": "r-1", "version": "1.0.0", "at": "2025-03-01T11:00:00+00:00"}
        yield {**row, "row": 0, "predicted": 1, "inputs": {"x": 1, "who": "ann"}, "label": 0}
        yield {**row, "row": 1, "predicted": 0, "inputs": {"x": 2.5, "odd": [1]}, "parts": ["a=b"]}


@pytest.fixture
def client() -> Telling:
    return Telling()


def test_a_csv_is_read_as_what_it_says(run: Run, client: Telling, tmp_path: Path) -> None:
    file = tmp_path / "outcomes.csv"
    file.write_text("request_id,row,label,reward,at\nr-1,0,1,,2025-03-01 10:00:00\n7,,0,2.5,\n")
    result = run("feedback", "import", str(file), "-d", "fraud")
    assert (result.exit_code, result.stdout) == (0, f"2 labels of {file}: 2 joined\n")
    assert client.told == [
        {"requestId": "r-1", "row": 0, "label": 1, "at": "2025-03-01T10:00:00+00:00"},
        {"requestId": "7", "label": 0, "reward": 2.5},
    ]


def test_parquet_comes_in_batches_by_the_columns_one_names(
    run: Run, client: Telling, tmp_path: Path
) -> None:
    file, rows = tmp_path / "sales.parquet", BATCH_ROWS + 5
    frame = {"order": range(rows), "revenue": [float(n) for n in range(rows)], "label": None}
    pandas.DataFrame(frame).to_parquet(file)
    words = ("--deployment", "fraud", "--key", "order", "--reward", "revenue", "-o", "json")
    result = run("feedback", "import", str(file), *words)
    assert result.exit_code == 0
    assert json.loads(result.stdout) == {"labels": rows, "fates": {"joined": rows}, "faults": []}
    assert client.told[-1] == {"key": str(rows - 1), "reward": float(rows - 1)}
    assert client.batches == [BATCH_ROWS, 5]


def test_refused_rows_are_named_and_the_exit_code_says_so(
    run: Run, client: Telling, tmp_path: Path
) -> None:
    file = tmp_path / "outcomes.csv"
    lines = [f"r-{n},{'maybe' if n == BATCH_ROWS + 2 else n % 2}" for n in range(BATCH_ROWS + 9)]
    file.write_text("\n".join(["request_id,label", *lines]))
    result = run("feedback", "import", str(file), "-d", "fraud")
    assert result.exit_code == 1
    assert f"row {BATCH_ROWS + 3}: label: must be 0 or 1" in result.stderr
    assert len(client.told) == BATCH_ROWS + 8


def test_a_batch_with_no_valid_label_keeps_no_other_back(
    run: Run, client: Telling, tmp_path: Path
) -> None:
    file = tmp_path / "outcomes.csv"
    lines = [f"r-{n},{'maybe' if n < BATCH_ROWS else 1}" for n in range(BATCH_ROWS + 3)]
    file.write_text("\n".join(["request_id,label", *lines]))
    result = run("feedback", "import", str(file), "-d", "fraud")
    assert result.exit_code == 1
    assert f"{BATCH_ROWS:,} invalid" in result.stdout
    assert "row 1: label: must be 0 or 1" in result.stderr
    assert len(client.told) == 3


def test_rows_that_parquet_holds_with_gaps_are_whole_numbers(
    run: Run, client: Telling, tmp_path: Path
) -> None:
    file = tmp_path / "outcomes.parquet"
    frame = {"request_id": ["a", "b"], "row": [2.0, None], "label": [1, 0]}
    pandas.DataFrame(frame).to_parquet(file)
    assert run("feedback", "import", str(file), "-d", "fraud").exit_code == 0
    assert [label.get("row") for label in client.told] == [2, None]
    assert type(client.told[0]["row"]) is int


def test_parquet_that_is_damaged_within_is_told_in_words(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "outcomes.parquet"
    names = [f"request-{n}" for n in range(5000)]
    pandas.DataFrame({"request_id": names, "label": 1}).to_parquet(file, compression="snappy")
    content = bytearray(file.read_bytes())
    content[40:4000] = b"\xff" * 3960
    file.write_bytes(content)
    result = run("feedback", "import", str(file), "-d", "fraud")
    assert result.exit_code == 2
    assert "cannot be read as Parquet" in result.stderr


@pytest.mark.parametrize(
    ("content", "words", "message"),
    [
        ("a,b\n1,2\n", (), "names predictions; it has a, b"),
        ("id,b\n1,2\n", (), "neither labels nor rewards"),
        ("id,label\n1,2\n", ("--key", "order"), "has no column 'order'"),
        ("", (), "it has nothing"),
    ],
)
def test_a_file_that_says_nothing_is_refused_before_anything_is_sent(
    run: Run, client: Telling, tmp_path: Path, content: str, words: Sequence[str], message: str
) -> None:
    file = tmp_path / "outcomes.csv"
    file.write_text(content)
    result = run("feedback", "import", str(file), "-d", "fraud", *words)
    assert result.exit_code == 2
    assert message in result.stderr
    assert client.batches == []


def test_what_is_no_parquet_is_told_in_words(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "outcomes.parquet"
    file.write_text("hello")
    result = run("feedback", "import", str(file), "-d", "fraud")
    assert result.exit_code == 2
    assert "cannot be read as Parquet" in result.stderr


def test_counts_show_what_was_lost_and_how_complete_labels_are(run: Run) -> None:
    result = run("predictions", "show", "fraud")
    assert result.exit_code == 0
    line = result.stdout.splitlines()[1]
    for text in ("2.0.0 (shadow)", "12,000", "900", "85.0% of 1,000"):
        assert text in line
    assert "see spec.predictions" in result.stderr


@pytest.mark.parametrize("name", ["rows.csv", "rows.parquet"])
def test_an_export_has_a_column_for_each_input(
    run: Run, client: Telling, tmp_path: Path, name: str
) -> None:
    file = tmp_path / name
    result = run("predictions", "export", "fraud", str(file), "--since", "2h ago")
    assert (result.exit_code, result.stdout) == (0, f"2 predictions of fraud in {file}\n")
    assert client.window is not None
    assert client.window == (NOW.replace(hour=10), NOW)
    assert client.window[0].astimezone(UTC).hour == 10
    if name.endswith(".csv"):
        with file.open() as stream:
            rows = list(csv.DictReader(stream))
        assert [row["input.x"] for row in rows] == ["1", "2.5"]
        assert rows[1]["input.odd"] == "[1]"
    else:
        frame = pandas.read_parquet(file)
        assert list(frame["input.x"]) == [1.0, 2.5]
        assert frame["label"].tolist()[0] == 0
    again = run("predictions", "export", "fraud", str(file))
    assert again.exit_code == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == [name]


def test_an_export_has_one_of_two_forms(run: Run, tmp_path: Path) -> None:
    result = run("predictions", "export", "fraud", str(tmp_path / "rows.txt"))
    assert result.exit_code == 2
