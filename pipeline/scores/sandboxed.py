"""The program that `sandbox` starts: `python -I sandboxed.py MODULE SECONDS MEGABYTES`, candidates a line of JSON each.

It imports nothing of ours, and prints a verdict a line. The candidate cannot reach what it prints to: a verdict comes
through a pipe that is read up to a few bytes, and counts only with the word that its process was given.
"""

import ctypes
import ctypes.util
import doctest
import importlib
import json
import os
import resource
import secrets
import select
import signal
import sys
import time

ALLOW, REFUSE = 0x7FFF0000, 0x00050001  # SCMP_ACT_ALLOW; SCMP_ACT_ERRNO(EPERM)
# What computing needs: memory, time, signals to itself, and reading and writing what is open already.
CALLS = """read write close fstat lseek mmap munmap mremap mprotect madvise brk futex membarrier rseq set_robust_list
sched_yield sched_getaffinity rt_sigaction rt_sigprocmask rt_sigreturn sigaltstack clock_gettime clock_getres
clock_nanosleep nanosleep gettimeofday time times getrandom getpid gettid getuid geteuid getgid getegid getrusage
restart_syscall exit exit_group""".split()
LONGEST = 200  # bytes of a verdict


def main() -> None:
    name, seconds, megabytes = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
    sys.path.append(os.getcwd())
    module = importlib.import_module(name)
    seccomp = ctypes.CDLL(ctypes.util.find_library("seccomp"), use_errno=True)
    seccomp.seccomp_init.restype = ctypes.c_void_p
    for line in sys.stdin:
        print(verdict(json.loads(line), module, seconds, megabytes, seccomp), flush=True)


def verdict(job, module, seconds, megabytes, seccomp) -> str:
    """What becomes of one candidate, in a process of its own that is gone when this returns."""
    import_names(job["doctest"])
    word = secrets.token_hex(16)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            found = confined(job, module, seconds, megabytes, seccomp, writing)
        except MemoryError:
            found = "out of memory"
        except BaseException as error:
            found = f"{type(error).__name__}: {' '.join(str(error).split())}"
        os.write(writing, f"{word}{found}".encode(errors="replace")[: LONGEST + len(word)])
        os._exit(0)
    os.close(writing)
    said, deadline = b"", time.monotonic() + seconds + 0.5
    while len(said) <= LONGEST + len(word):
        ready, _, _ = select.select([reading], [], [], max(0.0, deadline - time.monotonic()))
        part = os.read(reading, 4096) if ready else b""
        if not part:
            break
        said += part
    late = time.monotonic() >= deadline
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    os.close(reading)
    text = said.decode(errors="replace")
    if text.startswith(word):
        return " ".join(text[len(word) :].split()) or "nothing"
    ended = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    if late or ended == signal.SIGXCPU:
        return f"took longer than {seconds:g} s"
    return f"ended by signal {ended}" if ended else "ended itself"


def import_names(text) -> None:
    """Import what the examples do, which are the library's: behind the filter no file can be read."""
    for example in doctest.DocTestParser().get_examples(text):
        if example.source.startswith(("import ", "from ")):
            try:
                exec(example.source, {})
            except Exception:
                pass  # the examples will say so


def confined(job, module, seconds, megabytes, seccomp, writing) -> str:
    """Take the limits, then compile the candidate and run its examples."""
    examples = doctest.DocTestParser().get_doctest(job["doctest"], {}, job["name"], None, 0)
    namespace = {name: value for name, value in vars(module).items() if name != job["name"]}
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    os.closerange(3, writing)
    os.closerange(writing + 1, 256)
    limit(seconds, megabytes)
    shut(seccomp)
    exec(compile(job["code"], "<candidate>", "exec"), namespace)
    candidate = namespace[job["name"]]
    setattr(module, job["name"], candidate)  # where the module's others look for it
    for each in list(sys.modules.values()):  # and where packages hand it on under the same name
        if getattr(each, "__name__", "").split(".")[0] == module.__name__.split(".")[0]:
            if job["name"] in getattr(each, "__dict__", {}) and callable(each.__dict__[job["name"]]):
                each.__dict__[job["name"]] = candidate
    examples.globs = dict(vars(module))
    told = []
    runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    result = runner.run(examples, out=told.append, clear_globs=False)
    if not result.attempted:
        return "no examples"
    return f"failed {result.failed} of {result.attempted} examples" if result.failed else "passed"


def limit(seconds, megabytes) -> None:
    """Processor time, address space beyond what is used, no file that grows, no core."""
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    whole = int(seconds) + 1
    for kind, value in (
        (resource.RLIMIT_CPU, whole),
        (resource.RLIMIT_AS, used + megabytes * 2**20),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, 0),
    ):
        resource.setrlimit(kind, (value, value))


def shut(seccomp) -> None:
    """From here on, every system call but CALLS is refused; nothing can take that back."""
    rules = ctypes.c_void_p(seccomp.seccomp_init(ctypes.c_uint32(REFUSE)))
    for name in CALLS:
        number = seccomp.seccomp_syscall_resolve_name(name.encode())
        if number >= 0 and seccomp.seccomp_rule_add(rules, ctypes.c_uint32(ALLOW), number, 0):
            raise OSError(f"seccomp takes no rule for {name}")
    if seccomp.seccomp_load(rules):
        raise OSError("the kernel takes no filter")


if __name__ == "__main__":
    main()
