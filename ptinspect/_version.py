"""The version of the package; a test checks that pyproject.toml and CHANGELOG.md agree with it."""

__version__ = "0.1.0"
