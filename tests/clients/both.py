"""What the scripts of tests/clients share: a client is run on bare QEMU and
through qemu-logbuf, what it saw must be the same, and qemu-logbuf must answer.

tests/clients/run-all sets the environment.
"""

import atexit
import difflib
import os
import re
import shutil
import signal
import sys
import tempfile
import time

BARE = os.environ["BARE_QEMU"]
WRAPPED = os.environ["WRAPPED_QEMU"]  # a link named qemu-system-ppc64
KERNEL = os.environ["KERNEL"]
HUNG = os.environ["HUNG_KERNEL"]
MACHINE = ["-M", "pseries,x-vof=on", "-m", "512"]

# How long anything may take before it is called hung.
PATIENCE = 20

directory = tempfile.mkdtemp(prefix="logbuf-clients-")
atexit.register(shutil.rmtree, directory, ignore_errors=True)
report = os.path.join(directory, "report")
os.environ["QEMU_LOGBUF_OUTPUT"] = report


def until(what, condition):
    """Wait for a condition; its value."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    sys.exit(f"FAILED: {what}: not within {PATIENCE} s")


def reports():
    try:
        with open(report, encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        return ""


def decoded(text):
    """Whether a whole report with the kernel's first lines is in it."""
    head = text.rfind("qemu-logbuf: ", 0, text.rfind("end of report") - len("qemu-logbuf: "))
    return head >= 0 and re.search(r"\] Linux version \d", text[head:]) is not None


def handles(process, number):
    """Wait until the process has a handler for this signal."""

    def caught():
        with open(f"/proc/{process}/status", encoding="utf-8") as status:
            [mask] = re.findall(r"^SigCgt:\t(\w+)", status.read(), flags=re.MULTILINE)
        return int(mask, 16) >> (number - 1) & 1

    until(f"a handler for signal {number}", caught)


def ask(pid):
    """SIGUSR1, again until the kernel has printed; the reports."""
    handles(pid, signal.SIGUSR1)

    def answered():
        before = reports().count("end of report")
        os.kill(pid, signal.SIGUSR1)
        until("an answer to SIGUSR1", lambda: reports().count("end of report") > before)
        return decoded(reports()) and reports()

    return until("a decoded log", answered)


def steady(text):
    """A boot's console without what differs from one to the next: times, where
    the stack is, and the order of what threads print."""
    text = re.sub(r"\[ *\d+\.\d+\]", "[T]", text)
    text = re.sub(r"audit\([\d.]+|\d{4}-\d\d-\S+ UTC \(\d+|\[c[0-9a-f]{15}\] \[|\d+ms", "…", text)
    # Said only of what took long.
    text = re.sub(r".*took \d+ usecs.*", "", text)
    return "\n".join(sorted(filter(None, text.replace("\r", "").splitlines())))


def compare(what, bare, wrapped):
    """End with the difference, if there is one."""
    bare, wrapped = bare.splitlines(), wrapped.splitlines()
    if bare != wrapped:
        print("\n".join(difflib.unified_diff(bare, wrapped, "bare", "wrapped", lineterm="")))
        sys.exit(f"FAILED: {what} differs")
    print(f"same: {what}, {len(bare)} lines")
