"""Which of the system calls in strace's summaries (files) a unit's SystemCallFilter= would refuse. Ends with 1 where there are any.

The sets are those that `systemd-analyze syscall-filter` prints on the standard input.
"""

import sys

unit, *summaries = sys.argv[1:]
sets, name = {}, None
for line in sys.stdin:
    line = line.split("#")[0].rstrip()
    if line.startswith("@"):
        name = line
        sets[name] = set()
    elif line.strip() and name:
        sets[name].add(line.strip())


def calls(word):
    return set().union(*map(calls, sets[word])) if word.startswith("@") else {word}


allowed = set()
for line in open(unit):
    if line.startswith("SystemCallFilter="):
        words = line.strip().partition("=")[2]
        for word in words.removeprefix("~").split():
            allowed = allowed - calls(word) if words.startswith("~") else allowed | calls(word)
# What starts the program is done before the filter is there; these two are always let through.
always = {"execve", "exit", "exit_group", "rt_sigreturn", "restart_syscall"}
used = {word for summary in summaries for word in open(summary).read().split() if word.isidentifier()} - {"syscall", "total"}
refused = used - allowed - always
print(f"{len(used)} system calls used, {len(allowed)} allowed; refused: {sorted(refused) or 'none'}")
sys.exit(bool(refused) or len(used) < 20)
