"""The validator in its own process: what it finds out, and what it refuses, hostile files among them."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import duckdb
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from adapters.validation import process
from adapters.validation.process import ProcessValidator
from adapters.validation.trial import validated
from gateway.core.errors import NotValid
from gateway.core.models import Batching, Column, ColumnKind, Digest, Runtime, Target, Task, Version
from gateway.core.tensors import Datatype, Signature, TensorSpec

FLOAT, INT64, STRING = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING
FEATURES = 3


def _version(**more: object) -> Version:
    return Version("m", "1", Digest("0" * 64), 1, Runtime.ONNX, "", Signature((), ()), **more)


def _validate(artifact: Path, reference: Path | None = None, **more: object) -> Version:
    """Validate as the child does, in this process: for files that cannot harm it."""
    return validated(artifact, reference, _version(**more))


def _apart(
    artifact: Path, reference: Path | None = None, *, timeout_s: float = 30.0, gib: float = 4.0, **more: object
) -> Version:
    """Validate in a process of its own."""
    return ProcessValidator(timeout_s=timeout_s, memory_bytes=int(gib * 2**30)).validate(artifact, reference, _version(**more))


def _save(path: Path, nodes, inputs, outputs, weights=(), *, opset: int = 17, **more: object) -> Path:
    graph = helper.make_graph(nodes, "g", inputs, outputs, list(weights))
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9, **more), path)
    return path


def _value(name: str, kind: int = FLOAT, shape: object = ("n", FEATURES)):
    return helper.make_tensor_value_info(name, kind, shape)


def _csv(path: Path, columns: dict[str, list[object]]) -> Path:
    rows = zip(*columns.values(), strict=True)
    path.write_text(
        ",".join(columns) + "\n" + "\n".join(",".join("" if v is None else str(v) for v in row) for row in rows) + "\n"
    )
    return path


@pytest.fixture
def linear(write_linear_model, tmp_path):
    """Return the usual model with three features."""
    return write_linear_model(tmp_path / "linear.onnx", features=FEATURES)


@pytest.fixture
def sample(tmp_path):
    """Return 300 rows of three features."""
    rows = np.random.default_rng(3).normal(size=(300, FEATURES)).round(3)
    return _csv(tmp_path / "sample.csv", {name: rows[:, at].tolist() for at, name in enumerate("abc")})


def test_version_is_filled_in(linear, sample):
    """Signature, columns, profile, runtime version and cost come from the file and the sample."""
    found = _apart(linear, sample, target=Target(Task.BINARY, positive="1"))
    assert found.signature == Signature(
        (TensorSpec("features", Datatype.FP32, (-1, FEATURES)),), (TensorSpec("probability", Datatype.FP32, (-1, 1)),)
    )
    assert [column.name for column in found.columns] == ["a", "b", "c"]
    assert found.target.output == "probability"
    assert found.profile is not None
    assert found.profile["rows"] == 300
    assert found.runtime_version
    assert 0 < found.cost_us_per_row < 1e5
    assert found.warnings == ()


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_every_form_of_reference_gives_the_same_profile(linear, sample, tmp_path, suffix):
    """CSV, JSON Lines and Parquet hold the same sample."""
    path = tmp_path / f"other{suffix}"
    forms = {".csv": "CSV, HEADER", ".jsonl": "JSON", ".parquet": "PARQUET"}
    duckdb.sql(f"COPY (SELECT * FROM read_csv('{sample}')) TO '{path}' (FORMAT {forms[suffix]})")
    assert _validate(linear, path).profile == _validate(linear, sample).profile


def test_named_inputs_become_columns_with_their_kinds(tmp_path):
    """Many inputs of shape [n, 1] are the columns, text among them categorical, in the artifact's order."""
    artifact = _save(
        tmp_path / "named.onnx",
        [helper.make_node("Identity", ["carrier"], ["same"]), helper.make_node("Add", ["delay", "distance"], ["total"])],
        [_value("carrier", STRING, ["n", 1]), _value("delay", FLOAT, ["n", 1]), _value("distance", FLOAT, ["n", 1])],
        [_value("same", STRING, ["n", 1]), _value("total", FLOAT, ["n", 1])],
    )
    columns = {"distance": [1.0, 2.0, None], "delay": [3.0, 4.0, 5.0], "carrier": ["UA", None, "AA"]}
    reference = _csv(tmp_path / "named.csv", columns)
    found = _validate(artifact, reference, columns=(Column("delay"), Column("distance"), Column("carrier")))
    assert [(column.name, column.kind) for column in found.columns] == [
        ("carrier", ColumnKind.CATEGORICAL),
        ("delay", ColumnKind.NUMERIC),
        ("distance", ColumnKind.NUMERIC),
    ]
    with pytest.raises(NotValid, match="'speed'"):
        _validate(artifact, reference, columns=(Column("speed"), Column("distance"), Column("carrier")))


