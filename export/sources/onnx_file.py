"""An ONNX file from anywhere: read with care, tried in a process of its own, its states paired where it has some."""

import signal
import subprocess
import sys
from pathlib import Path

import onnx

from holdover.export import sidecar
from holdover.export.original import Original, SourceOptions
from holdover.export.whole import clean
from holdover.runtime.contract import KEY
from holdover.runtime.engine import read_model
from holdover.runtime.errors import ModelError, UsageError

SUFFIXES = (".onnx",)
CPU_S = 20
MEMORY_MB = 8192
"""Address space of the trial; onnxruntime and onnx alone take 1.5 GB of it, few of them touched."""
WALL_S = 60


def read(spec: str | Path, options: SourceOptions) -> Original:
    """Read an ONNX file.

    Parameters
    ----------
    spec : str or Path
        The file.
    options : SourceOptions
        `states`, the file that pairs the states; without it `model.states.json` beside the model is taken, or names
        that speak for themselves.

    Returns
    -------
    Original
        Of kind "onnx"; with a `sidecar` where states are inputs.

    Raises
    ------
    ModelError
        The file cannot be read, is not a single ONNX file of standard operators, or onnxruntime crashes on it.
    UsageError
        It is a streaming model of holdover already, or its states do not pair.
    """
    path = Path(spec)
    data, sha256 = _bytes(path)
    model = parse(data, path)
    if any(p.key == KEY for p in model.metadata_props):
        raise UsageError(f"{path} carries a contract: it is a streaming model of holdover already; run it as it is, or "
                         "prove it again with 'holdover verify'")  # fmt: skip
    pairs = _pairs(model, path, options)
    canary(data)
    clean(model)
    notes = tuple(f"the state '{a}' becomes '{b}'" for a, b in (pairs.states if pairs else {}).items())
    return Original(model, "onnx", sha256, notes=notes, sidecar=pairs)


def _bytes(path: Path) -> tuple[bytes, str]:
    if path.is_dir():
        raise ModelError(f"{path} is a folder; give the path of an ONNX file")
    return read_model(path)


def parse(data: bytes, path: Path) -> onnx.ModelProto:
    """The model in a file's bytes, with at least one node.

    Raises
    ------
    ModelError
        They are not ONNX, are cut short, or hold no graph.
    """
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except Exception as error:  # protobuf's own, which onnx does not export
        raise ModelError(
            f"{path} is not an ONNX file, or a damaged one ({error}); expected the bytes of an ONNX model, found "
            f"{len(data)} bytes that begin with {data[:8]!r}"
        ) from error
    if not model.ir_version or not model.HasField("graph"):
        raise ModelError(f"{path} is not an ONNX file: it has no graph; export the model again")
    newest = onnx.defs.onnx_opset_version()
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx") and entry.version > newest:
            raise ModelError(f"{path} is of opset {entry.version}, the onnx {onnx.__version__} that is installed knows "
                             f"{newest} at most; export the model with opset 17 to 20")  # fmt: skip
    if not model.graph.node:
        raise ModelError(f"{path} has a graph without nodes: nothing to stream; export the model again")
    return model


def _pairs(model: onnx.ModelProto, path: Path, options: SourceOptions) -> sidecar.Sidecar | None:
    weights = {t.name for t in model.graph.initializer}
    bare = onnx.ModelProto()
    bare.graph.input.extend(i for i in model.graph.input if i.name not in weights)
    bare.graph.output.extend(model.graph.output)
    beside = sidecar.find(path, options.states)
    found = sidecar.load(beside) if beside else sidecar.by_name(bare)
    return sidecar.checked(found, bare) if found else None


def canary(data: bytes, cpu_s: int = CPU_S, memory_mb: int = MEMORY_MB) -> None:
    """Try a model that nobody here made in a process of its own: parse, clean, load, one call.

    What fails there with an error is left to fail here, in words; what takes the process down is told apart. About
    0.7 s, most of it imports.

    Parameters
    ----------
    data : bytes
        An ONNX file.
    cpu_s, memory_mb : int
        Limits of that process.

    Raises
    ------
    ModelError
        It crashed, or took more time or memory than it may.
    """
    command = [sys.executable, "-P", "-c", _TRIAL, str(cpu_s), str(memory_mb), *sys.path]
    try:
        done = subprocess.run(command, input=data, capture_output=True, timeout=WALL_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise ModelError(f"onnxruntime did not come to an end with this file within {WALL_S} s; it may hold a loop "
                         "without one") from error  # fmt: skip
    if done.returncode == OUT_OF_MEMORY:
        raise ModelError(
            f"this file makes onnxruntime take more than {memory_mb} MB; expected a model for small devices"
        )
    if done.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        raise ModelError(f"onnxruntime computes for more than {cpu_s} s on this file with one short input; it may hold "
                         "a loop without end")  # fmt: skip
    if done.returncode < 0:
        raise ModelError(f"onnxruntime crashed on this file (signal {-done.returncode}, "
                         f"{signal.Signals(-done.returncode).name}); export the model again with other options: "
                         "float32, opset 17")  # fmt: skip
    if done.returncode:
        raise ModelError(f"the trial of this file could not run (exit code {done.returncode}): "
                         f"{done.stderr.decode(errors='replace').strip()[-300:]}")  # fmt: skip


OUT_OF_MEMORY = 77
_TRIAL = f"""
import resource, sys
cpu_s, memory_mb, *path = sys.argv[1:]
sys.path[:] = path
resource.setrlimit(resource.RLIMIT_CPU, (int(cpu_s), int(cpu_s) + 2))
resource.setrlimit(resource.RLIMIT_AS, (int(memory_mb) << 20,) * 2)
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
from holdover.export.sources.onnx_file import attempt
try:
    attempt(sys.stdin.buffer.read())
except MemoryError:
    sys.exit({OUT_OF_MEMORY})
"""
OPEN = 32
"""Size that an open axis is given in the trial."""


def attempt(data: bytes) -> None:
    """Load a model and call it once on zeros, in the process that may go down; its own errors do not matter here.

    Raises
    ------
    MemoryError
        It takes more than there may be.
    """
    import numpy as np

    from holdover.export.whole import session

    try:
        model = clean(onnx.load_from_string(data))
        feeds = {
            i.name: np.zeros([d.dim_value or OPEN for d in i.type.tensor_type.shape.dim],
                             onnx.helper.tensor_dtype_to_np_dtype(i.type.tensor_type.elem_type))
            for i in model.graph.input
        }  # fmt: skip
        session(model).run(None, feeds)
    except MemoryError:
        raise
    except Exception as error:  # an error in words is what the caller will meet and report itself
        if "bad_alloc" in str(error) or "Failed to allocate" in str(error):
            raise MemoryError from error
