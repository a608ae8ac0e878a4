"""Ask for known vulnerabilities of what is installed, and fail only where one is found.

pip-audit alone ends well where its service knows no package at all, as behind a mirror that has the files of PyPI and
not its records. Here that is said. Arguments go to pip-audit.
"""

import json
import subprocess
import sys
from collections.abc import Sequence

COMMAND = ("-m", "pip_audit", "--format", "json", "--progress-spinner", "off", "--skip-editable")
MAX_NAMES = 8


def main(arguments: Sequence[str]) -> int:
    """Run pip-audit, print what it found, and return the exit code."""
    done = subprocess.run([sys.executable, *COMMAND, *arguments], capture_output=True, text=True)
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        lines = done.stderr.strip().splitlines()
        print(f"audit: NOT CHECKED, pip-audit has no result: {lines[-1] if lines else 'no message'}")
        return 0
    *found, summary = report(packages)
    print(*found, summary, sep="\n")
    return 1 if found else 0


def report(packages: Sequence[dict[str, object]]) -> list[str]:
    """Return a line for each known vulnerability and, last, how much was checked."""
    found = [line for package in packages for line in describe(package)]
    return [*found, f"audit: {summarize(packages, len(found))}"]


def describe(package: dict[str, object]) -> list[str]:
    """Return a line for each known vulnerability of a package; one that was skipped has neither version nor any."""
    known = package.get("vulns") or []
    assert isinstance(known, list)
    name = f"{package['name']} {package.get('version', '')}".strip()
    return [f"{name}: {each['id']}, mended in {', '.join(each['fix_versions']) or 'no version yet'}" for each in known]


def summarize(packages: Sequence[dict[str, object]], num_found: int) -> str:
    """Return in words how much was checked and what came of it."""
    unknown = [str(package["name"]) for package in packages if "skip_reason" in package]
    if len(unknown) == len(packages):
        return f"NOT CHECKED, the service knows none of the {len(packages)} packages"
    more = f" and {len(unknown) - MAX_NAMES} more" if len(unknown) > MAX_NAMES else ""
    aside = f"; not checked, for it does not know them: {', '.join(unknown[:MAX_NAMES])}{more}" if unknown else ""
    return f"{num_found or 'no'} known vulnerabilities in {len(packages) - len(unknown)} packages{aside}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
