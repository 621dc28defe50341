import math
from collections import OrderedDict, deque
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from jobkit.contracts.inference import MAX_ROWS, PredictBatch, TrainModel
from jobkit.producer import message_for
from jobkit.settings import BrokerSettings


def test_trainings_and_predictions_have_queues_of_their_own() -> None:
    assert (TrainModel.queue, TrainModel.actor) == ("inference.training", "train_model")
    assert (PredictBatch.queue, PredictBatch.actor) == ("inference", "predict_batch")


@pytest.mark.parametrize("model", ["", "Digits", "../digits", "a/b", "latest.json", "a" * 64])
def test_a_model_name_that_is_no_plain_word_is_refused(model: str) -> None:
    with pytest.raises(ValidationError, match="model"):
        TrainModel(model=model, dataset="digits.npz")


@pytest.mark.parametrize("key", ["../digits.npz", "/digits.npz", "a/../b.npz", "a//b.npz", ".hidden.npz", "digits.pkl"])
def test_a_dataset_key_that_leads_out_of_storage_is_refused(key: str) -> None:
    with pytest.raises(ValidationError, match="dataset"):
        TrainModel(model="digits", dataset=key)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_inputs_that_are_no_finite_numbers_are_refused_at_the_producer(value: float) -> None:
    with pytest.raises(ValidationError, match="finite"):
        PredictBatch(model="digits", inputs=[[1.0, value]])


def test_rows_of_unequal_length_are_refused_with_the_row_named() -> None:
    with pytest.raises(ValidationError, match="row 3 has 1 features and row 1 has 2"):
        PredictBatch(model="digits", inputs=[[1, 2], [3, 4], [5]])


@pytest.mark.parametrize("rows", [0, MAX_ROWS + 1])
def test_a_batch_holds_at_least_one_row_and_at_most_the_limit(rows: int) -> None:
    with pytest.raises(ValidationError, match="inputs"):
        PredictBatch(model="digits", inputs=[[1.0]] * rows)


@pytest.mark.parametrize(
    "row",
    [{1.0, 3.0, 8.0}, frozenset({1.0, 2.0}), {1.0: "a"}.keys(), (number for number in (1.0, 2.0)), {1.0: 2.0}, "12"],
)
def test_what_has_no_order_is_no_row(row: Any) -> None:
    with pytest.raises(ValidationError, match="give a list, in which the order is fixed"):
        PredictBatch(model="digits", inputs=[[1.0, 2.0], row])
    with pytest.raises(ValidationError, match="give a list, in which the order is fixed"):
        PredictBatch(model="digits", inputs=row)


def test_sets_are_no_columns_and_no_batch() -> None:
    with pytest.raises(ValidationError, match="columns"):
        PredictBatch(model="digits", columns={"a", "b"}, inputs=[[1, 2]])
    with pytest.raises(ValidationError, match="inputs"):
        PredictBatch(model="digits", inputs={(1.0, 2.0), (3.0, 4.0)})


@pytest.mark.parametrize(
    "inputs", [[(8.0, 1.0)], ((8.0, 1.0),), [deque([8.0, 1.0])], np.array([[8, 1]]), [np.array([8.0, 1.0], np.float32)]]
)
def test_every_sequence_is_a_row_in_its_order(inputs: Any) -> None:
    assert PredictBatch(model="digits", inputs=inputs).inputs == [[8.0, 1.0]]


@pytest.mark.parametrize("number", [2**53 + 1, -(2**60) - 1, 10**400, 1_700_000_000_123_456_789])
def test_a_whole_number_that_would_become_another_is_refused_at_the_producer(number: int) -> None:
    with pytest.raises(ValidationError, match=r"value 2, -?\d+, is no 64-bit float"):
        PredictBatch(model="digits", inputs=[[1, number]])


