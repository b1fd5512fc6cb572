"""Parts are found by being there; a variant is one file and one yaml."""

import importlib
import inspect
import pkgutil
from pathlib import Path

import pytest
import yaml

import variants
from variants import UnknownPart, get, names, register
from variants._core import registry as _registry

FOLDER = Path(variants.__file__).parent
CONF = FOLDER.parent / "conf" / "variant"


def public():
    return [m.name for m in pkgutil.iter_modules(variants.__path__) if not m.name.startswith("_")]


def test_the_axes_hold_what_the_papers_add():
    forms = "boft delora fourierft gralora hira loha lokr lora_fa lora_xs miss oft randlora tinylora vera"
    assert names("delta") == sorted(["adalora", "dora", "lora", *forms.split()])
    starts = "corda eva gaussian kaiming loftq lora_ga milora olora pissa"
    assert names("init") == starts.split()
    assert names("scaling") == ["alpha_over_r", "alpha_over_sqrt_r", "constant", "none"]
    assert names("storage") == ["bf16", "fp32", "fp4", "int4", "nf4"]
    assert names("grouping") == ["lora_plus", "uniform"]
    assert names("gradient") == ["lora_pro", "riemannian"]
    assert names("controller") == ["adalora_budget"]
    inserted = ["houlsby", "ia3", "pfeiffer", "prefix", "prompt", "ptuning_v2"]
    assert names("method") == sorted(["adapters", "bitfit", "full", "probe", "zero", *inserted])


def test_an_unknown_name_says_what_there_is():
    with pytest.raises(UnknownPart) as error:
        get("delta", "dorra")
    assert str(error.value) == (
        f"no delta named 'dorra'. Did you mean 'dora'? Known: {', '.join(names('delta'))}. "
        "To add one, write variants/<file>.py with @register('delta', 'dorra'), or put the file into a "
        "folder of your own and name that in ABLORA_VARIANTS."
    )
    with pytest.raises(ValueError, match="no axis named 'detla'"):
        names("detla")


def test_a_second_part_of_one_name_is_an_error():
    with pytest.raises(ValueError, match=r"delta 'lora' is defined in variants\.lora and again in"):
        register("delta", "lora")(type("Other", (), {}))


def test_a_new_file_is_found_because_it_exists(tmp_path, monkeypatch):
    (tmp_path / "newcomer.py").write_text(
        "from variants import register\n\n"
        "@register('scaling', 'newcomer')\ndef newcomer(alpha, r):\n    return alpha\n"
    )
    monkeypatch.setattr(variants, "__path__", [*variants.__path__, str(tmp_path)])
    caches = (_registry._sources, _registry._index, _registry._discover)
    for cache in caches:
        cache.cache_clear()
    try:
        assert "newcomer" in names("scaling") and get("scaling", "newcomer")(3.0, 2) == 3.0
    finally:
        _registry._parts.pop(("scaling", "newcomer"), None)
        for cache in caches:
            cache.cache_clear()


@pytest.mark.parametrize("name", public())
def test_a_paper_says_what_it_is(name):
    assert importlib.import_module(f"variants.{name}").__doc__


def configs():
    return {path.stem: yaml.safe_load(path.read_text()) for path in sorted(CONF.glob("*.yaml"))}


def resolved(name):
    """A variant's yaml with what it inherits."""
    own = configs()[name]
    parents = [d for d in own.get("defaults", []) if isinstance(d, str) and d != "_self_"]
    merged = {}
    for parent in parents:
        merged |= resolved(parent)
    return merged | own


@pytest.mark.parametrize("name", configs())
def test_every_value_in_a_variants_yaml_is_a_part_that_exists(name):
    config = resolved(name)
    assert config["method"] in names("method")
    if config["method"] == "adapters":
        for axis in ("delta", "scaling", "grouping"):
            assert config[axis] in names(axis)
        assert config.get("init", "kaiming") in names("init")
        assert config["controller"] in {"none", *names("controller")}
        assert config["storage"] in {None, *names("storage")}


def code_defaults():
    """Option -> the default that the code has for it, from every part and module that declares some."""
    found = {}
    for name in public():
        module = importlib.import_module(f"variants.{name}")
        found |= getattr(module, "defaults", {})
        for _, part in inspect.getmembers(module, inspect.isclass):
            if part.__module__ == module.__name__:
                found |= getattr(part, "defaults", {})
    return found


@pytest.mark.parametrize("name", configs())
def test_an_option_has_one_default_in_yaml_and_code(name):
    config, code = resolved(name), code_defaults()
    # in code a quantised base computes in the type of x unless asked; init is an axis
    own = {"compute", "init"}
    for option in set(config) & set(code) - own:
        assert config[option] == code[option], option
