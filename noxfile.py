"""The five commands of a contributor, run in the environment that nox is called from."""

import sys

import nox

nox.options.default_venv_backend = "none"
nox.options.sessions = ["lint", "tests"]
PYTEST = ("pytest", "-n", "auto", "--dist", "worksteal")


@nox.session
def tests(session: nox.Session) -> None:
    """The fast tier."""
    session.run(*PYTEST, *session.posargs)


@nox.session
def all_tests(session: nox.Session) -> None:
    """Every test, the slow ones too."""
    session.run(*PYTEST, "-m", "slow or not slow", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Style, format, types and the order of imports."""
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")
    session.run(".ci/imports", env={"PYTHON": sys.executable}, external=True)


@nox.session
def docs(session: nox.Session) -> None:
    """The site, with warnings as errors."""
    session.run("mkdocs", "build", "--strict", *session.posargs)


@nox.session
def bench_quick(session: nox.Session) -> None:
    """pdepth beside its peers, on small shapes."""
    session.run("pdepth", "bench", "--quick", *session.posargs)