def test_number_of_columns_must_fit(linear, sample):
    """Names that do not match the width of the input are refused with both numbers."""
    with pytest.raises(NotValid, match=r"takes 3 columns, but metadata\.columns names 2"):
        _validate(linear, sample, columns=(Column("a"), Column("b")))


def test_reference_without_a_column_is_refused(linear, sample):
    """A column that the reference lacks is named."""
    with pytest.raises(NotValid, match="'z' is missing"):
        _validate(linear, sample, columns=(Column("a"), Column("b"), Column("z")))


def test_extra_columns_of_the_reference_are_left_out(linear, sample, tmp_path):
    """The target may stand in the sample beside the features."""
    wide = tmp_path / "wide.csv"
    duckdb.sql(f"COPY (SELECT 1 AS late, c, b, a FROM read_csv('{sample}')) TO '{wide}' (HEADER)")
    columns = tuple(map(Column, "abc"))
    assert _validate(linear, wide, columns=columns).profile == _validate(linear, sample, columns=columns).profile


@pytest.mark.parametrize(
    ("content", "word"),
    [("a,b,c\n1,2,x\n", "reference"), ("a,b,c\n", "no rows"), ("", "no rows"), ("\n", "no rows"), ("\0\1\2", "reference")],
)
def test_unreadable_reference_is_refused(linear, tmp_path, content, word):
    """A sample that cannot be read as numbers is refused with the reason."""
    reference = tmp_path / "bad.csv"
    reference.write_text(content)
    with pytest.raises(NotValid, match=word):
        _validate(linear, reference, columns=tuple(map(Column, "abc")))


def test_reference_reads_no_other_file(linear, tmp_path):
    """A sample's path cannot reach further than the sample."""
    (tmp_path / "secret.csv").write_text("a,b,c\n1,2,3\n")
    (tmp_path / "sample*.csv").write_text("a,b,c\n1,2,3\n4,5,6\n")
    assert _apart(linear, tmp_path / "sample*.csv").profile["rows"] == 2


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "empty"),
        (b"not a model at all, but text", "ONNX"),
        (os.urandom(4096), "ONNX"),
        (b"\0" * 4096, "ONNX"),
        (onnx.ModelProto(ir_version=9).SerializeToString(), "no ONNX graph"),
    ],
)
def test_bytes_that_are_no_model_are_refused(tmp_path, content, word):
    """Garbage is refused with a sentence."""
    path = tmp_path / "garbage.onnx"
    path.write_bytes(content)
    with pytest.raises(NotValid, match=word):
        _validate(path)


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.99])
def test_truncated_model_is_refused(linear, part):
    """A file cut short anywhere is refused."""
    content = linear.read_bytes()
    linear.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(NotValid):
        _validate(linear)


@pytest.mark.parametrize("is_nested", [False, True])
def test_external_data_is_refused(tmp_path, is_nested):
    """Weights outside the file are refused, in the graph or inside a branch, whether or not they are there."""
    weights = numpy_helper.from_array(np.ones((FEATURES, 1), np.float32), "w")
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    weights.external_data.add(key="location", value="../../../../etc/passwd")
    product = helper.make_node("MatMul", ["x", "w"], ["y"])
    if is_nested:
        branch = helper.make_graph([product], "branch", [], [_value("y", FLOAT, None)], [weights])
        nodes = [helper.make_node("If", ["yes"], ["y"], then_branch=branch, else_branch=branch)]
        more = [numpy_helper.from_array(np.array(True), "yes")]
    else:
        nodes, more = [product], [weights]
    path = tmp_path / "external.onnx"
    graph = helper.make_graph(nodes, "g", [_value("x")], [_value("y", FLOAT, ["n", 1])], more)
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString())
    with pytest.raises(NotValid, match="outside the artifact") as refused:
        _apart(path)
    assert "one file" in str(refused.value.hint)


