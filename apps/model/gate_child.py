"""The process in which model files are tried that nobody vouches for; `holdover.apps.model.gate` starts and feeds it.

An order comes on standard input, its report goes to standard output, each as four bytes of length and MessagePack. The
process may take no more memory and time than the order says, writes no files and no core, and may die of a file: the
next one gets a new process.
"""

import os
import resource
import struct
import sys

LENGTH = struct.Struct("<I")


def main() -> int:
    """Serve orders until standard input ends."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    reports = os.dup(1)
    os.dup2(2, 1)  # whatever a library prints is no report
    import msgspec

    from holdover.apps.model.trial import Order, trial

    encoder, decoder = msgspec.msgpack.Encoder(), msgspec.msgpack.Decoder(Order)
    _answer(reports, b"")
    while (order := _read()) is not None:
        asked = decoder.decode(order)
        _limit(asked.memory_mb, asked.cpu_s)
        _answer(reports, encoder.encode(trial(asked)))
    return 0


def _limit(memory_mb: int, cpu_s: int) -> None:
    """Let this process have so much more address space and time than it has taken by now."""
    with open("/proc/self/statm") as file:
        taken = int(file.read().split()[0]) * resource.getpagesize()
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (taken + (memory_mb << 20), most))
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + cpu_s + 1, most))


def _read() -> bytes | None:
    head = sys.stdin.buffer.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    (size,) = LENGTH.unpack(head)
    data = sys.stdin.buffer.read(size)
    return data if len(data) == size else None


def _answer(reports: int, data: bytes) -> None:
    data = LENGTH.pack(len(data)) + data
    while data:
        data = data[os.write(reports, data) :]


if __name__ == "__main__":
    sys.exit(main())
