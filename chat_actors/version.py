"""The version of the package. Must import nothing: a build reads it without the dependencies."""

__version__ = "0.1.0"
