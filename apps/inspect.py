"""`holdover inspect`: what a model promises, what it carries, and what a step of it costs."""

import argparse
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx

    from holdover.runtime.contract import Contract

WIDTH = 80
INDENT = 15
RATES_HZ = (0.1, 1e6)
PRODUCTS = frozenset({"MatMul", "MatMulInteger", "QLinearMatMul", "Gemm"})
CONVOLUTIONS = {"Conv": 1, "ConvInteger": 1, "QLinearConv": 3}
RECURRENT = frozenset({"RNN", "GRU", "LSTM"})
UNSEEN = ("ConvTranspose", "Einsum", "If", "Loop", "Scan", "DeformConv", "Attention")
"""Standard operators whose arithmetic is not counted; those of other domains are not counted either."""

Shapes = Mapping[str, tuple[int, ...]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser the options of `holdover inspect`."""
    parser.add_argument("model", nargs="?", metavar="MODEL", help="a shipped model or a file (default: ecg-rhythm)")
    parser.add_argument("--rate", type=float, metavar="HZ", help="of the source: adds the resampler's delay")
    parser.add_argument("--memory", action="store_true", help="measure how far back it remembers")
    parser.add_argument("--on", metavar="RECORD", help="measure it on a recording (default: white noise)")
    parser.add_argument("--lead", help="of RECORD: a name, or several by preference (default: the model's, or the only "
                        "one)")  # fmt: skip
    parser.add_argument("--plot", metavar="FILE.png", help="draw what --memory measured")
    parser.add_argument("--json", action="store_true", help="one JSON object, the whole contract in it")


def run(args: argparse.Namespace) -> int:
    """Print what the model says of itself; 0.

    Raises
    ------
    HoldoverError
        The file cannot be read, carries no contract that fits, or the rate cannot be.
    """
    from holdover.apps import memory

    memory.check(args)
    facts = inspect(args.model, args.rate)
    if args.memory:
        facts["memory"] = memory.of_file(facts["path"], args.on, args.lead)
    if args.plot:
        memory.plot(facts["memory"], args.plot, facts["name"])
    if args.json:
        import json

        print(json.dumps(facts, indent=1))
    else:
        from holdover.apps.subscriber.alert_view import plain

        print("\n".join(map(plain, memory.lines(facts["memory"]) if args.memory else _lines(facts))))
    return 0


def inspect(model: str | None = None, rate_hz: float | None = None) -> dict[str, Any]:
    """All that is known of a model without running it, as JSON types.

    Parameters
    ----------
    model
        A shipped model's name, or a path; None: the default one.
    rate_hz
        Of a source that would feed it; None: the model's own rate.

    Raises
    ------
    HoldoverError
        The file cannot be read, carries no contract that fits, or the rate cannot be.

    Examples
    --------
    >>> facts = inspect("ecg-rhythm", rate_hz=360)
    >>> facts["hop"], facts["outputs"][0]["delay_ms"], facts["resampler"]["delay_ms"]
    ({'samples': 6, 'ms': 50.0}, 250.0, 83.333)
    """
    from holdover.apps.model.shipped import find_model
    from holdover.export import contract_io
    from holdover.runtime.engine import read_model

    path = find_model(model)
    data, sha256 = read_model(path)
    graph = _parse(data, str(path))
    contract = contract_io.read(graph)
    head = {"name": contract.name, "version": contract.model_version, "family": contract.document.get("family")}
    head |= {"path": str(path), "sha256": sha256, "bytes": len(data)}
    return head | _promise(contract, rate_hz) | _arithmetic(graph, contract) | _claims(contract)


def _parse(data: bytes, where: str) -> "onnx.ModelProto":
    import onnx

    from holdover.runtime.errors import ModelError

    try:
        return onnx.load_model_from_string(data)
    except Exception as error:  # onnx raises protobuf's own errors, which it does not export
        raise ModelError(f"{where} is not an ONNX file, or a damaged one ({error}); export it again") from error


def _promise(contract: "Contract", rate_hz: float | None) -> dict[str, Any]:
    import msgspec

    model_hz = contract.signals[0].rate_hz
    resampler = _resampler(rate_hz, model_hz, contract.signals[0].any_rate)
    states = [_state(s) for s in contract.states]
    return {
        "signals": msgspec.to_builtins(contract.signals),
        "hop": {"samples": contract.hop, "ms": _ms(contract.hop, model_hz)},
        "first_chunk_min": contract.first_chunk_min,
        "grid": contract.grid,
        "chunk_invariant": "bitwise" if contract.bitwise else "grid",
        "resampler": resampler,
        "outputs": [_output(o, model_hz, resampler["delay_ms"]) for o in contract.outputs],
        "states": states,
        "state_bytes": sum(s["bytes"] for s in states),
    }


def _resampler(rate_hz: float | None, model_hz: float, any_rate: bool) -> dict[str, Any]:
    from holdover.runtime.errors import UsageError
    from holdover.runtime.resample import Resampler

    rate_hz = model_hz if rate_hz is None else rate_hz
    low, high = RATES_HZ
    if not low <= rate_hz <= high:
        raise UsageError(f"--rate is {rate_hz:g} Hz, expected {low:g} to {high:,.0f} samples a second")
    to_hz = rate_hz if any_rate else model_hz
    delay = Resampler(rate_hz, to_hz).delay
    return {"from_hz": rate_hz, "to_hz": to_hz, "delay_ms": _ms(delay, rate_hz), "any_rate": any_rate}


def _output(o: Any, model_hz: float, resampling_ms: float) -> dict[str, Any]:
    import msgspec

    times = {
        "frames_per_s": round(model_hz / o.samples_per_frame, 6),
        "delay_ms": _ms(o.delay, model_hz),
        "delay_from_source_ms": round(_ms(o.delay, model_hz) + resampling_ms, 3),
        "settle_s": round(o.settle / model_hz, 6),
    }
    return {**msgspec.to_builtins(o), **times}


def _state(s: Any) -> dict[str, Any]:
    import numpy as np

    shape = [1 if n == "batch" else int(n) for n in s.steady_shape]
    size = prod(shape) * np.dtype(s.dtype).itemsize
    return {"name": s.name, "shape": list(s.steady_shape), "dtype": s.dtype, "init": s.init, "bytes": size}


def _ms(samples: int, rate_hz: float) -> float:
    return round(samples / rate_hz * 1e3, 3)


def _arithmetic(model: "onnx.ModelProto", contract: "Contract") -> dict[str, Any]:
    shapes = _shapes(model, contract)
    counts = [(node, _multiply_adds(node, shapes)) for node in model.graph.node]
    step = sum(count or 0 for _, count in counts)
    uncounted = Counter(node.op_type for node, count in counts if count is None)
    per_s = step * contract.signals[0].rate_hz / contract.hop
    return {
        "parameters": sum(_parameters(model.graph)),
        "multiply_adds": {"per_step": step, "per_s": round(per_s), "uncounted": dict(sorted(uncounted.items()))},
    }


def _parameters(graph: "onnx.GraphProto") -> Iterator[int]:
    """Sizes of the graph's constants, those of 64-bit integers (shapes, indices) not among them."""
    for tensor in graph.initializer:
        yield _size(tensor)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield _size(attribute.t)
            if attribute.HasField("g"):
                yield from _parameters(attribute.g)


def _size(tensor: "onnx.TensorProto") -> int:
    return 0 if tensor.data_type in (tensor.INT64, tensor.STRING, tensor.BOOL) else prod(tensor.dims)


def _shapes(model: "onnx.ModelProto", contract: "Contract") -> Shapes:
    """Shapes of all tensors in a step of one hop, one stream, where they can be told."""
    import copy

    import onnx

    from holdover.runtime.errors import ModelError

    fixed = {s.input: tuple(1 if n == "batch" else int(n) for n in s.steady_shape) for s in contract.states}
    fixed |= {s.input: _signal_shape(s, contract.hop) for s in contract.signals}
    model = copy.deepcopy(model)
    del model.graph.value_info[:]
    for tensor in model.graph.input:
        shape = onnx.helper.make_tensor_type_proto(tensor.type.tensor_type.elem_type, fixed[tensor.name])
        tensor.type.CopyFrom(shape)
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except Exception as error:  # InferenceError and others, all of RuntimeError or ValueError, by version
        raise ModelError(f"the graph does not fit its contract ({error}); export the model again") from error
    found = {t.name: tuple(t.dims) for t in inferred.initializer}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        dims = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(d.HasField("dim_value") for d in dims):
            found[value.name] = tuple(d.dim_value for d in dims)
    return found


def _signal_shape(signal: Any, hop: int) -> tuple[int, ...]:
    shape = [1, len(signal.channels)]
    shape.insert(signal.axis, hop)
    return tuple(shape)


def _multiply_adds(node: "onnx.NodeProto", shapes: Shapes) -> int | None:
    """Of one node in one step; None where they cannot be told."""
    op = node.op_type
    if node.domain not in ("", "ai.onnx") or op in UNSEEN:
        return None
    try:
        if op in PRODUCTS:
            inner = 0 if any(a.name == "transA" and a.i for a in node.attribute) else -1
            return prod(shapes[node.output[0]]) * shapes[node.input[0]][inner]
        if op in CONVOLUTIONS:
            return prod(shapes[node.output[0]]) * prod(shapes[node.input[CONVOLUTIONS[op]]][1:])
        if op in RECURRENT:
            return _recurrent(shapes[node.input[0]], shapes[node.input[1]], shapes[node.input[2]])
    except (KeyError, IndexError):
        return None
    return 0


def _recurrent(x: Sequence[int], weight: Sequence[int], recurrent: Sequence[int]) -> int:
    """Steps times streams times the numbers in W (directions, gates hidden, in) and R (.., .., hidden)."""
    return x[0] * x[1] * (prod(weight) + prod(recurrent))


def _claims(contract: "Contract") -> dict[str, Any]:
    keys = ("verification", "provenance", "quantization")
    claims = {key: contract.document.get(key) for key in keys}
    return {"detectors": list(contract.detectors), **claims, "contract": dict(contract.document)}


def _lines(facts: Mapping[str, Any]) -> Iterator[str]:
    f = facts
    yield f"{f['name']} {f['version']}" + (f" ({f['family']})" if f["family"] else "")
    yield from row("file", f"{f['path']}, {f['bytes']:,} bytes")
    yield from row("sha256", f"{f['sha256'][:12]}...")
    for signal in f["signals"]:
        leads = ", ".join(f"{c['name']} ({c['unit']})" for c in signal["channels"])
        rate = "any rate" if signal["any_rate"] else f"{signal['rate_hz']:g} Hz"
        yield from row("signal", f"{signal['input']}: {leads} at {rate}")
    yield from row("hop", _hop(f))
    yield from row("resampling", _resampling(f["resampler"]))
    yield from row("arithmetic", _work(f["multiply_adds"]))
    yield from row("parameters", f"{f['parameters']:,} (all constants of the graph that are not 64-bit integers)")
    yield from row("memory", f"{f['state_bytes']:,} bytes a stream in {len(f['states'])} states")
    yield ""
    columns = ("output", "meaning", "frames/s", "delay ms", "from source ms", "memory s")
    yield from table(columns, [_output_cells(o) for o in f["outputs"]])
    yield ""
    cells = [(s["name"], "x".join(map(str, s["shape"])), s["dtype"], f"{s['bytes']:,}") for s in f["states"]]
    yield from table(("state", "shape", "dtype", "bytes"), cells)
    yield ""
    detectors = [_detector(d) for d in f["detectors"]]
    yield from row("detectors", ", ".join(detectors) or "none")
    for key in ("quantization", "verification", "provenance"):
        yield from row(key, "" if f[key] else "none")
        for name, value in _flat(f[key] or {}):
            yield from textwrap.wrap(f"  {name}: {value}", WIDTH, subsequent_indent="    ")


def _hop(f: Mapping[str, Any]) -> str:
    same = "the same bits" if f["chunk_invariant"] == "bitwise" else f"equal in blocks of {f['grid']} samples alone,"
    ending = "for every block size" if f["chunk_invariant"] == "bitwise" else "and the runtime steps in those"
    return f"{f['hop']['samples']} samples, {f['hop']['ms']:g} ms; {same} {ending}"


def _resampling(r: Mapping[str, Any]) -> str:
    if r["any_rate"]:
        return f"none; times below as if at {r['from_hz']:g} Hz"
    if r["from_hz"] == r["to_hz"]:
        return f"none for a source of {r['from_hz']:g} Hz; --rate HZ shows another"
    return f"from {r['from_hz']:g} Hz, {r['delay_ms']:g} ms late"


def _work(work: Mapping[str, Any]) -> str:
    text = f"{work['per_step']:,} multiply-adds a step, {work['per_s']:,} a second"
    uncounted = ", ".join(f"{n} {op}" for op, n in work["uncounted"].items())
    return text + (f"; not counted: {uncounted}" if uncounted else "")


def _output_cells(o: Mapping[str, Any]) -> tuple[str, ...]:
    meaning = o["meaning"] + (f" {' '.join(o['labels'])}" if o["labels"] else "")
    times = (o["frames_per_s"], o["delay_ms"], o["delay_from_source_ms"], o["settle_s"])
    return (o["name"], meaning, *(f"{t:g}" for t in times))


def _detector(table: Mapping[str, Any]) -> str:
    options = ", ".join(f"{k} {v}" for k, v in sorted(table.items()) if k != "kind")
    return f"{table.get('kind', '?')}" + (f" ({options})" if options else "")


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, item in value.items():
        if isinstance(item, dict) and item:
            yield from _flat(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", "; ".join(map(str, item)) if isinstance(item, list) else str(item)


def row(name: str, text: str) -> Iterator[str]:
    """A name and what is said of it, wrapped."""
    head = f"{name:<{INDENT - 1}} "
    yield from textwrap.wrap(head + text, WIDTH, subsequent_indent=" " * INDENT)


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Columns as wide as they must be."""
    lines = [heads, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
    for line in lines:
        yield "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip()
