"""A trained network as an ONNX model. Only a training needs this module, and the library behind it."""

import json
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, TensorProto, helper, numpy_helper

from inference_service.adapters.datasets import Labels
from inference_service.adapters.scaling import Scaling

OPSET = 17  #: Of July 2022: any runtime that is still in use reads it.
IR_VERSION = 8  #: The file format of that opset.


def classifier_graph(
    scaling: Scaling,
    weights: Sequence[npt.NDArray[np.float32]],
    biases: Sequence[npt.NDArray[np.float32]],
    labels: Labels,
    names: Sequence[str] | None,
) -> bytes:
    """A graph from ``features`` in 64 bits to ``label``, ``probabilities`` and ``reach``.

    ``reach`` is how many deviations the farthest value of a row lies from its mean. The graph has one hidden layer, and
    one output for two labels. The same arguments give the same bytes: nothing in here is a set, and nothing is dated.
    """
    width = len(scaling.centre)
    nodes = [
        helper.make_node("Sub", ["features", "centre"], ["centred"]),
        helper.make_node("Div", ["centred", "spread"], ["scaled"]),
        helper.make_node("Abs", ["scaled"], ["distances"]),
        helper.make_node("ReduceMax", ["distances"], ["reach"], axes=[1], keepdims=0),
        helper.make_node("Cast", ["scaled"], ["inputs"], to=TensorProto.FLOAT),
        helper.make_node("Gemm", ["inputs", "weights_1", "biases_1"], ["sums"]),
        helper.make_node("Relu", ["sums"], ["hidden"]),
        helper.make_node("Gemm", ["hidden", "weights_2", "biases_2"], ["logits"]),
    ]
    constants = {
        "centre": scaling.centre,
        "spread": scaling.spread,
        "weights_1": weights[0],
        "biases_1": biases[0],
        "weights_2": weights[1],
        "biases_2": biases[1],
        "labels": np.asarray(labels, dtype=object if labels.dtype.kind == "U" else np.int64),
    }
    if len(biases[1]) == 1:  # the probability of the second of two labels
        constants["one"] = np.ones(1, dtype=np.float32)
        nodes += [
            helper.make_node("Sigmoid", ["logits"], ["second"]),
            helper.make_node("Sub", ["one", "second"], ["first"]),
            helper.make_node("Concat", ["first", "second"], ["probabilities"], axis=1),
        ]
    else:
        nodes.append(helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1))
    nodes += [
        helper.make_node("ArgMax", ["probabilities"], ["place"], axis=1, keepdims=0),
        helper.make_node("Gather", ["labels", "place"], ["label"]),
    ]
    kind = TensorProto.STRING if labels.dtype.kind == "U" else TensorProto.INT64
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("features", TensorProto.DOUBLE, [None, width])],
        [
            helper.make_tensor_value_info("label", kind, [None]),
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [None, len(labels)]),
            helper.make_tensor_value_info("reach", TensorProto.DOUBLE, [None]),
        ],
        [numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in constants.items()],
    )
    model: ModelProto = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="inference-service"
    )
    if names is not None:
        helper.set_model_props(model, {"feature_names": json.dumps(list(names))})
    return bytes(model.SerializeToString(deterministic=True))
