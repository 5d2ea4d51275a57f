"""An audit that could look up nothing is not one that found nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from check_advisories import KNOWN, UNAUDITED, WELL, main, verdict

ROOT = Path(__file__).parent.parent
GOOD: dict[str, Any] = {"name": "a", "version": "1", "vulns": []}
BAD: dict[str, Any] = {"name": "b", "version": "2", "vulns": [{"id": "CVE-1", "fix_versions": ["3"]}]}
UNKNOWN: dict[str, Any] = {"name": "c", "skip_reason": "Dependency not found on PyPI"}


@pytest.mark.parametrize(
    ("packages", "code", "words"),
    [
        ([GOOD], WELL, "1 packages: no advisory is known"),
        ([GOOD, BAD], KNOWN, "b 2: CVE-1, mended in 3"),
        ([BAD, UNKNOWN], KNOWN, "not audited: 1 of 2 packages, first c"),
        ([GOOD, UNKNOWN], UNAUDITED, "not audited: 1 of 2 packages, first c"),
        ([UNKNOWN], UNAUDITED, "not audited: the database of advisories cannot be reached, or knows none of the 1 packages"),
    ],
)
def test_what_an_audit_says(packages: list[dict[str, Any]], code: int, words: str) -> None:
    found, lines = verdict(packages)
    assert found == code
    assert words in "\n".join(lines)


@pytest.mark.parametrize(
    ("report", "code"), [({"dependencies": [GOOD]}, WELL), ({"dependencies": [BAD]}, KNOWN), (None, UNAUDITED)]
)
def test_the_exit_code_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str], report: Any, code: int) -> None:
    program = tmp_path / "pip-audit"
    program.write_text(f"#!/bin/sh\necho '{json.dumps(report) if report else ''}'\necho 'no route' >&2\n")
    program.chmod(0o755)
    assert main(str(program), "requirements.lock") == code
    told = capsys.readouterr().out
    assert told.endswith(f"audit: exit code {code}\n")
    assert ("cannot be reached, or requirements.lock not read (no route)" in told) == (report is None)


@pytest.mark.parametrize("lock", sorted(path.name for path in ROOT.glob("requirements*.lock")))
def test_locks_hold_versions_and_digests_and_no_address(lock: str) -> None:
    lines = [line.strip().rstrip("\\").strip() for line in (ROOT / lock).read_text().splitlines()]
    assert lines
    for number, line in enumerate(lines):
        assert "://" not in line
        assert not line.startswith("-") or line.startswith("--hash=sha256:")
        if not line.startswith("--hash"):
            assert "==" in line
            assert lines[number + 1].startswith("--hash=sha256:")
