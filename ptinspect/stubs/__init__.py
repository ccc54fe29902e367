"""Python source for the classes that a file needs and that are not installed.

A stub is made in three steps: `collect` translates the file's objects into expressions, `infer`
finds the constructors of their classes, `write_module` turns these into source. `build` runs them.
"""

from __future__ import annotations

from ptinspect.stubs.build import StubOptions, stub, stub_of, stub_package, stubbed, untranslated

__all__ = ["StubOptions", "stub", "stub_of", "stub_package", "stubbed", "untranslated"]
