"""push and predict: what is sent, and what is said about the answer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from modelplane.resources.model import Training
from tests.cli.conftest import Run
from tests.cli.fakes import FakeClient

REQUEST = {"inputs": [{"name": "x", "shape": [1], "datatype": "FP64", "data": [None]}]}


def test_push_sends_what_was_said_and_nothing_of_this_process(
    run: Run, client: FakeClient, tmp_path: Path
) -> None:
    example = tmp_path / "example.json"
    example.write_text(json.dumps(REQUEST))
    result = run(
        "push", "fraud", "--version", "1.2.0", "--artifact", "model.onnx", "--format", "onnx",
        "--metric", "accuracy=0.93", "--metric", "recall=0.5", "--parameter", "depth=3",
        "--tag", "team=risk", "--dataset", "march.csv", "--input-example", str(example),
        "--description", "better",
    )  # fmt: skip
    assert result.exit_code == 0
    ((_, name, version, artifact, record),) = client.asked
    assert (name, version, artifact) == ("fraud", "1.2.0", Path("model.onnx"))
    assert record["metrics"] == {"accuracy": 0.93, "recall": 0.5}
    assert record["parameters"] == {"depth": "3"}
    assert record["tags"] == {"team": "risk"}
    assert record["datasets"] == ["march.csv"]
    assert record["input_example"] == REQUEST
    assert record["format"] == "onnx"
    assert record["training"] == Training()
    assert result.stdout == (
        "modelversion/fraud@1.2.0 created: number 3, onnx, 1.2 MiB, aaaaaaaaaaaa\n"
    )


def test_push_of_a_command_is_split_like_a_shell_does(run: Run, client: FakeClient) -> None:
    run("push", "echo", "--version", "1.0.0", "--command", "python 'my serve.py' --uds {socket}")
    assert client.asked[0][4]["command"] == ["python", "my serve.py", "--uds", "{socket}"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--version", "1.0.0"), "nothing to push"),
        (("--version", "1.0.0", "--artifact", "x", "--metric", "accuracy"), "like key=value"),
        (("--version", "1.0.0", "--artifact", "x", "--metric", "a=b"), "'b' is no number"),
        (("--version", "1.0.0", "--artifact", "x", "--signature", "none.json"), "none.json"),
        (("--artifact", "x"), "--version"),
    ],
)
def test_bad_pushes_are_usage_errors(
    run: Run, client: FakeClient, words: tuple[str, ...], said: str
) -> None:
    result = run("push", "fraud", *words)
    assert result.exit_code == 2
    assert said in result.stderr
    assert client.asked == []


def test_predict_prints_the_answer_and_who_gave_it(
    run: Run, client: FakeClient, tmp_path: Path
) -> None:
    file = tmp_path / "request.json"
    file.write_text(json.dumps(REQUEST))
    result = run("predict", "fraud", "--data", str(file), "-e", "staging", "--user", "anna")
    assert json.loads(result.stdout)["outputs"] == [{"data": [0.1]}]
    assert result.stderr == "version 1.0.0 answered for 1.1.0, which failed (request r-1)\n"
    assert client.asked == [
        ("predict", "fraud", REQUEST, {"environment": "staging", "user_id": "anna"})
    ]


def test_predict_takes_json_and_standard_input(run: Run, client: FakeClient) -> None:
    text = json.dumps(REQUEST)
    run("predict", "fraud", "--data", text)
    result = run("predict", "fraud", "--data", "-", "-o", "json", input=text)
    assert json.loads(result.stdout)["version"] == "1.0.0"
    assert [asked[2] for asked in client.asked] == [REQUEST, REQUEST]


@pytest.mark.parametrize("data", ["{", "{}", "none.json", '{"inputs": 3}'])
def test_predict_refuses_what_is_no_request(run: Run, client: FakeClient, data: str) -> None:
    assert run("predict", "fraud", "--data", data).exit_code == 2
    assert client.asked == []
