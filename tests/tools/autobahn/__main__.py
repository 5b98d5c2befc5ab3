"""``python -m tests.tools.autobahn``: the Autobahn testsuite, sections 1 to 7 and 10, on the server's own connection.

Sections 12 and 13 are about compression, which the server never agrees to. The suite needs a Python 2.7; where it is
not installed this says how to install it, and that is all.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

from tests.support.server import ROOT, Server
from tests.tools.benchmark.report import table

IMPLEMENTATIONS = "websockets-sansio", "wsproto"  # of uvicorn: each takes the handshake
CASES = "1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "10.*"
GOOD = "OK", "NON-STRICT", "INFORMATIONAL"
HOME = ".venv-autobahn"
INSTALL = f"""The Autobahn testsuite is not installed, so there is nothing to run. To install it:
  python3 -m venv {HOME}-tool && {HOME}-tool/bin/pip install 'virtualenv<20.22'
  {HOME}-tool/bin/virtualenv -p python2.7 {HOME} && {HOME}/bin/pip install autobahntestsuite"""

# Cases that fail, each with its reason.
EXCUSED = {
    "7.1.5": "to websockets, which judges the frames, a close inside a fragmented message is a protocol error, on "
    "purpose: github.com/python-websockets/websockets, compliance/README.rst"
}

Results = dict[str, dict[str, Any]]  # by case


def find_suite(path: Optional[str]) -> Optional[str]:
    """The suite's program: where it is said to be, beside the project, or on the PATH."""
    return shutil.which(path or str(ROOT / HOME / "bin" / "wstest")) or (None if path else shutil.which("wstest"))


def run(wstest: str, implementation: str, cases: Sequence[str]) -> tuple[Results, int]:
    """Return the result of each case, and the count of the messages that were echoed."""
    server = Server("uvicorn", "tests.support.echo_app:app", "--port", "0", "--ws", implementation, "--lifespan", "off")
    try:
        with tempfile.TemporaryDirectory() as folder:
            spec = Path(folder, "spec.json")
            spec.write_text(
                json.dumps(
                    {
                        "outdir": folder,
                        "servers": [{"agent": "echo", "url": server.url}],
                        "cases": list(cases),
                        "exclude-cases": [],
                        "exclude-agent-cases": {},
                    }
                )
            )
            subprocess.run([wstest, "-m", "fuzzingclient", "-s", str(spec)], check=True, stdout=subprocess.DEVNULL)
            results = json.loads(Path(folder, "index.json").read_text())["echo"]
        echoed = sum(int(re.findall(r"echoed=(\d+)", line)[0]) for line in server.lines(" echoed="))
    finally:
        server.kill()
    return results, echoed


def failed(results: Results) -> set[str]:
    return {case for case, result in results.items() if not {result["behavior"], result["behaviorClose"]} <= {*GOOD}}


def _counts(results: Results) -> list[str]:
    counts = Counter(result["behavior"] for result in results.values())
    return [*(str(counts[behavior]) for behavior in GOOD), str(len(failed(results)))]


def _arguments(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.tools.autobahn", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ws", action="append", choices=IMPLEMENTATIONS, help="repeatable (default: all)")
    parser.add_argument("--case", action="append", metavar="1.*", help=f"repeatable (default: {' '.join(CASES)})")
    parser.add_argument("--wstest", metavar="PATH", help=f"the suite's program (default: in {HOME}, or on the PATH)")
    return parser.parse_args(argv)


def main(argv: Optional[Sequence[str]] = None) -> None:
    args = _arguments(argv)
    wstest = find_suite(args.wstest)
    if wstest is None:
        print(INSTALL)
        return
    rows: list[list[str]] = []
    notes: list[str] = []
    wrong: list[str] = []
    for implementation in args.ws or IMPLEMENTATIONS:
        results, echoed = run(wstest, implementation, args.case or CASES)
        rows.append([implementation, *_counts(results), f"{echoed:,}"])
        for case, result in results.items():
            if case in EXCUSED and case in failed(results):
                notes.append(f"{implementation} {case}: {EXCUSED[case]}")
            elif case in EXCUSED or case in failed(results):
                wrong.append(f"{implementation} {case}: {result['behavior']}, close {result['behaviorClose']}")
        if not echoed:
            wrong.append(f"{implementation}: no message was echoed")
    print(table(("", *GOOD, "failed", "messages"), rows))
    print("\n".join(notes))
    sys.exit("\n".join(wrong) or 0)


if __name__ == "__main__":
    main()
