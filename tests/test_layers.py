"""Who may import whom, read from the imports of every module without running any."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "clmr"
SCRIPTS = ("preprocess.py", "main.py", "linear_evaluation.py")

# From bottom to top. A module imports only from rows below its own; a package counts as one module.
ROWS = (
    {"errors"},
    {"drawn", "registry", "trained"},
    {"ahead", "allocator", "audio", "config", "environment", "processes"},
    {"arguments", "augmentations", "datasets", "device", "encoders", "losses", "metrics"}
    | {"optim", "rundir", "store"},
    {"checkpoint_io", "curves", "job", "resident", "shards", "slices", "spectrograms", "splits"},
    {"datamodule", "modules"},
    {"callbacks", "checkpoint", "features", "finite", "interrupt", "preprocess", "resume"},
    {"earlier_run", "probe", "probing"},
    {"augment", "evaluate", "train"},
    {"command"},
    {"__main__"},
)
ROW_OF = {module: number for number, row in enumerate(ROWS) for module in row}
TOP = len(ROWS)  # where a module is that has no row yet

# What is imported in few places, so that trouble with it has one address.
ONLY_IN = {
    "av": {"audio"},
    "soundfile": {"audio"},
    "soxr": {"audio"},
    "jsonargparse": {"config"},
    "matplotlib": {"spectrograms"},
    "pyarrow": {"store"},
    "sklearn": {"metrics"},
    "timm": {"optim"},
    "simclr": {"modules/contrastive_learning"},
    "torchaudio": {"encoders"},
    "torchaudio_augmentations": {"augmentations"},
    "triton": {"augmentations/kernels"},
    "pytorch_lightning": {"callbacks", "curves", "datamodule", "evaluate", "finite", "interrupt"}
    | {"job", "modules", "probe", "probing", "resume", "train"},
    "lightning_fabric": {"checkpoint_io", "job"},
    # The other modules take plain arguments.
    "clmr.config": {"arguments", "augment", "command", "datamodule", "evaluate", "modules"}
    | {"earlier_run", "preprocess", "probe", "probing", "train"},
}

FILES = sorted(PACKAGE.rglob("*.py"))


def module_of(file: Path) -> str:
    """`store` for clmr/store.py, `datasets` for all of clmr/datasets, "" for clmr itself."""
    first = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "" if first == "__init__" else first


def imports(file: Path, package: str = "") -> Iterator[str]:
    """Full names of what a file imports anywhere in it: `clmr.errors.ClmrError`, `os`."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: -node.level + 1 or None] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def imports_in_package(file: Path) -> Iterator[str]:
    return imports(file, ".".join(["clmr", *file.relative_to(PACKAGE).parts[:-1]]))


def our_modules(file: Path) -> set[str]:
    """Which modules of the package a file imports, other than its own."""
    ours = {name.split(".")[1] for name in imports_in_package(file) if name.startswith("clmr.")}
    return ours - {module_of(file)}


def test_the_table_and_the_package_have_the_same_modules():
    assert set(ROW_OF) == {module_of(file) for file in FILES} - {""}
    assert len(ROW_OF) == sum(map(len, ROWS))


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_a_module_imports_only_from_rows_below_its_own(file: Path):
    own_row = ROW_OF.get(module_of(file), 0)  # clmr itself imports nothing, as it is always run
    assert {module for module in our_modules(file) if ROW_OF.get(module, TOP) >= own_row} == set()


@pytest.mark.parametrize("name", ONLY_IN)
def test_what_has_one_address_is_imported_there_and_nowhere_else(name: str):
    found = {
        file.relative_to(PACKAGE).with_suffix("").as_posix()
        for file in FILES
        for imported in imports_in_package(file)
        if f"{imported}.".startswith(f"{name}.")
    }
    elsewhere = {path for path in found if not {path, path.split("/")[0]} & ONLY_IN[name]}
    assert elsewhere == set()


def test_datasets_never_open_audio():
    files = [file for file in FILES if module_of(file) == "datasets"]
    assert files
    for file in files:
        assert "audio" not in our_modules(file)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_only_runs_one_workflow(script: str):
    file = PACKAGE.parent / script
    workflows = set(imports(file)) - {"sys", "clmr.command.run"}
    assert len(workflows) == 1
    assert workflows.pop().split(".")[1] in {"preprocess", "train", "evaluate"}
    assert not [node for node in ast.walk(ast.parse(file.read_text())) if is_logic(node)]


def is_logic(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef | ast.ClassDef | ast.For | ast.While | ast.Try)
