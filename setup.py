"""pipelines/ and configs/ stand at the top of the tree and are shipped inside the package."""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages(include=["speechkit", "speechkit.*"]),
        *(f"speechkit.{name}" for name in find_packages(include=["pipelines", "pipelines.*", "configs", "configs.*"])),
    ],
    package_dir={"speechkit.pipelines": "pipelines", "speechkit.configs": "configs"},
    package_data={
        "speechkit.pipelines": ["*.html", "*.js"],
        "speechkit.configs": ["*/*.yaml"],
        "speechkit": ["py.typed"],
        "speechkit.export": ["c/*"],
        "speechkit.models": ["*/*"],
    },
)
