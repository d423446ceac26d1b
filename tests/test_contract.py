"""The contract: what it must say, what it may say, and how it refuses."""

import copy
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from holdover.export import contract_io
from holdover.runtime.contract import Contract
from holdover.runtime.engines.ort import OrtEngine
from holdover.runtime.errors import ContractError, HoldoverError, ModelError
from tests import graphs

OPTIONAL = {"delay", "dtype", "init", "steady_after"}


def good() -> dict[str, Any]:
    """A contract with every kind of part."""
    return graphs.document([graphs.state("h", [1, "batch", 5]), graphs.state("c", [1, "batch", 5])], channels=2)


def keys(part: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The path of every key, the first element standing for each list."""
    if isinstance(part, dict):
        for key, value in part.items():
            yield (*path, key)
            yield from keys(value, (*path, key))
    elif isinstance(part, list) and part:
        yield from keys(part[0], (*path, 0))


def at(document: Any, path: tuple[str | int, ...]) -> Any:
    """The table or list that holds the last key of a path."""
    for key in path[:-1]:
        document = document[key]
    return document


REQUIRED = [p for p in keys(good()) if p[-1] not in OPTIONAL]
IDS = [".".join(map(str, p)) for p in REQUIRED]


def test_what_was_read_is_written_back_with_sorted_keys() -> None:
    text = Contract.of(good()).text()
    assert Contract.parse(text).text() == text
    assert msgspec.json.decode(text) == good()
    assert list(msgspec.json.decode(text)) == sorted(good())


def test_unknown_keys_are_kept_wherever_they_stand() -> None:
    document = good()
    document["site"] = {"ward": 3}
    document["states"][0]["note"] = "hidden"
    document["signals"][0]["channels"][0]["electrode"] = "V5"
    text = Contract.of(document).text()
    assert msgspec.json.decode(text) == document


def test_unknown_keys_go_through_a_model_file(tmp_path: Any) -> None:
    model = graphs.fifo()
    document = {**contract_io.read(model).document, "site": {"ward": 3}}
    contract_io.attach(model, document)
    path = graphs.saved(model, tmp_path / "m.onnx")
    assert OrtEngine(path.read_bytes(), "").contract.document["site"] == {"ward": 3}


@pytest.mark.parametrize("path", REQUIRED, ids=IDS)
def test_a_key_that_is_missing_is_named(path: tuple[str | int, ...]) -> None:
    document = good()
    del at(document, path)[path[-1]]
    with pytest.raises(ContractError, match=f"(?s){path[-1]}.*export the model again"):
        Contract.of(document)


@pytest.mark.parametrize("path", REQUIRED, ids=IDS)
def test_a_value_of_another_type_is_refused(path: tuple[str | int, ...]) -> None:
    document = good()
    at(document, path)[path[-1]] = None
    with pytest.raises(ContractError, match="export the model again"):
        Contract.of(document)


@pytest.mark.parametrize("version", [0, 2, "1", None, 1.5])
def test_a_version_that_is_unknown_is_refused(version: Any) -> None:
    with pytest.raises(ContractError, match="is unknown here; this holdover reads version 1: update holdover"):
        Contract.of({**good(), "version": version})


@pytest.mark.parametrize("text", ["", "{", "not json", '{"version": 1,}', '{"version": NaN}', "\x00"])
def test_what_is_not_json_is_said_to_be_none(text: str) -> None:
    with pytest.raises(ContractError, match=r"is not JSON .*; export the model again"):
        Contract.parse(text)


@pytest.mark.parametrize(("text", "kind"), [("[]", "list"), ("3", "int"), ('"x"', "str"), ("null", "NoneType")])
def test_a_contract_is_a_table(text: str, kind: str) -> None:
    with pytest.raises(ContractError, match=f"{kind}, expected an object"):
        Contract.parse(text)


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (("hop",), 0, "at least 1"),
        (("grid",), 0, "at least 1"),
        (("first_chunk_min",), -1, "at least 1"),
        (("signals",), [], "a signal needs a rate"),
        (("signals", 0, "rate_hz"), 0.0, "a signal needs a rate"),
        (("signals", 0, "channels"), [], "a signal needs a rate and channels"),
        (("outputs",), [], "names no output"),
        (("outputs", 0, "samples_per_frame"), 0, "0 samples a frame"),
        (("outputs", 0, "samples_per_frame"), 4, "hop 1 is not a whole number of frames of output y"),
        (("outputs", 0, "delay"), -1, "negative delay"),
        (("states", 1, "name"), "h", "state h stands twice"),
        (("states", 1, "input"), "x", "input x stands twice"),
        (("states", 1, "output"), "y", "output y stands twice"),
    ],
)
def test_numbers_and_names_that_contradict_are_refused(path: tuple[str | int, ...], value: Any, says: str) -> None:
    document = good()
    at(document, path)[path[-1]] = value
    with pytest.raises(ContractError, match=f"contradicts itself: .*{says}.*; export the model again"):
        Contract.of(document)


def test_a_grid_is_a_multiple_of_the_hop() -> None:
    with pytest.raises(ContractError, match="grid 8 is not a multiple of hop 3"):
        Contract.of(graphs.document([], hop=3, grid=8))


@pytest.mark.parametrize(
    ("inputs", "outputs", "says"),
    [
        (["x", "h.in"], ["y", "h.out", "c.out"], "names input c.in, which the graph does not have"),
        (["x", "h.in", "c.in"], ["y", "h.out"], "names output c.out, which the graph does not have"),
        (["x", "h.in", "c.in", "s.in"], ["y", "h.out", "c.out"], "the graph has input s.in"),
        (["x", "h.in", "c.in"], ["y", "h.out", "c.out", "s.out"], "the graph has output s.out"),
    ],
)
def test_states_that_do_not_pair_with_the_graph_are_named(inputs: list[str], outputs: list[str], says: str) -> None:
    with pytest.raises(ContractError, match=says):
        Contract.of(good()).check_graph(inputs, outputs)


def test_a_contract_error_can_be_caught_as_what_it_is() -> None:
    assert issubclass(ContractError, ModelError)
    assert issubclass(ContractError, HoldoverError)
    assert issubclass(ContractError, ValueError)


def test_reading_a_contract_does_not_change_it() -> None:
    document = good()
    before = copy.deepcopy(document)
    Contract.of(document).check_graph(["x", "h.in", "c.in"], ["y", "h.out", "c.out"])
    assert document == before


def test_a_model_with_two_signals_says_that_one_is_fed() -> None:
    document = good()
    document["signals"].append({**document["signals"][0], "input": "x2"})
    with pytest.raises(ContractError, match="2 signal inputs; this runtime feeds one"):
        _ = Contract.of(document).signal
