"""Catches code of a model that leaves its limits, and a verdict that is not the examples'."""

import os
import time
from pathlib import Path

import pytest

from pipeline.run.errors import UserError
from pipeline.scores.sandbox import PASSED, Candidate, check_sandbox, judged

DOCTEST = ">>> shorten('a b', 2)\n'ok'\n"


def verdict(body: str, doctest: str = DOCTEST, **limits) -> str:
    code = "def shorten(text, width, **others):\n" + "".join(f"    {line}\n" for line in body.splitlines())
    (found,) = judged("textwrap", [Candidate(code, "shorten", doctest)], **limits)
    return found


def test_a_candidate_passes_by_its_examples_alone():
    real = ">>> fill('aa bb cc', 5)\n'aa bb\\ncc'\n"
    good = Candidate("def fill(text, width):\n    return '\\n'.join(wrap(text, width))\n", "fill", real)
    bad = Candidate("def fill(text, width):\n    return text\n", "fill", real)
    broken = Candidate("def fill(text, width:\n", "fill", real)
    other = Candidate("def other():\n    pass\n", "fill", real)
    none = Candidate("def fill(text, width):\n    return text\n", "fill", "No example.")
    found = judged("textwrap", [good, bad, broken, other, good, none])
    assert found[0] == found[4] == PASSED
    assert found[1] == "failed 1 of 1 examples" and found[2].startswith("SyntaxError")
    assert found[3].startswith("KeyError") and found[5] == "no examples"


def test_the_rest_of_the_module_calls_the_candidate():
    doctest = ">>> fill('aa bb', 9)\n'new'\n"
    code = "def wrap(text, width, **others):\n    return ['new']\n"
    # fill asks TextWrapper; dedent's neighbours ask by name: what stands in the module is the candidate.
    assert judged("textwrap", [Candidate(code, "wrap", ">>> wrap('a', 1)\n['new']\n")]) == [PASSED]
    assert judged("textwrap", [Candidate(code, "wrap", doctest)]) != [PASSED]


EACH_PIPE = "import os\nfor number in range(3, 64):\n    try:\n"
OR_NOT = "    except OSError:\n        pass\n"
HOSTILE = {
    "reads a file": "return open('/etc/passwd').read() and 'ok'",
    "writes a file": "open({file!r}, 'w').write('x')\nreturn 'ok'",
    "removes a file": "import os\nos.remove({kept!r})\nreturn 'ok'",
    "lists a folder": "import os\nos.listdir('/')\nreturn 'ok'",
    "opens a socket": "import socket\nsocket.socket()\nreturn 'ok'",
    "forks": "import os\nos.fork()\nreturn 'ok'",
    "forks for ever": "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        return 'no'",
    "starts a thread": "import _thread\n_thread.start_new_thread(print, ())\nreturn 'ok'",
    "runs a program": "import os\nos.execv('/bin/true', ['true'])\nreturn 'ok'",
    "runs a shell": "import os\nreturn 'ok' if os.system('touch {file}') == 0 else 'no'",
    "kills its parent": "import os\nos.kill(os.getppid(), 9)\nreturn 'ok'",
    "signals another": "import os\nos.kill(1, 0)\nreturn 'ok'",
    "loops for ever": "while True:\n    pass",
    "loops in C": "return sum(range(10**14)) and 'ok'",
    "sleeps": "import time\ntime.sleep(3600)\nreturn 'ok'",
    "fills the memory": "return len(bytearray(8 * 2**30)) and 'ok'",
    "fills it by and by": "found = []\nwhile True:\n    found.append('x' * 2**20 + str(len(found)))",
    "ends itself": "import os\nos._exit(0)",
    "asks to pass": "raise SystemExit('passed')",
    "says so itself": f"{EACH_PIPE}        os.write(number, b'passed')\n{OR_NOT}os._exit(0)",
    "says a lot": f"{EACH_PIPE}        while os.write(number, b'x' * 4096):\n            pass\n{OR_NOT}",
    "goes to another folder": "import os\nos.chdir('/')\nreturn 'ok'",
    "takes the limits off": "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (999, 999))\nreturn 'ok'",
    "calls by number": "import ctypes\nreturn 'ok' if ctypes.CDLL(None).syscall(41, 2, 1, 0) >= 0 else 'no'",
    "fills the disk": "while True:\n    with open({file!r}, 'ab') as out:\n        out.write(bytes(2**20))",
    "fills a file in memory": "import os\nfd = os.memfd_create('x')\nos.write(fd, bytes(2**20))\nreturn 'ok'",
    "reads its environment": "return open('/proc/self/environ').read() is not None and 'ok'",
    "links into a folder": "import os\nos.symlink('/etc/passwd', {file!r})\nreturn 'ok'",
    "traces its parent": "import ctypes, os\nassert not ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0)\nreturn 'ok'",
    "recurses": "def again(n):\n    return again(n + 1)\nreturn again(0)",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_code_gets_nowhere(name, tmp_path):
    kept, file = tmp_path / "kept", tmp_path / "made"
    kept.write_text("here")
    body = HOSTILE[name].replace("{file!r}", repr(str(file))).replace("{kept!r}", repr(str(kept)))
    began, before = time.monotonic(), children()
    found = verdict(body.replace("{file}", str(file)), seconds=1.0, megabytes=256)
    assert found != PASSED and not file.exists() and kept.read_text() == "here"
    assert time.monotonic() - began < 10
    assert children() <= before


def children() -> set[str]:
    """Processes that this one began and that are still there."""
    found = Path(f"/proc/self/task/{os.getpid()}/children")
    return set(found.read_text().split()) if found.exists() else set()


def test_what_comes_after_a_hostile_candidate_is_judged_all_the_same():
    bad = Candidate("def shorten(text, width):\n    while True: pass\n", "shorten", DOCTEST)
    good = Candidate("def shorten(text, width):\n    return 'ok'\n", "shorten", DOCTEST)
    assert judged("textwrap", [bad, good, bad, good], seconds=0.5)[1::2] == [PASSED, PASSED]


def test_a_module_that_is_not_there_is_refused():
    with pytest.raises(UserError, match="no_such_module cannot be imported"):
        judged("no_such_module", [Candidate("", "f", "")])


def test_a_machine_without_the_filter_is_refused(monkeypatch):
    check_sandbox()
    monkeypatch.setattr("ctypes.util.find_library", lambda name: None)
    with pytest.raises(UserError, match="libseccomp, which is not here"):
        check_sandbox()
