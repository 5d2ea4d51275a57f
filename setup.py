from pathlib import Path

from setuptools import find_packages, setup

core = [
    "torch>=2.9",
    "torchvision>=0.24",
    "timm>=1.0.20",
    "pydantic>=2.7,<3",
    "pyyaml>=6",
    "pillow>=10",
    "tqdm>=4.66",
    "numpy>=1.26",
    "safetensors>=0.4.5",
    "wandb>=0.31",
    "jinja2>=3.1",
]
extras = {
    "hf": ["transformers>=4.48"],
    "smp": ["segmentation-models-pytorch>=0.5"],
    "export": ["onnx>=1.16", "onnxscript>=0.3", "onnxruntime>=1.19"],
    "sbd": ["scipy>=1.11"],
}
everything = [package for packages in extras.values() for package in packages]
development = [
    *everything,
    "pytest>=8",
    "pytest-timeout>=2.3",
    "pytest-xdist>=3.6",
    "hypothesis>=6.100",
    "ruff>=0.8",
    "mypy>=1.13",
    "types-PyYAML",
    "types-tqdm",
]

setup(
    name="segmentation-kd",
    version="0.1.0",
    description="Knowledge distillation for semantic segmentation: JML-KD and its baselines under one protocol",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10",
    packages=find_packages(include=["kd*", "teachers*", "students*"]),
    package_data={"kd": ["py.typed", "report/templates/*"], "teachers": ["py.typed"], "students": ["py.typed"]},
    install_requires=core,
    extras_require={**extras, "all": everything, "dev": development},
)