def test_external_data_in_a_function_is_refused(tmp_path):
    """A function's nodes are looked at like the graph's own."""
    weights = numpy_helper.from_array(np.ones(FEATURES, np.float32), "w")
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    weights.external_data.add(key="location", value="weights.bin")
    opset, own = helper.make_opsetid("", 17), helper.make_opsetid("own", 1)
    nodes = [helper.make_node("Constant", [], ["w"], value=weights), helper.make_node("Add", ["a", "w"], ["b"])]
    function = helper.make_function("own", "Shift", ["a"], ["b"], nodes, [opset])
    graph = helper.make_graph([helper.make_node("Shift", ["x"], ["y"], domain="own")], "g", [_value("x")], [_value("y")])
    path = tmp_path / "function.onnx"
    path.write_bytes(helper.make_model(graph, functions=[function], opset_imports=[opset, own], ir_version=9).SerializeToString())
    with pytest.raises(NotValid, match="'w' lie in a file outside the artifact"):
        _validate(path)


@pytest.mark.parametrize(
    ("name", "kind", "shape", "word"),
    [
        ("x", 999, ("n", FEATURES), "type 999"),
        ("x", FLOAT, ("n", *[1] * 40), "41 dimensions"),
        ("a\nb", FLOAT, ("n", 1), "printable"),
        ("x" * 201, FLOAT, ("n", FEATURES), "printable"),
    ],
)
def test_tensor_that_nobody_could_send_is_refused(tmp_path, name, kind, shape, word):
    """An unknown element type, more dimensions than a request may have and a name that is none are named."""
    path = tmp_path / "odd.onnx"
    graph = helper.make_graph(
        [helper.make_node("Identity", [name], ["y"])], "g", [_value(name, FLOAT, shape)], [_value("y", FLOAT, shape)]
    )
    graph.input[0].type.tensor_type.elem_type = kind
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(NotValid, match=word):
        _validate(path)


def test_custom_operators_are_refused(tmp_path):
    """An operator of a domain nobody here carries is named."""
    path = tmp_path / "custom.onnx"
    node = helper.make_node("Magic", ["x"], ["y"], domain="acme.ops")
    graph = helper.make_graph([node], "g", [_value("x")], [_value("y")])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("acme.ops", 1)], ir_version=9),
        path,
    )
    with pytest.raises(NotValid, match=r"'Magic'.*'acme\.ops'"):
        _validate(path)


def test_memory_bomb_is_refused_within_its_bound(tmp_path):
    """A graph that asks for terabytes is refused; the gateway's process does not grow."""
    size = numpy_helper.from_array(np.array([2**40], np.int64), "size")
    nodes = [
        helper.make_node("ConstantOfShape", ["size"], ["huge"]),
        helper.make_node("ReduceSum", ["huge"], ["total"], keepdims=0),
        helper.make_node("Add", ["x", "total"], ["y"]),
    ]
    path = _save(tmp_path / "bomb.onnx", nodes, [_value("x")], [_value("y")], [size])
    with pytest.raises(NotValid):
        _apart(path, timeout_s=20)


def test_constant_over_the_bound_is_refused(tmp_path):
    """A graph within the machine's memory but over the validation's is refused."""
    size = numpy_helper.from_array(np.array([2**28], np.int64), "size")
    nodes = [
        helper.make_node("ConstantOfShape", ["size"], ["large"]),
        helper.make_node("ReduceSum", ["large"], ["total"], keepdims=0),
        helper.make_node("Add", ["x", "total"], ["y"]),
    ]
    path = _save(tmp_path / "large.onnx", nodes, [_value("x")], [_value("y")], [size])
    with pytest.raises(NotValid):
        _apart(path, gib=1)


