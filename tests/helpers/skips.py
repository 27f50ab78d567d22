"""What would run a test that is skipped: said beside the reason, wherever it is skipped."""

from __future__ import annotations

import re

TEST_EXTRA = "pip install 'pdepth[test]'"
NIGHTLY = ".ci/nightly"
# module, or distribution, that no extra of the tests installs -> what runs its tests
ELSEWHERE = {
    "aucurriculum": f"{NIGHTLY} libraries, or pip install 'pdepth[aucurriculum]'",
    "fiftyone": f"{NIGHTLY} libraries, or pip install 'pdepth[fiftyone]'",
    "lightning": f"{NIGHTLY} libraries, or pip install 'pdepth[lightning]'",
    "mkdocs": "pip install 'pdepth[docs]'",
    "mkdocstrings": "pip install 'pdepth[docs]'",
    "oodeel": f"{NIGHTLY} libraries, or pip install 'pdepth[oodeel]'",
    "scikit-learn-intelex": f"{NIGHTLY} newest, or pip install 'pdepth[bench]'",
    "ray": f"{NIGHTLY} newest, or pip install 'pdepth[ray]'",
    "pynndescent": f"{NIGHTLY} newest, or pip install 'pdepth[bench]'",
    "umap": "pip install 'pdepth[umap]'",
    "ml_dtypes": f"{NIGHTLY} newest, or pip install ml_dtypes",
}
# a reason of a skip -> what would run the test
REMEDIES = {
    r"does not interpret kernels": "pip install 'triton>=3.7', or 'numpy<2.4'",
    r"no GPU engine here|no triton backend here|no backend ": "TRITON_INTERPRET=1, or "
    "a CUDA device of capability 8.0 and Triton",
    r"this machine lacks": "a CPU that has it",
    r"interpreted fuzz has other widths|interpreter|slow to interpret": "a CUDA device",
    r"inside a kernel|where they are interpreted": "a machine without a CUDA device",
    r"there is a GPU to run it on": "a machine without one; bench/gpu itself runs here",
    r"CIFAR-10": "PDEPTH_DATA=FOLDER with cifar10.py and its arrays",
    r"chromium": "apt install chromium chromium-driver",
    r"an installed copy has no|is not beside the tests": "a checkout of the repository",
    r"Linux|counted in /proc|as POSIX has them|no /dev/full": "Linux",
    r"Windows (cuts|makes)|has no (fork|spawn|forkserver)|has no \{context\}": "Linux or macOS",
    r"has no mkfifo": "Linux or macOS",
    r"reads /proc": "Linux",
    r"no g\+\+ and nm": "apt install g++ binutils",
    r"no git here": "apt install git",
    r"no qemu-x86_64": "apt install qemu-user",
    r"no zig|no auditwheel": "pip install -r .ci/release-requirements.txt",
    r"SCIPY_ARRAY_API": "SCIPY_ARRAY_API=1",
    r"does not have a decision_function": "nothing: scikit-learn's own has none either",
    r"has no stored result": "the study that it names, which stores one",
    r"the stack limit": "a higher hard limit: ulimit -Hs",
    r"FiftyOne's database": f"{NIGHTLY} libraries, where its mongod can start",
}
MISSING = re.compile(r"could not import '([\w-]+)|([\w-]+)(?:, which)? is not installed")


def with_remedy(reason: str) -> str:
    """The reason of a skip, and what would run the test."""
    if "runs with: " in reason:
        return reason
    if "'resource'" in reason:  # a module of Python's own
        return f"{reason}; runs with: Linux or macOS"
    if missing := MISSING.search(reason):
        name = missing[1] or missing[2]
        return f"{reason}; runs with: {ELSEWHERE.get(name, TEST_EXTRA)}"
    for pattern, remedy in REMEDIES.items():
        if re.search(pattern, reason):
            return f"{reason}; runs with: {remedy}"
    return reason
