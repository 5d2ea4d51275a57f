"""Ask the database of advisories about every pinned package: ``python tests/check_advisories.py PIP_AUDIT LOCK...``.

Exit codes: 0 nothing is known against them, 1 something is, 3 not audited: the database did not answer, or does not know them
all. pip-audit by itself says that there are no known vulnerabilities also where it could look up none.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

OPTIONS = ("--disable-pip", "--require-hashes", "--format=json", "--progress-spinner=off")
WELL, KNOWN, UNAUDITED = 0, 1, 3
UNREACHED = "not audited: the database of advisories cannot be reached"


def verdict(packages: Sequence[Mapping[str, Any]]) -> tuple[int, list[str]]:
    """Exit code and lines for people, of what pip-audit found about each package."""
    lines = [
        f"{one['name']} {one['version']}: {flaw['id']}, mended in {', '.join(flaw['fix_versions']) or 'no version yet'}"
        for one in packages
        for flaw in one.get("vulns", ())
    ]
    skipped = [one["name"] for one in packages if "skip_reason" in one]
    if skipped and len(skipped) == len(packages):
        return UNAUDITED, [f"{UNREACHED}, or knows none of the {len(packages)} packages"]
    if skipped:
        lines.append(f"not audited: {len(skipped)} of {len(packages)} packages, first {skipped[0]}: the database has no answer")
    if any(one.get("vulns") for one in packages):
        return KNOWN, lines
    return (UNAUDITED, lines) if skipped else (WELL, [f"{len(packages)} packages: no advisory is known"])


def main(program: str, *locks: str) -> int:
    """Run pip-audit on each lock, say what came of it."""
    packages: dict[tuple[str, str], Any] = {}
    code, lines = UNAUDITED, []
    for lock in locks:  # one by one: the same package may be pinned twice
        done = subprocess.run([program, *OPTIONS, "-r", lock], capture_output=True, text=True, timeout=600, check=False)
        try:
            packages |= {(one["name"], one.get("version", "")): one for one in json.loads(done.stdout)["dependencies"]}
        except ValueError:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            lines.append(f"{UNREACHED}, or {lock} not read ({reason[:200]})")
    if not lines:
        code, lines = verdict(list(packages.values()))
    print(*lines, f"audit: exit code {code}", sep="\n")
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