def test_endless_loop_is_killed_at_the_deadline(tmp_path):
    """A graph that never ends is refused when its time is over, and its process is gone."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["going"], ["going_on"]), helper.make_node("Add", ["sum", "one"], ["more"])],
        "body",
        [_value("at", INT64, []), _value("going", TensorProto.BOOL, []), _value("sum", FLOAT, [])],
        [_value("going_on", TensorProto.BOOL, []), _value("more", FLOAT, [])],
        [numpy_helper.from_array(np.float32(1), "one")],
    )
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["start"], keepdims=0),
        helper.make_node("Loop", ["", "yes", "start"], ["total"], body=body),
        helper.make_node("Add", ["x", "total"], ["y"]),
    ]
    path = _save(tmp_path / "endless.onnx", nodes, [_value("x")], [_value("y")], [numpy_helper.from_array(np.array(True), "yes")])
    began = time.monotonic()
    with pytest.raises(NotValid, match=r"within 3 s") as refused:
        _apart(path, timeout_s=3)
    assert time.monotonic() - began < 8
    assert "validation_timeout_s" in str(refused.value.hint)


def test_model_without_inputs_is_refused(tmp_path):
    """A graph that takes nothing would answer everyone alike."""
    constant = helper.make_node("Constant", [], ["y"], value=numpy_helper.from_array(np.ones(2, np.float32), "c"))
    path = _save(tmp_path / "none.onnx", [constant], [], [_value("y", FLOAT, [2])])
    with pytest.raises(NotValid, match="no inputs"):
        _validate(path)


def test_zipmap_output_is_refused_with_the_way_out(tmp_path):
    """A sequence of maps, scikit-learn's default export, is refused with the option that helps."""
    nodes = [helper.make_node("ZipMap", ["x"], ["y"], domain="ai.onnx.ml", classlabels_int64s=[0, 1, 2])]
    kind = helper.make_sequence_type_proto(helper.make_map_type_proto(INT64, helper.make_tensor_type_proto(FLOAT, None)))
    graph = helper.make_graph(nodes, "g", [_value("x")], [helper.make_value_info("y", kind)])
    path = tmp_path / "zipmap.onnx"
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    with pytest.raises(NotValid, match="sequence") as refused:
        _validate(path)
    assert "zipmap" in str(refused.value.hint)


def test_nan_answers_to_finite_rows_are_refused(tmp_path, sample):
    """A model whose answers are not numbers on its own training rows is refused."""
    path = _save(tmp_path / "log.onnx", [helper.make_node("Log", ["x"], ["y"])], [_value("x")], [_value("y")])
    with pytest.raises(NotValid, match="NaN"):
        _validate(path, sample)


def test_answers_of_another_shape_than_declared_are_refused(tmp_path, sample):
    """What the file declares must be what comes."""
    nodes = [helper.make_node("ReduceSum", ["x"], ["y"], keepdims=1)]
    path = _save(tmp_path / "shape.onnx", nodes, [_value("x")], [_value("y", FLOAT, ["n", 1])])
    with pytest.raises(NotValid, match="rows for"):
        _validate(path, sample)


def test_probabilities_outside_their_range_are_refused(tmp_path, sample):
    """A binary target whose answers are not probabilities is refused with the range seen."""
    path = _save(tmp_path / "identity.onnx", [helper.make_node("Identity", ["x"], ["y"])], [_value("x")], [_value("y")])
    with pytest.raises(NotValid, match="probabilities"):
        _validate(path, sample, target=Target(Task.BINARY))
    assert _validate(path, sample, target=Target(Task.REGRESSION)).target.output == "y"


def test_unknown_target_output_is_refused(linear, sample):
    """The target names an output of the model."""
    with pytest.raises(NotValid, match="'score'"):
        _validate(linear, sample, target=Target(Task.BINARY, output="score"))


