"""The wheel's packages: the root as `sdxl_anime_video`, and every folder in it that has an `__init__.py`."""

from setuptools import find_packages, setup

ROOT = "sdxl_anime_video"
inner = find_packages(exclude=["benchmarks*", "tests*"])
setup(package_dir={ROOT: "."}, packages=[ROOT, *(f"{ROOT}.{package}" for package in inner)])
