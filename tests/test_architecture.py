"""The house keeps its one direction: conf -> run.py -> experiments -> records -> analysis, variants apart."""

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("variants", "experiments", "analysis", "hydra_plugins")
HEAVY = (
    "torch", "transformers", "datasets", "evaluate", "bitsandbytes", "peft", "wandb", "trackio",
    "tensorboardX",
)  # fmt: skip
PAPER = re.compile(r"arXiv:\d{4}\.\d{4,5}|OpenReview:\w+")

SOURCES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in [ROOT / "run.py", *(path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py")))]
}
TREES = {name: ast.parse(text, name) for name, text in SOURCES.items()}


def room(name):
    """The sources in a folder."""
    return [source for source in SOURCES if source.startswith(f"{name}/")]


def imported(source):
    """The dotted names that a source imports, anywhere in it."""
    found = set()
    for node in ast.walk(TREES[source]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{source}:{node.lineno}: write the import from the top"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def reaches(source, packages):
    """What of `packages` a source imports."""
    return {name for name in imported(source) if any(f"{name}.".startswith(f"{p}.") for p in packages)}


# --- one direction


@pytest.mark.parametrize("source", room("variants"))
def test_variants_know_nothing_of_experiments(source):
    assert not reaches(source, ["experiments", "analysis", "hydra", "omegaconf", "hydra_plugins"])


@pytest.mark.parametrize("source", room("experiments"))
def test_experiments_know_nothing_of_analysis(source):
    assert not reaches(source, ["analysis", "hydra_plugins"])


@pytest.mark.parametrize("source", room("analysis"))
def test_analysis_reads_records_and_nothing_else(source):
    assert not reaches(source, ["variants", "hydra", "hydra_plugins", "omegaconf", *HEAVY])
    allowed = tuple(f"experiments.{name}" for name in ("record", "files", "errors", "protocol", "metrics"))
    assert reaches(source, ["experiments"]) == reaches(source, allowed)


# --- no cycles, no crowded rooms

MODULES = {
    source.removesuffix(".py").removesuffix("/__init__").replace("/", "."): source for source in SOURCES
}
# Modules that import each other inside functions alone, which may run but hides what depends on what.
LATE_CYCLES = (
    {"experiments.export", "experiments.export._peft"},
    {"experiments.predict", "experiments.predict._answer"},
    {"experiments.tasks", "experiments.tasks._base"},
)


def depends(source, *, late):
    """The modules of ours that a source imports: when it is loaded, or with `late` also inside functions."""
    found, left = set(), [TREES[source]]
    while left:
        for node in ast.iter_child_nodes(left.pop()):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names = {f"{node.module}.{alias.name}" for alias in node.names}
                found |= {name if name in MODULES else node.module for name in names}
            typing = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
            if not typing and (late or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)):
                left.append(node)
    return found & MODULES.keys()


def cycles(*, late):
    """The sets of modules of which each reaches each other one."""
    direct = {name: depends(source, late=late) - {name} for name, source in MODULES.items()}
    reached = {}
    for name in direct:
        seen, left = set(), [name]
        while left:
            new = direct[left.pop()] - seen
            seen |= new
            left += new
        reached[name] = seen
    return {
        frozenset(other for other in reached[name] if name in reached[other])
        for name in reached
        if name in reached[name]
    }


def test_no_module_needs_itself_to_be_loaded():
    assert cycles(late=False) == set()


def test_hardly_any_module_needs_itself_at_all():
    assert cycles(late=True) <= {frozenset(names) for names in LATE_CYCLES}


def test_no_folder_is_crowded():
    folders = Counter(str(Path(source).parent) for source in SOURCES if Path(source).name != "__init__.py")
    papers = {"variants", "analysis/figures/papers"}
    assert {folder: n for folder, n in folders.items() if n > 15 and folder not in papers} == {}


def test_omegaconf_stays_where_configuration_is_read():
    homes = ("run.py", "experiments/spec.py", "experiments/config/", "experiments/sweep/", "hydra_plugins/")
    assert [s for s in SOURCES if reaches(s, ["omegaconf"]) and not s.startswith(homes)] == []


def test_hydras_faces_are_thin():
    for source in room("hydra_plugins"):
        assert len(SOURCES[source].splitlines()) <= 60, f"{source}: delegate to experiments"


def test_what_is_counted_before_a_run_is_counted_without_torch():
    modules = "experiments.sizing.counts, experiments.config.resolve"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_the_record_needs_the_standard_library_only():
    seen, left = set(), {"experiments.record"}
    while left:
        module = left.pop()
        seen.add(module)
        for name in imported(f"{module.replace('.', '/')}.py"):
            parts = name.split(".")
            if parts[0] == "experiments":
                left |= {".".join(parts[:2])} - seen
            else:
                assert parts[0] in sys.stdlib_module_names, f"{module} imports {name}"


def light():
    """The modules that answer a person at once, or run beside the training: they may import nothing heavy."""
    sources = [
        "experiments/__main__.py",
        "experiments/spec.py",
        "experiments/record.py",
        "experiments/console/display.py",
    ]
    sources += [f"experiments/{name}/__main__.py" for name in ("export", "predict", "lm_eval")]
    sources += (
        room("experiments/sweep") + room("experiments/tracking") + room("hydra_plugins") + room("analysis")
    )
    return [source.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for source in sources]


def test_nothing_heavy_is_imported_before_a_run_starts():
    code = (
        "import importlib, runpy, sys\n"
        f"for name in {light()!r}:\n"
        "    importlib.import_module(name)\n"
        f"    found = [heavy for heavy in {HEAVY!r} if heavy in sys.modules]\n"
        "    assert not found, f'{name} imports {found}'\n"
        "runpy.run_path('run.py', run_name='not main')\n"
        f"assert not [heavy for heavy in {HEAVY!r} if heavy in sys.modules], 'run.py'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ROOMS[:3])
def test_the_rooms_are_ours_and_not_a_namesake_on_the_path(name):
    code = f"import {name}; print({name}.__file__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()).is_relative_to(ROOT)


# --- a method is a yaml and a file


def methods():
    """The files of conf/variant, by name."""
    return {
        path.stem: yaml.safe_load(path.read_text()) for path in sorted((ROOT / "conf/variant").glob("*.yaml"))
    }


@pytest.mark.parametrize("name", methods())
def test_a_method_has_a_file_that_cites_its_paper(name):
    conf = methods()[name]
    assert conf["name"] == name
    docstring = ast.get_docstring(TREES[f"variants/{name}.py"])
    if conf.get("paper"):
        (paper,) = PAPER.findall(conf["paper"])
        assert paper in PAPER.findall(docstring)
    else:
        assert "baseline" in (ROOT / f"conf/variant/{name}.yaml").read_text()


PAPERS = [s for s in room("variants") if Path(s).parent.name == "variants" and Path(s).name[0] != "_"]


@pytest.mark.parametrize("source", PAPERS)
def test_a_paper_is_reached_by_a_method(source):
    values = {value for conf in methods().values() for value in conf.values() if isinstance(value, str)}
    assert Path(source).stem in values


@pytest.mark.parametrize("source", SOURCES)
def test_a_source_says_what_it_is_and_fits_a_sitting(source):
    assert ast.get_docstring(TREES[source])
    assert source in PAPERS or len(SOURCES[source].splitlines()) <= 400  # a paper is one file, however long
    assert "__future__" not in " ".join(imported(source))  # it would hide shapes from the runtime


def test_tests_share_fixtures_and_not_modules():
    files = sorted((ROOT / "tests").rglob("*.py"))
    assert not [path for path in files if path.name == "__init__.py"]
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                assert node.module.split(".")[0] not in ("tests", "conftest"), path


# --- what is installed, what is tracked

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]


def plain(requirement):
    """The canonical name in a requirement."""
    return re.split(r"[^\w.-]", requirement)[0].lower().replace("_", "-")


def test_every_import_is_declared():
    declared = {plain(requirement) for requirement in PROJECT["dependencies"]}
    extras = {
        plain(r)
        for extra in ("minilm", "gguf", "lm-eval", "math", "tensorboard", "trackio")
        for r in PROJECT["optional-dependencies"][extra]
    }
    tests = {plain(r) for r in PROJECT["optional-dependencies"]["test"]}
    homes = importlib.metadata.packages_distributions()
    for source in SOURCES:
        allowed = declared | extras | (tests if source.startswith("experiments/bench/") else set())
        for name in imported(source):
            top = name.split(".")[0]
            if top in sys.stdlib_module_names or top in ROOMS:
                continue
            found = {plain(home) for home in homes.get(top, [top])}
            assert found & allowed, f"{source} imports {top}"


def test_what_was_tested_is_pinned_and_can_be_installed_anywhere():
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", pin) for pin in PINS)  # no host, no local version
    asked = [*PROJECT["dependencies"], *(r for e in PROJECT["optional-dependencies"].values() for r in e)]
    assert {plain(requirement) for requirement in asked} <= {plain(pin) for pin in PINS}


@pytest.fixture(scope="module")
def tracked():
    """The files that a commit would hold."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a git clone")
    return [ROOT / name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_no_tracked_file_is_large(tracked):
    assert [path for path in tracked if path.stat().st_size > 500_000] == []


def test_no_tracked_file_names_a_place_on_one_machine(tracked):
    places = re.compile(rb"(?<![\w./-])/(work|root|home|farm|Users|opt|mnt|data)/\w")
    allowed = ("constraints.txt", Path(__file__).name)
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in tracked
        if path.name not in allowed and path.suffix not in (".png", ".pdf", ".parquet", ".safetensors")
        for number, line in enumerate(path.read_bytes().splitlines(), 1)
        if places.search(line)
    ]
    assert found == []
