import math

import pytest
from pydantic import ValidationError

from jobkit.contracts.inference import MAX_ROWS, PredictBatch, TrainModel


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
