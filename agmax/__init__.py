"""Train and evaluate image classifiers with AgMax and Soft Augmentation, from configuration files."""

__version__ = "0.1.0"
