"""The functions that `egovlpv2.checkpoints` exports."""

from importlib import import_module
from inspect import isfunction
from pkgutil import iter_modules

from egovlpv2 import checkpoints


def test_no_module_of_the_package_takes_the_name_of_an_exported_function() -> None:
    for module in iter_modules(checkpoints.__path__):
        import_module(f"egovlpv2.checkpoints.{module.name}")
    assert all(isfunction(getattr(checkpoints, name)) for name in ("convert", "load_backbone", "save_backbone"))
