import pytest
import torch

from cifar_helpers.course import BASELINE, FINAL, FINETUNED, LAPTOP, QUICK, STUDY, Expected, Work, expect
from cifar_helpers.course.minutes import training_rate
from cifar_helpers.models import layer_table, make_model
from cifar_helpers.transfer import build_transfer_model

CPU = torch.device("cpu")
LINEAR = BASELINE.change(model="linear", epochs=3, batch_size=100)


def test_operations_are_three_forward_passes_in_training_and_one_in_validation():
    forward = 2 * 3 * 32 * 32 * 10
    work = Work(LINEAR, images=1_050, val_images=200, runs=2)
    assert work.steps == 33
    assert work.operations == 2 * (3 * forward * 3 * 1_050 + forward * 3 * 200)


def test_a_bound_on_steps_bounds_the_work():
    forward = 2 * 3 * 32 * 32 * 10
    work = Work(LINEAR.change(max_steps=15), images=1_000, val_images=200)
    assert work.steps == 15
    assert work.operations == 3 * forward * 1_500 + forward * 2 * 200


def test_small_images_cost_what_the_network_makes_of_them():
    model = make_model("fast", width=0.5)
    forward = {size: 2 * sum(row.multiply_adds for row in layer_table(model, size)) for size in (20, 24, 32)}
    per_image = 0.4 * forward[20] + 0.3 * forward[24] + 0.3 * forward[32]
    work = Work(STUDY, images=2_560, val_images=0)
    assert work.operations == pytest.approx(3 * per_image * 2_560 * STUDY.training.epochs)
    assert work.operations < Work(STUDY.change(image_sizes=()), images=2_560, val_images=0).operations / 1.4


def test_more_seeds_take_longer_by_their_number():
    one, five = (expect([Work(FINAL, 45_000, runs=runs)], LAPTOP, CPU).seconds for runs in (1, 5))
    assert five == pytest.approx(5 * one)
    assert expect([], QUICK, CPU, other_seconds=40).seconds == 40


@pytest.mark.parametrize(
    ("seconds", "profile", "text"),
    [
        (20, "quick", "less than a minute on this machine (profile quick)"),
        (80, "laptop", "about 1 minute on this machine (profile laptop)"),
        (360, "laptop", "about 6 minutes on this machine (profile laptop)"),
        (5_400, "full", "about 90 minutes on this machine (profile full); CIFAR_PROFILE=laptop takes less"),
        (5_400, "quick", "about 90 minutes on this machine (profile quick)"),
    ],
)
def test_minutes_are_said_for_a_reader(seconds, profile, text):
    assert str(Expected(seconds, profile)) == text


def test_the_rate_is_measured_once_and_draws_nothing():
    training_rate.cache_clear()
    state = torch.get_rng_state()
    rate = training_rate(CPU)
    assert 1e8 < rate < 1e15
    assert torch.equal(state, torch.get_rng_state())
    assert training_rate(CPU) == rate


def test_a_pretrained_network_is_counted_at_its_own_size():
    model = build_transfer_model(FINETUNED.model, 10, weights=False)
    state = torch.get_rng_state()
    forward = 2 * sum(row.multiply_adds for row in layer_table(model, 32))
    kinds = ("all", "last stage", "head")
    whole, last, head = (Work(FINETUNED.change(train=train), images=1_000, val_images=100) for train in kinds)
    assert whole.operations == 3 * (3 * forward * 1_000 + forward * 100)
    assert head.operations == 3 * ((forward + 4 * 1280 * 10) * 1_000 + forward * 100)
    assert head.operations < last.operations < 0.7 * whole.operations
    assert 1.7e8 < forward / 2 * (224 / FINETUNED.model.image_size) ** 2 < 5e8  # published: 407 million at 224 pixels
    assert torch.equal(state, torch.get_rng_state())


def test_a_pretrained_network_has_a_rate_of_its_own():
    training_rate.cache_clear()
    assert 1e8 < training_rate(CPU, "efficientnet_lite0") < 1e15
    assert training_rate.cache_info().currsize == 1
