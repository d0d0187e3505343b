"""The version of the shim: that of the distribution it comes with, which a test holds it to."""

__version__ = "0.1.0"
