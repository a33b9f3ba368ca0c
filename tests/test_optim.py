import copy

import pytest
import torch
from torch import nn

from cifar_helpers.training.optim import (
    Muon,
    freeze_layers,
    lr_factor,
    make_optimizer,
    orthogonalise,
    parameter_groups,
    set_lr,
)

NET = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


@pytest.mark.parametrize(
    ("schedule", "values"),
    [("constant", [1, 1, 1, 1]), ("cosine", [1, 0.8535, 0.5, 0]), ("triangular", [1, 0.75, 0.5, 0])],
)
def test_schedules_are_functions_of_the_fraction_done(schedule, values):
    assert [lr_factor(schedule, p) for p in (0, 0.25, 0.5, 1)] == pytest.approx(values, abs=1e-4)


def test_warmup_rises_linearly_and_the_schedule_fills_the_rest():
    factors = [lr_factor("triangular", p, warmup=0.2) for p in (0, 0.1, 0.2, 0.6, 1.0)]
    assert factors == pytest.approx([0, 0.5, 1, 0.5, 0])


def test_only_weights_decay():
    decaying, free = parameter_groups(NET, 0.1)
    assert [p.ndim for p in decaying["params"]] == [4, 2]
    assert len(free["params"]) == 4
    assert (decaying["weight_decay"], free["weight_decay"]) == (0.1, 0.0)


def test_frozen_parameters_are_left_out():
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    net[0].requires_grad_(False)
    optimizer = make_optimizer(net, lr=0.1)
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in held} == {id(p) for p in net[1].parameters()}


def test_biases_of_batchnorm_get_their_own_rate():
    optimizer = make_optimizer(NET, lr=0.1, weight_decay=0.2, norm_bias_lr=16.0)
    held = {len(group["params"]): (group["lr"], group["weight_decay"]) for group in optimizer.param_groups}
    assert len(optimizer.param_groups) == 3
    assert held[1] == (pytest.approx(1.6), 0.0)
    assert optimizer.param_groups[-1]["params"][0] is NET[1].bias
    set_lr(optimizer, 0.01)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.01, 0.01, 0.16])


def test_earlier_layers_learn_more_slowly_and_a_norm_as_fast_as_its_layer():
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), *NET[3:]
    )
    optimizer = make_optimizer(net, lr=1.0, layer_lr_decay=0.5)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert [rates[id(p)] for p in net.parameters()] == [0.25] * 4 + [0.5] * 4 + [1.0] * 2
    odd = nn.Sequential(nn.ReLU())
    odd.matrix = nn.Parameter(torch.zeros(2, 2))  # of the model itself, beside children without any
    assert [group["lr"] for group in make_optimizer(odd, lr=1.0, layer_lr_decay=0.5).param_groups] == [1.0]
    net[0].requires_grad_(False)  # a frozen layer still counts as one
    frozen = make_optimizer(net, lr=1.0, layer_lr_decay=0.5)
    assert sorted({group["lr"] for group in frozen.param_groups}) == [0.25, 0.5, 1.0]


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_every_optimizer_steps_downhill_at_the_given_rate(name):
    net = nn.Linear(3, 1)
    optimizer = make_optimizer(net, name, lr=1.0)
    set_lr(optimizer, 0.01)
    x = torch.randn(20, 3)
    losses = []
    for _ in range(20):
        loss = ((net(x) - x.sum(1, keepdim=True)) ** 2).mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0]
    assert {group["lr"] for group in optimizer.param_groups} == {0.01}


def test_one_cycle_is_that_of_torch():
    total = 2000
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    reference = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.5, total_steps=total, cycle_momentum=False)
    for step in range(total):
        assert 0.5 * lr_factor("one-cycle", step / (total - 1)) == pytest.approx(
            optimizer.param_groups[0]["lr"], abs=2e-3
        )
        optimizer.step()
        if step < total - 1:
            reference.step()


