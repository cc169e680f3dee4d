"""Packaging of fairseq-resmlp; tools are configured in pyproject.toml."""

import re
from pathlib import Path

from setuptools import setup

HERE = Path(__file__).parent

setup(
    name="fairseq-resmlp",
    version=re.search(r'__version__ = "(.+)"', (HERE / "fairseq_resmlp" / "__init__.py").read_text())[1],
    description="fairseq plugin: machine translation with sequence-to-sequence ResMLP",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    packages=["fairseq_resmlp"],
    package_data={"fairseq_resmlp": ["*.css", "*.html"]},
    python_requires=">=3.8,<3.13",
    install_requires=[
        # The last official fairseq does not import on Python 3.11; fairseq-fixed is its main branch, mended.
        'fairseq==0.12.2; python_version < "3.11"',
        'fairseq-fixed==0.12.3.1; python_version >= "3.11"',
        'torch>=2.4,<2.6; python_version < "3.11"',
        'numpy<2; python_version < "3.11"',
        'torch>=2.6; python_version >= "3.11"',
        "click>=8",
        "sacrebleu>=2.3",
        "sentencepiece>=0.2.0",
    ],
    extras_require={
        "bench": ["ctranslate2>=4"],  # what fairseq-resmlp bench compares with
        # what fairseq-resmlp serve shows; Gradio 6 needs Python 3.10
        "page": ['gradio>=6; python_version >= "3.10"', "matplotlib>=3.7"],
        "report": ["jinja2>=3", "matplotlib>=3.7", "tensorboard>=2.14"],  # what fairseq-resmlp report shows and reads
        "reproduce": ["sacremoses>=0.1", "tensorboardX>=2.6"],  # what scripts/ needs beyond fairseq
        "test": [
            "fairseq-resmlp[bench,page,report,reproduce]",
            "hypothesis>=6",
            "playwright>=1.40",  # it drives the Chromium of the machine
            "pytest>=8.2",
            "pytest-xdist",
            "ruff",
        ],
    },
    entry_points={"console_scripts": ["fairseq-resmlp = fairseq_resmlp.cli:main"]},
)
