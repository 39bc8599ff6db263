"""Read the package's facts from settings.ini, where they are written once."""

from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent


def read_facts() -> dict[str, str]:
    """Everything settings.ini says."""
    parser = ConfigParser(delimiters=["="], interpolation=None)
    parser.read(HERE / "settings.ini", encoding="utf-8")
    return dict(parser["DEFAULT"])


facts = read_facts()
suffix = "_requirements"

setup(
    name=facts["lib_name"],
    version=facts["version"],
    description=facts["description"],
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=facts["author"],
    license=facts["license"],
    license_files=["LICENSE"],
    keywords=facts["keywords"].split(),
    python_requires=">=" + facts["min_python"],
    packages=find_packages(include=["coreota", "coreota.*"]),
    package_data={"coreota": ["py.typed"]},
    install_requires=facts["requirements"].split(),
    extras_require={name.removesuffix(suffix): value.split() for name, value in facts.items() if name.endswith(suffix)},
    entry_points={"console_scripts": facts["console_scripts"].split()},
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Developers",
        "Intended Audience :: Education",
        "Programming Language :: Python :: 3",
        "Topic :: Software Development :: Embedded Systems",
        "Typing :: Typed",
    ],
)