@pytest.mark.parametrize("shape", [(6, 20), (20, 6), (8, 8)])
def test_newton_schulz_keeps_singular_vectors_and_brings_singular_values_to_one(shape):
    """Against the SVD: the polynomial acts on the singular values alone."""
    matrices = torch.randn(3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    left, values, right = torch.linalg.svd(matrices, full_matrices=False)
    scaled = values / values.norm(dim=1, keepdim=True)
    for _ in range(5):
        scaled = 3.4445 * scaled - 4.7750 * scaled**3 + 2.0315 * scaled**5
    expected = left @ torch.diag_embed(scaled) @ right
    torch.testing.assert_close(orthogonalise(matrices, steps=5), expected, rtol=0, atol=1e-6)  # 1e-7 guards a zero
    assert 0.6 < scaled.min() < scaled.max() < 1.3


def test_muon_moves_filters_by_orthogonal_steps_and_all_else_as_sgd():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(16, 2)
    ).double()
    twin = nn.Sequential(nn.Linear(16, 2)).double()
    twin.load_state_dict({"0.weight": net[5].weight, "0.bias": net[5].bias})
    muon = make_optimizer(net, "muon", lr=0.1, muon_lr=0.02, weight_decay=0.01, momentum=0.9)
    sgd = make_optimizer(twin, "sgd", lr=0.1, weight_decay=0.01, momentum=0.9)
    for _ in range(3):
        before = [layer.weight.detach().clone() for layer in (net[0], net[2], net[3])]
        for p in net.parameters():
            p.grad = torch.randn_like(p)
        twin[0].weight.grad, twin[0].bias.grad = net[5].weight.grad.clone(), net[5].bias.grad.clone()
        muon.step()
        sgd.step()
        for layer, old in zip((net[0], net[2], net[3]), before, strict=True):
            step = (old * 2 / old.norm() - layer.weight.detach()).flatten(1) / 0.02
            assert 0.1 < torch.linalg.svdvals(step).min() < torch.linalg.svdvals(step).max() < 1.4
    torch.testing.assert_close(net[5].weight, twin[0].weight)
    torch.testing.assert_close(net[5].bias, twin[0].bias)


def test_muon_orthogonalises_filters_of_one_shape_together_as_one_by_one():
    torch.manual_seed(0)
    filters = [nn.Parameter(torch.randn(4, 3, 3, 3, dtype=torch.float64)) for _ in range(3)]
    alone = [nn.Parameter(p.detach().clone()) for p in filters]
    for p, q in zip(filters, alone, strict=True):
        p.grad = torch.randn_like(p)
        q.grad = p.grad.clone()
        Muon([q], lr=0.1).step()
    Muon(filters, lr=0.1).step()
    for p, q in zip(filters, alone, strict=True):
        torch.testing.assert_close(p, q)


def test_muon_takes_the_same_step_on_any_number_of_cores():
    found = []
    for cores in (1, 2):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 4, 1))
        optimizer = Muon(net.parameters(), lr=0.1)
        optimizer.cores = cores
        for _ in range(3):
            for p in net.parameters():
                p.grad = torch.randn_like(p) if p.ndim == 4 else None
            optimizer.step()
        found.append([p.detach() for p in net.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert copy.deepcopy(optimizer).cores == 1


def test_a_schedule_scales_both_rates_of_muon():
    optimizer = make_optimizer(NET, "muon", lr=0.1, muon_lr=0.4)
    set_lr(optimizer, 0.05)
    assert sorted({group["lr"] for group in optimizer.param_groups}) == pytest.approx([0.05, 0.2])


def test_frozen_layers_are_frozen_inside_the_block_alone():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(4, 2))
    net[2].bias.requires_grad_(False)  # by the reader: it stays so
    with freeze_layers(net, 1):
        assert [p.requires_grad for p in net.parameters()] == [False] * 4 + [True, False, True, True]
        assert net[0](torch.zeros(1, 3, 8, 8)).grad_fn is None
    assert [p.requires_grad for p in net.parameters()] == [True] * 5 + [False, True, True]
    with pytest.raises(ValueError, match=r"frozen_layers=3.*3 layers"), freeze_layers(net, 3):
        pass
