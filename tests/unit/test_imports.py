"""What importing the package loads and registers. Each test runs in a new process."""

import shutil

import pytest

from support.commands import run
from support.paths import PLUGIN, ROOT

# The packages that run without fairseq, and all their modules.
WITHOUT_FAIRSEQ = ["common", "data", "inference", "server", "report.plots", "report.statistics"]

IMPORT_ALL = """
import importlib, pkgutil
package = importlib.import_module("fairseq_resmlp.{package}")
for module in pkgutil.walk_packages(getattr(package, "__path__", []), package.__name__ + "."):
    importlib.import_module(module.name)
"""

FAIL_ONCE = """
import fairseq_resmlp, sys
sys.modules["omegaconf"] = None
try:
    import fairseq
except ImportError:
    del sys.modules["omegaconf"]
import fairseq
"""

MORE_IMPORTS = [
    "import fairseq_resmlp; from fairseq_cli.train import cli_main",
    "import fairseq_resmlp.resmlp",
    "import fairseq_resmlp.modules.linear",
    "import fairseq_resmlp.checkpoints.safe_loading",
    "import fairseq_resmlp.fairseq_patches.data",
    "import fairseq_resmlp.vision.task",
    "import fairseq_resmlp.model.config",
    "import fairseq_resmlp.criterions.distillation",
    "import fairseq_resmlp, importlib; importlib.reload(fairseq_resmlp); import fairseq",
    "import fairseq_resmlp, fairseq, importlib; importlib.reload(fairseq); importlib.reload(fairseq_resmlp)",
]

CHECK_REGISTERED = """
import logging, sys
root = logging.getLogger()
assert (root.level, root.handlers) == logging_before, (root.level, root.handlers)

from fairseq import checkpoint_utils
from fairseq.criterions import CRITERION_REGISTRY
from fairseq.models import ARCH_MODEL_REGISTRY, MODEL_REGISTRY
from fairseq_cli import interactive, train

import fairseq_resmlp

assert ARCH_MODEL_REGISTRY["resmlp_s12"] is MODEL_REGISTRY["image_resmlp"]
assert not {"PIL", "kornia", "pytorch_optimizer"} & set(sys.modules), "only image tasks need them"
assert ARCH_MODEL_REGISTRY["resmlp_base"] is MODEL_REGISTRY["resmlp"] is fairseq_resmlp.ResMLPModel
assert {"fused_label_smoothed_cross_entropy", "label_smoothed_cross_entropy_with_teacher"} <= set(CRITERION_REGISTRY)
patched = checkpoint_utils.load_checkpoint_to_cpu.__wrapped__  # AttributeError: not patched
assert not hasattr(patched, "__wrapped__"), "patched twice"
assert interactive.buffered_read.__module__ == "fairseq_resmlp.fairseq_patches.generation"
assert hasattr(train.add_defaults, "__wrapped__")
assert not [finder for finder in sys.meta_path if type(finder).__module__ == "fairseq_resmlp"]
"""


def python(code):
    """Run code in a new process and return its output."""
    return run("python", "-c", code, cwd=ROOT, env={}).stdout


def loaded_by(code):
    """Run code in a new process and return which of torch, fairseq and fairseq's dependencies it loads."""
    output = python(f"{code}\nimport sys; print('modules:', *sys.modules)")
    modules = output.splitlines()[-1].removeprefix("modules: ").split()
    assert "fairseq_resmlp" in modules
    return {"torch", "fairseq", "hydra", "omegaconf"} & set(modules)


def test_importing_the_package_loads_neither_torch_nor_fairseq():
    assert loaded_by("import fairseq_resmlp") == set()


@pytest.mark.parametrize(
    "statements",
    [
        "import fairseq_resmlp, fairseq",
        "import fairseq, fairseq_resmlp",
        "from fairseq_resmlp import ResMLPModel",
        "import fairseq_resmlp.inference, importlib.util; assert importlib.util.find_spec('fairseq'); import fairseq",
        FAIL_ONCE,
        *(pytest.param(statements, marks=pytest.mark.slow) for statements in MORE_IMPORTS),
    ],
)
def test_the_plugin_is_registered_in_any_order_of_imports_and_leaves_logging_unchanged(statements):
    before = "import logging\nlogging_before = (logging.WARNING, [])"
    if statements.startswith("import fairseq,"):  # fairseq itself changes it
        before = f"import fairseq\n{before}\nlogging.root.handlers.clear(); logging.root.setLevel(logging.WARNING)"
    python(f"{before}\n{statements}\n{CHECK_REGISTERED}")


@pytest.mark.parametrize("package", WITHOUT_FAIRSEQ)
def test_packages_that_do_not_need_fairseq_do_not_load_it(package):
    assert loaded_by(IMPORT_ALL.format(package=package)) <= {"torch"}


def test_searching_for_fairseq_without_importing_it_loads_nothing():
    assert loaded_by("import fairseq_resmlp, importlib.util; assert importlib.util.find_spec('fairseq')") == set()


def test_an_unknown_attribute_is_an_attribute_error():
    assert loaded_by("import fairseq_resmlp; assert not hasattr(fairseq_resmlp, 'missing')") == set()


def test_the_help_of_the_command_and_its_subcommands_loads_neither_torch_nor_fairseq():
    code = """
from fairseq_resmlp.cli.main import main
assert "translate" in main.commands
for command in ([], *([name] for name in main.commands)):
    main([*command, "--help"], standalone_mode=False)
"""
    assert loaded_by(code) == set()


def test_a_checkout_can_be_the_user_dir_and_takes_precedence_over_the_installed_package(tmp_path):
    checkout = shutil.copytree(PLUGIN, tmp_path / "fairseq_resmlp", ignore=shutil.ignore_patterns("__pycache__"))
    config = checkout / "model" / "config.py"
    text = config.read_text(encoding="utf-8")
    assert "number of encoder layers" in text
    config.write_text(text.replace("number of encoder layers", "layers of this checkout"), encoding="utf-8")
    done = run("fairseq-train", "--user-dir", checkout, "--arch", "resmlp_base", "--help", cwd=tmp_path, env={})
    assert "layers of this checkout" in " ".join(done.stdout.split())
