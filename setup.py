"""What pyproject.toml can't say yet: the memory's compiled part. Without a compiler the package works, more slowly."""

from pathlib import Path

from setuptools import Extension, setup

FOLDER = Path("titan_neuro/titans/memory/cpp")

setup(
    ext_modules=[
        Extension(
            "titan_neuro.titans.memory._native",
            [str(FOLDER / "scan.cpp")],
            depends=[str(path) for path in sorted(FOLDER.glob("*.h"))],
            extra_compile_args=["-O3", "-g0", "-std=c++17"],
            extra_link_args=["-pthread"],
            optional=True,
        )
    ]
)
