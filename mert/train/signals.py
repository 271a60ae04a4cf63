"""Training in a thread that no signal interrupts, and the requests to stop that signals make meanwhile."""

import signal
import threading
import time
from collections.abc import Callable
from contextvars import copy_context
from typing import Any, TypeVar

T = TypeVar("T")
STOPS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
FAULTS = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP, signal.SIGABRT, signal.SIGSYS}
AGAIN_S = 1.0  # a second Ctrl-C is one that comes this long after the first: torchrun passes on what the terminal sent


class StopRequest:
    """Whether somebody asked for an end after the current step, and whether by Ctrl-C (`interrupted`)."""

    def __init__(self) -> None:
        self.asked = self.interrupted = False
        self._interrupted_s = 0.0

    def ask(self) -> None:
        """Ask for an end after the current step, from any thread."""
        self.asked = True

    def on_signal(self, number: int, frame: object) -> None:
        """Ask for an end; KeyboardInterrupt at the second Ctrl-C."""
        now_s = time.monotonic()
        if number == signal.SIGINT and self.interrupted and now_s - self._interrupted_s > AGAIN_S:
            raise KeyboardInterrupt
        if number == signal.SIGINT and not self.interrupted:
            self.interrupted, self._interrupted_s = True, now_s
        self.ask()


# On CPUs, oneDNN runs some kernels with the stack pointer in a buffer on the heap (uxlfoundation/oneDNN#4845; in torch
# 2.9.1 for the convolution of positions). A signal that arrives there has its frame written over live memory: the
# process dies, or goes on with other weights. So no thread that computes may take a signal. To block them in the
# calling thread is not enough: the kernel may choose another thread that does not block them, such as one of the pool
# that OpenMP started long before. A new thread has a pool of its own, whose threads inherit its mask, as do all
# others that it starts. The calling thread only waits; if it is the main one, all signals go to it, and Python's
# handlers run.
def undisturbed(work: Callable[[], T], stop: StopRequest) -> T:
    """What `work` returns or raises, in a new thread that blocks signals; meanwhile they only ask for a `stop`.

    SIGTERM, SIGUSR1 and Ctrl-C do, if the main thread calls this; elsewhere signals remain with the application, which
    can call `stop.ask()`. A second Ctrl-C ends the wait, not the thread: KeyboardInterrupt. A process that `work`
    starts inherits the blocked signals, and should unblock them (`signal.pthread_sigmask`) before anything else.
    """
    results: list[T] = []
    errors: list[BaseException] = []
    context = copy_context()

    def target() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - FAULTS)
        try:
            results.append(context.run(work))
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=target, name="training", daemon=True)  # a hung one must not keep the process alive
    with _Handlers(stop):
        thread.start()
        thread.join()
    if errors:
        raise errors[0]
    return results[0]


class _Handlers:
    """The handlers of the signals that ask for a stop, in the main thread; ignored signals stay ignored."""

    def __init__(self, stop: StopRequest) -> None:
        self._stop = stop
        self._before: dict[int, Any] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            heeded = [number for number in STOPS if signal.getsignal(number) not in (signal.SIG_IGN, None)]
            self._before = {number: signal.signal(number, self._stop.on_signal) for number in heeded}
            self._mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)

    def __exit__(self, *error: object) -> None:
        if self._before:
            signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
            for number, handler in self._before.items():
                signal.signal(number, handler)
