"""`python -m docs.tools build [STUDENT]` or `serve`, from the root of the repository."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping

from distill.bundle import Bundle
from docs.tools.reference import GENERATED
from docs.tools.staging import ROOT, STUDENT_FOLDER, stage
from export.layouts import write_layout

SECONDS_BETWEEN_LOOKS = 1.0
SITE = ROOT / "site"


def main() -> int:
    """Build the site into site/, with a student to try if a bundle is named; or show it and build it after each change."""
    generated = {name: page() for name, page in GENERATED.items()}
    match sys.argv[1:]:
        case ["build", *student] if len(student) <= 1:
            stage(generated, has_student=bool(student))
            failed = zensical("build", "--clean", "--strict").wait()
            if student and not failed:
                write_layout(Bundle.open(student[0]), "web", SITE / STUDENT_FOLDER)
            return failed
        case ["serve", *options]:
            stage(generated)
            return keep_staged(zensical("serve", *options), generated)
    raise SystemExit("run `python -m docs.tools build [STUDENT]` or `python -m docs.tools serve [--dev-addr IP:PORT]`")


def zensical(*arguments: str) -> subprocess.Popen[bytes]:
    """Start zensical on the settings at the root."""
    return subprocess.Popen([sys.executable, "-m", "zensical", *arguments], cwd=ROOT)


def keep_staged(server: subprocess.Popen[bytes], generated: Mapping[str, str]) -> int:
    """Stage what has changed every second, until the server ends."""
    try:
        while server.poll() is None:
            time.sleep(SECONDS_BETWEEN_LOOKS)
            stage(generated)
    except KeyboardInterrupt:
        server.terminate()
    return server.wait()


if __name__ == "__main__":
    sys.exit(main())
