from pathlib import Path
from shutil import rmtree

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent

core = [
    "torch>=2.9",
    "torchvision>=0.24",
    "timm>=1.0.20",
    "pydantic>=2.10,<3",
    "pyyaml>=6",
    "pillow>=10",
    "tqdm>=4.66",
    "numpy>=1.26",
    "safetensors>=0.4.5",
    "wandb>=0.31",
    "jinja2>=3.1",
    "argcomplete>=3.3",
]
extras = {
    "hf": ["transformers>=4.48"],
    "smp": ["segmentation-models-pytorch>=0.5"],
    "export": ["onnx>=1.16", "onnxscript>=0.3", "onnxruntime>=1.19"],
    "sbd": ["scipy>=1.11"],
    "tiff": ["tifffile>=2023.7"],
    "slurm": ["submitit>=1.5"],
}
everything = [package for packages in extras.values() for package in packages]
development = [
    *everything,
    "pytest>=8",
    "pytest-timeout>=2.3",
    "pytest-xdist>=3.6",
    "hypothesis>=6.100",
    "jsonschema>=4.20",
    "ruff>=0.8",
    "mypy>=1.13",
    "types-PyYAML",
    "types-tqdm",
]


class BuildWithRecipes(build_py):
    """Recipes lie beside the package in a clone, and inside it where it is installed.

    What an earlier build left in ``build/lib`` goes first: modules and recipes removed since would be packed again.
    """

    def run(self) -> None:
        if not self.editable_mode:
            for package in ("kd", "students", "teachers"):
                rmtree(Path(self.build_lib, package), ignore_errors=True)
        super().run()
        if self.editable_mode:
            return
        for file in sorted((HERE / "recipes").rglob("*")):
            if file.is_file() and "results" not in file.parts:
                target = Path(self.build_lib, "kd", file.relative_to(HERE))
                self.mkpath(str(target.parent))
                self.copy_file(str(file), str(target), preserve_mode=False)


setup(
    name="segmentation-kd",
    version="0.3.0",
    description="Knowledge distillation for semantic segmentation: JML-KD and its baselines under one protocol",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10",
    packages=find_packages(include=["kd*", "teachers*", "students*"]),
    package_data={"kd": ["py.typed", "report/templates/*"], "teachers": ["py.typed"], "students": ["py.typed"]},
    install_requires=core,
    extras_require={**extras, "all": everything, "dev": development},
    entry_points={"console_scripts": ["kd = kd.commands.main:main"]},
    cmdclass={"build_py": BuildWithRecipes},
)
