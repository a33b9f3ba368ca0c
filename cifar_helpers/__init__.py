"""The machinery behind the notebooks: data, models, training, checks and plots for CIFAR-10 and CIFAR-100."""

__version__ = "0.1.0"
