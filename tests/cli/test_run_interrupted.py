"""`pdepth run` that is interrupted: what it leaves, and how the same command resumes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from pdepth.result import DepthResult

from helpers.commands import invoke, refusal

for module in ("pyarrow", "matplotlib", "PIL"):
    pytest.importorskip(module)


def test_the_same_command_resumes_an_interrupted_run(tmp_path, user_file, monkeypatch):
    from pdepth.io import journal

    write, allowed = journal.Journal.write_votes, [2]

    def write_some(*arguments):
        allowed[0] -= 1
        if allowed[0] < 0:
            raise KeyboardInterrupt
        write(*arguments)

    monkeypatch.setattr(journal.Journal, "write_votes", write_some)
    out = tmp_path / "o"
    command = [
        "run",
        f"{user_file}:net",
        "--support",
        f"{user_file}:support",
        "--out",
        out,
        "-k",
        5,
        "-q",
    ]
    result = invoke(*command)
    assert result.exit_code == 130
    assert result.stderr.endswith("Interrupted. The same command resumes from here.\n")
    assert len(list((out / ".unfinished").glob("votes-*"))) == 2
    about = json.loads((out / ".unfinished" / journal.ABOUT).read_bytes())
    assert about["journal"] == journal.VERSION
    assert "pdepth" not in about  # another release of the same format resumes it
    allowed[0] = 99
    sentence = refusal(*command[:-3], "-k", 6, "-q")
    assert "holds a run of which k differs: 5 then, 6 now; use another directory" in sentence
    assert sentence.endswith("Pass --overwrite to discard it.\n")
    (out / "depth.parquet").touch()  # cut short while it wrote
    assert invoke(*command).exit_code == 0
    assert sorted(path.name for path in out.iterdir()) == ["depth.parquet", "depth.png"]
    allowed[0] = 2
    assert invoke(*command, "--overwrite").exit_code == 130
    allowed[0] = 99
    assert invoke(*command[:-3], "-k", 6, "-q", "--overwrite").exit_code == 0
    assert DepthResult.load(out / "depth.parquet").k == 6
    assert invoke(*command, "--overwrite").exit_code == 0
    other = tmp_path / "other"
    command[command.index(out)] = other
    assert invoke(*command).exit_code == 0
    resumed, whole = (DepthResult.load(path / "depth.parquet") for path in (out, other))
    assert (resumed.votes == whole.votes).all()
    assert (resumed.depth == whole.depth).all()


@pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
def test_ctrl_c_ends_at_once_and_leaves_nothing(tmp_path, user_file):
    out = tmp_path / "out"
    out.mkdir()
    command = [
        sys.executable,
        "-m",
        "pdepth",
        "run",
        f"{user_file}:net",
        "--support",
        f"{user_file}:Slow",
    ]
    with subprocess.Popen(
        [*command, "--out", str(out)],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's & ignores it
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "reading\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)  # the data would take minutes
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "Interrupted."
    assert "Traceback" not in errors
    assert os.listdir(out) == []