@pytest.mark.parametrize("kind", [np.int64, np.uint64, np.longdouble, str, Decimal, Fraction])
def test_a_whole_number_of_any_type_keeps_its_value_or_is_refused(kind: Any) -> None:
    number = kind(2**53) + kind(1) if kind is not str else str(2**53 + 1)
    with pytest.raises(ValidationError, match="value 2, 9007199254740993, is no 64-bit float"):
        PredictBatch(model="digits", inputs=[[1, number]])
    assert PredictBatch(model="digits", inputs=[[kind(2**53), kind(5)]]).inputs == [[2**53, 5]]


@pytest.mark.parametrize("number", ["1e999999999", Decimal("1e999999999"), Decimal("nan"), "infinity", "one"])
def test_a_text_that_no_float_holds_is_refused_at_once(number: Any) -> None:
    with pytest.raises(ValidationError, match="inputs"):
        PredictBatch(model="digits", inputs=[[number]])


def test_whole_numbers_that_a_float_holds_are_kept() -> None:
    assert PredictBatch(model="digits", inputs=[[2**53, 2**60, -5]]).inputs == [[2**53, 2**60, -5]]


def test_rows_may_be_mappings_from_column_to_number() -> None:
    rows: Any = [{"height": 1.8, "weight": 80}, OrderedDict(weight=70, height=1.7)]
    job = PredictBatch(model="people", inputs=rows)
    assert (job.columns, job.inputs) == (["height", "weight"], [[1.8, 80], [1.7, 70]])
    assert PredictBatch.model_validate(job.model_dump()) == job
    with pytest.raises(ValidationError, match="row 2 does not have the columns height, weight"):
        PredictBatch(model="people", inputs=[rows[0], {"height": 1.8}])
    with pytest.raises(ValidationError, match="row 2 does not have the columns"):
        PredictBatch(model="people", inputs=[rows[0], [1.8, 80]])


@pytest.mark.parametrize(
    ("columns", "complaint"),
    [(["a"], "there are 1 columns and 2 features"), (["a", "a"], "'a' is named twice"), (["a", ""], "columns")],
)
def test_columns_are_one_name_per_feature(columns: list[str], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        PredictBatch(model="digits", columns=columns, inputs=[[1, 2]])


def test_a_payload_of_the_version_before_is_still_a_job() -> None:
    training = {"model": "digits", "dataset": "d.npz", "epochs": 20, "learning_rate": 0.005, "batch_size": 32}
    training |= {"hidden_units": 64, "seed": 0, "holdout": 0.2}
    assert TrainModel.model_validate(training).publish == "better"
    assert PredictBatch.model_validate({"model": "digits", "digest": None, "inputs": [[1.0]]}).columns is None


@pytest.mark.parametrize("width", [1, 64, 512, 4096])
def test_batches_in_parts_fit_into_messages_and_lose_no_row(width: int) -> None:
    rows = np.random.default_rng(0).normal(size=(1500 if width < 512 else 60, width))
    columns = [f"größe {number}" for number in range(width)]
    jobs = list(PredictBatch.in_parts(rows.tolist(), model="digits", columns=columns))
    assert [row for job in jobs for row in job.inputs] == rows.tolist()
    sizes = [len(message_for(job).encode()) for job in jobs]
    assert max(sizes) <= BrokerSettings.model_fields["max_message_bytes"].default
    assert len(jobs) == 1 or sizes[0] > 900_000 or len(jobs[0].inputs) == MAX_ROWS


def test_batches_in_parts_take_mappings_and_keep_the_first_one_s_order() -> None:
    rows = [{"height": float(number), "weight": 80.0} for number in range(1500)]
    rows[1200] = dict(reversed(rows[1200].items()))
    jobs = list(PredictBatch.in_parts(iter(rows), model="people"))
    assert [job.columns for job in jobs] == [["height", "weight"]] * 2
    assert [row for job in jobs for row in job.inputs] == [[float(number), 80.0] for number in range(1500)]


def test_a_row_that_fits_into_no_message_is_named() -> None:
    with pytest.raises(ValueError, match="row 2 has 64 bytes as JSON"):
        list(PredictBatch.in_parts([[1.0], [1 / 3] * 3 + [2.0]], model="digits", max_bytes=8192 + 60))