def test_same_answer_to_every_row_is_a_warning(tmp_path, sample):
    """A constant answer may be meant, and is said."""
    nodes = [helper.make_node("Mul", ["x", "zero"], ["y"])]
    path = _save(tmp_path / "flat.onnx", nodes, [_value("x")], [_value("y")], [numpy_helper.from_array(np.float32(0), "zero")])
    [warning] = _validate(path, sample).warnings
    assert "same on every row" in warning


@pytest.mark.parametrize("has_reference", [True, False])
def test_rows_that_depend_on_each_other_are_not_joined(tmp_path, sample, has_reference):
    """A version whose answer to a row depends on the rows beside it is accepted, its requests are not joined, and it says so."""
    nodes = [helper.make_node("ReduceMean", ["x"], ["mean"], axes=[0], keepdims=1), helper.make_node("Sub", ["x", "mean"], ["y"])]
    path = _save(tmp_path / "centred.onnx", nodes, [_value("x")], [_value("y")])
    found = _apart(path, sample if has_reference else None)
    assert not found.is_joinable
    assert "not joined" in found.warnings[0]


@pytest.mark.parametrize("has_reference", [True, False])
def test_rows_that_differ_by_rounding_alone_are_joined(tmp_path, sample, has_reference):
    """Sums of another order in a batch, and labels beside them, do not keep requests apart."""
    numbers = np.random.default_rng(5)
    weights = [
        numpy_helper.from_array(numbers.normal(size=size).astype(np.float32), name)
        for name, size in (("a", (FEATURES, 512)), ("b", (512, 512)), ("c", (512, 4)))
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["one"]),
        helper.make_node("Tanh", ["one"], ["two"]),
        helper.make_node("MatMul", ["two", "b"], ["three"]),
        helper.make_node("Tanh", ["three"], ["four"]),
        helper.make_node("MatMul", ["four", "c"], ["y"]),
        helper.make_node("ArgMax", ["y"], ["label"], axis=1, keepdims=0),
    ]
    outputs = [_value("y", FLOAT, ["n", 4]), _value("label", INT64, ["n"])]
    path = _save(tmp_path / "deep.onnx", nodes, [_value("x")], outputs, weights)
    assert _validate(path, sample if has_reference else None).is_joinable


