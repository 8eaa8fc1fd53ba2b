#!/usr/bin/env python3
"""cover.py BUILD: what of azopenai.h the tests that were run in BUILD never reached, line by line and branch by branch.

Reads the counters that gcov left in BUILD (gcovr adds them up over all programs) and tests/cover/unreached.txt, the
list of what may stay unreached and why. Each of its entries is a reason, "# ..." lines that stand over one or more
lines of the form

    function: the source line, without the blanks around it

Fails if a line or a branch is unreached and not listed, or listed and reached, so that the list stays true. Source
lines stand for themselves, so that an edit elsewhere in the header does not disturb the list.
"""
import json
import re
import subprocess
import sys

HEADER = "azopenai.h"
LISTED = "tests/cover/unreached.txt"


def counters(build):
    """The counters of the header: a list of gcovr's line records."""
    command = ["gcovr", "--json", "-r", ".", "--filter", HEADER + "$", build]
    report = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout)
    lines = next(file["lines"] for file in report["files"] if file["file"] == HEADER)
    return [line for line in lines if not line["gcovr/noncode"]]


def functions(source):
    """For each line of the source the name of the function that it is in."""
    names, name = [], ""
    for line in source:
        start = re.match(r"(?:static|AZO_API)\b[^;=]*?\b(azoi?_\w+)\(", line)
        name = start.group(1) if start else name
        names.append(name)
    return names


def unreached(lines, source):
    """{(function, text): what is missing} of all lines that did not run, or whose branches did not all go both ways."""
    names = functions(source)
    missing = {}
    for line in lines:
        skipped = sum(branch["count"] == 0 for branch in line["branches"])
        if line["count"] == 0 or skipped:
            number = line["line_number"]
            what = "never run" if line["count"] == 0 else "%d of %d branches" % (skipped, len(line["branches"]))
            missing[names[number - 1], source[number - 1].strip()] = "%d: %s" % (number, what)
    return missing


def listed():
    """The entries of the list, and those that stand below no reason."""
    entries, unexplained, reason = set(), [], False
    for line in map(str.strip, open(LISTED, encoding="utf-8")):
        if line == "":
            reason = False
        elif line.startswith("#"):
            reason = True
        else:
            entries.add(tuple(line.split(": ", 1)))
            if not reason:
                unexplained.append(line)
    return entries, unexplained


def main():
    source = open(HEADER, encoding="utf-8").read().split("\n")
    lines = counters(sys.argv[1])
    missing = unreached(lines, source)
    entries, unexplained = listed()
    branches = [branch for line in lines for branch in line["branches"]]
    print("lines     %5d of %5d reached" % (sum(line["count"] > 0 for line in lines), len(lines)))
    print("branches  %5d of %5d reached" % (sum(branch["count"] > 0 for branch in branches), len(branches)))
    print("places    %5d of %5d unreached ones explained in %s" % (len(missing.keys() & entries), len(missing), LISTED))
    problems = ["unreached, not explained: %s: %s   (line %s)" % (*key, what) for key, what in missing.items()
                if key not in entries]
    problems += ["explained, but reached: %s: %s" % key for key in sorted(entries - missing.keys())]
    problems += ["without a reason: %s" % line for line in unexplained]
    print("\n".join(problems), end="\n" if problems else "")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
