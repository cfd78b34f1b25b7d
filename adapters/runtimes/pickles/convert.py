"""A live model to ONNX, inside its confined process, by the converters that its environment has (the extra `convert`).

Numbers go in as FP32 under `NAME_fp32`, texts under their own names; the parent puts casts around that give the ONNX model the
pickle's own signature.
"""

from __future__ import annotations

from typing import Any

OPSETS = {"": 15, "ai.onnx.ml": 3}  # the highest that all three converters write


def converted(model: Any, order: dict[str, Any]) -> bytes:
    """Return ONNX; `order` has `family` and `inputs`, a list of name, width and whether it is text.

    Raises:
        Exception: whatever the converter raises for what it does not know.
    """
    if order["family"] == "sklearn":
        from skl2onnx import convert_sklearn
        from skl2onnx.common.data_types import FloatTensorType, StringTensorType

        types = _types(order, FloatTensorType, StringTensorType)
        options = {id(model): {"zipmap": False}} if hasattr(model, "predict_proba") else None
        found = convert_sklearn(model, initial_types=types, options=options, target_opset=OPSETS)
    else:
        import onnxmltools
        from onnxmltools.convert.common.data_types import FloatTensorType, StringTensorType

        types = _types(order, FloatTensorType, StringTensorType)
        if order["family"] == "lightgbm":
            found = onnxmltools.convert_lightgbm(model, initial_types=types, zipmap=False, target_opset=OPSETS[""])
        else:
            found = onnxmltools.convert_xgboost(model, initial_types=types, target_opset=OPSETS[""])
    content: bytes = found.SerializeToString()
    return content


def _types(order: dict[str, Any], floats: Any, texts: Any) -> list[tuple[str, Any]]:
    return [
        (name, texts([None, width])) if is_text else (f"{name}_fp32", floats([None, width]))
        for name, width, is_text in order["inputs"]
    ]