@pytest.mark.parametrize("has_reference", [False, True])
@pytest.mark.parametrize("side", ["input", "output"])
@pytest.mark.parametrize("half", [TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_half_is_accepted_with_how_to_send_it(tmp_path, sample, side, has_reference, half):
    """A tensor in FP16 or BF16 goes only as binary, and the registration says so."""
    name = {TensorProto.FLOAT16: "FP16", TensorProto.BFLOAT16: "BF16"}[half]
    kinds = (half, FLOAT) if side == "input" else (FLOAT, half)
    node = helper.make_node("Cast", ["x"], ["y"], to=kinds[1])
    path = _save(tmp_path / "half.onnx", [node], [_value("x", kinds[0])], [_value("y", kinds[1])])
    version = _validate(path, sample if has_reference else None)
    assert any(side in warning and name in warning and "binary" in warning for warning in version.warnings)
    assert (version.profile is not None) == has_reference


@pytest.mark.parametrize("has_reference", [False, True])
def test_trial_keeps_to_the_versions_bound(tmp_path, sample, has_reference):
    """A model that takes two rows at most is tried with no more when its metadata says so, and does not run otherwise."""
    nodes = [
        helper.make_node("Shape", ["x"], ["count"], end=1),
        helper.make_node("Sub", ["count", "one"], ["last"]),
        helper.make_node("Gather", ["two", "last"], ["zero"]),
        helper.make_node("Add", ["x", "zero"], ["y"]),
    ]
    weights = [numpy_helper.from_array(np.array([1]), "one"), numpy_helper.from_array(np.zeros(2, np.float32), "two")]
    path = _save(tmp_path / "two.onnx", nodes, [_value("x")], [_value("y")], weights)
    reference = sample if has_reference else None
    assert _validate(path, reference, batching=Batching(rows_max=2)).is_joinable
    with pytest.raises(NotValid, match="does not run"):
        _validate(path, reference)


@pytest.mark.parametrize("shape", [(), (3, 2), (1, 4), (5,)])
def test_model_without_counted_rows_is_accepted(tmp_path, shape):
    """A scalar, or a fixed number of rows, is tried as it is."""
    path = _save(
        tmp_path / "fixed.onnx",
        [helper.make_node("Identity", ["x"], ["y"])],
        [_value("x", FLOAT, shape)],
        [_value("y", FLOAT, shape)],
    )
    version = _validate(path)
    assert version.signature.inputs[0].shape == shape
    assert version.cost_us_per_row > 0


def test_fp16_output_beside_others_is_a_warning(tmp_path):
    """Where other outputs can be asked for, the version is accepted, and the way to use it is said."""
    nodes = [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT16), helper.make_node("Identity", ["x"], ["z"])]
    path = _save(tmp_path / "half.onnx", nodes, [_value("x")], [_value("y", TensorProto.FLOAT16), _value("z")])
    assert any("'y' is FP16" in warning for warning in _validate(path).warnings)


@pytest.mark.parametrize("text", ["2024-05-01", "x"])
def test_value_that_is_no_number_is_named_with_its_column(linear, tmp_path, text):
    """A reference with something else than numbers is refused with the column and the value, as it stands in the file."""
    reference = _csv(tmp_path / "odd.csv", {"a": [1, 2], "b": ["inf", text], "c": [3, 4]})
    with pytest.raises(NotValid, match=rf"'{text}'.* column b"):
        _validate(linear, reference)


def test_infinities_of_a_reference_are_numbers(linear, tmp_path):
    """Infinities, and what overflows to them, are read as the numbers they are, not as dates."""
    reference = _csv(tmp_path / "odd.csv", {"a": [1, 2, 3], "b": ["inf", "-inf", "1e400"], "c": [3, 4, 5]})
    assert _validate(linear, reference).profile["rows"] == 3


def test_refusal_names_no_path_of_the_server(linear, tmp_path):
    """What a library says of a file names the part that was sent, not where it lies."""
    reference = tmp_path / "staged.parquet"
    reference.write_bytes(b"no parquet")
    odd = _save(tmp_path / "staged.onnx", [helper.make_node("Elu", ["x"], ["y"])], [_value("x", INT64)], [_value("y", INT64)])
    for artifact, sample, named in ((linear, reference, "the reference"), (odd, None, "the artifact")):
        with pytest.raises(NotValid) as refused:
            _apart(artifact, sample)
        assert str(tmp_path) not in refused.value.message
        assert named in refused.value.message


def test_missing_reference_is_a_warning(linear):
    """Without a sample a version is accepted, and what is lost is said."""
    found = _validate(linear)
    assert found.profile is None
    assert "drift" in found.warnings[0]


@pytest.mark.parametrize(
    ("code", "word"),
    [
        ("import ctypes; ctypes.string_at(0)", "SIGSEGV"),
        ("import os; os.abort()", "SIGABRT"),
        ("raise SystemExit(3)", "status 3"),
        ("print('no json')", "cannot be read"),
        ("import sys\nwhile True: sys.stdout.write('x' * 65536)", "too much"),
        ("import time; time.sleep(60)", "within 3 s"),
    ],
)
def test_child_that_dies_or_rambles_is_a_refusal(linear, tmp_path, monkeypatch, code, word):
    """Whatever becomes of the validation process, the caller gets one clear refusal."""
    name = f"child_{abs(hash(code))}"
    (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(process, "CHILD", name)
    with pytest.raises(NotValid, match=word):
        _apart(linear, timeout_s=3)


def test_child_sees_none_of_the_gateways_environment(linear, tmp_path, monkeypatch):
    """Secrets of the gateway's environment do not reach the process that runs the artifact."""
    (tmp_path / "telling.py").write_text("import json, os\nprint(json.dumps({'error': ' '.join(sorted(os.environ)) }))")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(process, "CHILD", "telling")
    monkeypatch.setenv("HEADGATE_SECRET", "x")
    with pytest.raises(NotValid) as refused:
        _apart(linear)
    assert "HEADGATE_SECRET" not in refused.value.message
    assert json.dumps(refused.value.message)
