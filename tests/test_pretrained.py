"""The networks that come with the package: they load, they are what their card says, and rounding costs little."""

import re

import pytest
import torch
from PIL import Image
from small import random_split, small_batches

from cifar_helpers.classify import load_model, pretrained, pretrained_path
from cifar_helpers.data.batches import make_batches
from cifar_helpers.data.datasets import load_data
from cifar_helpers.data.download import SOURCES
from cifar_helpers.models.networks import make_model
from cifar_helpers.training.checkpoint import load_checkpoint, save_rounded
from cifar_helpers.training.config import TrainConfig
from cifar_helpers.training.evaluation import predict
from cifar_helpers.training.loop import fit
from cifar_helpers.transfer import own_backbone

CARD = pretrained_path().with_name("README.md").read_text(encoding="utf-8")


def in_card(row: str, dataset: str) -> str:
    """Return the cell of a row, which begins with these words, for a data set."""
    cells = re.search(rf"^\| {re.escape(row)}[^|]*\|([^|]*)\|([^|]*)\|$", CARD, re.MULTILINE)
    return cells[1 + list(SOURCES).index(dataset)].strip()


@pytest.mark.parametrize("dataset", SOURCES)
def test_a_pretrained_network_is_what_its_card_says(dataset):
    found = load_checkpoint(pretrained_path(dataset))
    learned = [w for name, w in found.weights.items() if not re.search(r"running|num_batches", name)]
    rounded = sum(w.numel() for w in learned if w.ndim >= 2)
    assert in_card("weights", dataset) == f"{sum(w.numel() for w in learned):,}, of them {rounded:,} in 8 bits"
    assert in_card("SHA-256 that the file carries", dataset) == f"`{found.sha256[:16]}…`"
    assert len(found.class_names) == SOURCES[dataset].num_classes
    assert {w.dtype for w in learned} == {torch.float32}


@pytest.mark.parametrize("dataset", SOURCES)
def test_a_pretrained_network_answers(dataset):
    (name, probability), *_ = pretrained(dataset).predict(Image.new("RGB", (40, 30), (90, 140, 220)))
    assert name in load_checkpoint(pretrained_path(dataset)).class_names
    assert 1 / SOURCES[dataset].num_classes < probability <= 1
    assert own_backbone(pretrained_path(dataset), "a test").num_features == 128


@pytest.mark.real
@pytest.mark.parametrize("dataset", SOURCES)
def test_a_pretrained_network_is_as_accurate_as_its_card_says(dataset):
    data, network = load_data(dataset), pretrained(dataset).model
    val = make_batches(data.train, data.val, "cpu")[1]
    logits, labels = predict(network, val)
    flipped = predict(network, [(images.flip(3), y) for images, y in val.ordered()])[0]
    two = logits.softmax(1) + flipped.softmax(1)
    for row, scores in {"validation accuracy, one view": logits, "validation accuracy, image": two}.items():
        accuracy = 100 * (scores.argmax(1) == labels).double().mean().item()
        assert accuracy == pytest.approx(float(in_card(row, dataset).split()[0]), abs=0.06)


def test_rounding_moves_no_weight_by_more_than_half_a_scale(tmp_path):
    whole, rounded = tmp_path / "whole.safetensors", tmp_path / "rounded.safetensors"
    model = make_model("cnn_bn", 4, width=0.3, image_size=8)
    with torch.no_grad():
        model[-1].weight[0] = 0  # a row that has no scale
    fit(model, *small_batches(), TrainConfig(epochs=1, batch_size=16, precision="float32"), checkpoint=whole)
    before = load_checkpoint(whole)
    save_rounded(rounded, before)
    after = load_checkpoint(rounded)
    assert rounded.stat().st_size < 0.6 * whole.stat().st_size  # most of this small file says what it is
    for name, weights in before.weights.items():
        assert after.weights[name].dtype == weights.dtype
        if weights.ndim < 2:
            assert torch.equal(after.weights[name], weights)
        else:
            off = (after.weights[name] - weights).flatten(1).abs().amax(1)
            assert (off <= weights.flatten(1).abs().amax(1) / 254 * 1.001).all()
    assert (after.identity, after.history, after.class_names) == (before.identity, before.history, before.class_names)
    assert load_model(rounded).predict(Image.fromarray(random_split().images[0].permute(1, 2, 0).numpy()), 1)
