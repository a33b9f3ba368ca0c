import pytest

from cifar_helpers.course.profiles import PROFILES, get_budget, profile_rank


def test_profile_comes_from_the_argument_then_the_environment_then_the_machine(monkeypatch):
    monkeypatch.setenv("CIFAR_PROFILE", "laptop")
    assert get_budget("quick").profile == "quick"
    assert get_budget().profile == "laptop"
    monkeypatch.delenv("CIFAR_PROFILE")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert get_budget().profile == "laptop"  # with GPUs, and on Colab: tests/test_colab.py


def test_unknown_profile_offers_the_nearest(monkeypatch):
    monkeypatch.setenv("CIFAR_PROFILE", "quik")
    with pytest.raises(ValueError, match=r"CIFAR_PROFILE.*Did you mean 'quick'"):
        get_budget()


def test_profiles_are_ordered():
    assert [profile_rank(name) for name in ("nonsense", *PROFILES)] == [-1, 0, 1, 2]
