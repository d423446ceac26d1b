"""`holdover models`: models from others, judged before they are used, installed so that they can be taken back."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from holdover.runtime.errors import ModelError, UsageError

if TYPE_CHECKING:
    from holdover.apps.model.manifest import Stated
    from holdover.apps.model.store import Document, Entry, ModelStore, Trust
    from holdover.runtime.contract import Contract

EPILOG = """\
A file is judged before it is installed: its SHA-256 by its manifest, its
structure, its operators, and then a run in a process of its own with limits
of memory and time. It is then on probation: if it ends three times before it
has run for [models] probation_s (600), the next start goes back by itself.

in the configuration:
  model = "NAME"                      the installed model of that name
  [models]
  key = "pub.pem"                     take only what this key has signed

a key, and a signed manifest:
  openssl genpkey -algorithm ed25519 -out key.pem
  openssl pkey -in key.pem -pubout -out pub.pem
  holdover models manifest beats.onnx --sign key.pem
  holdover models install beats.onnx --key pub.pem"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser the actions and options of `holdover models`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    store = argparse.ArgumentParser(add_help=False)
    store.add_argument("--store", metavar="DIR", help="where models are kept (default: in the state folder)")

    listing = actions.add_parser("list", parents=[store], help="what is installed, what is in use")
    listing.add_argument("--journal", action="store_true", help="what was installed when, and what became of it")
    listing.add_argument("--json", action="store_true", help="one JSON object, the journal in it")

    add = actions.add_parser("install", parents=[store], help="judge a file, and put it into use").add_argument
    add("file", metavar="FILE", help="the model, ONNX with a contract")
    add("--manifest", metavar="FILE", help="what its maker says of it (default: FILE.manifest.json)")
    add("--key", metavar="PUB.pem", help="must have signed the manifest (Ed25519)")
    add("--unsigned", action="store_true", help="without a manifest: nobody says what the file should be")
    add("--name", help="to install it under (default: its own)")

    back = actions.add_parser("rollback", parents=[store], help="take the previous file back into use")
    back.add_argument("name", metavar="NAME", help="of the model")
    remove = actions.add_parser("remove", parents=[store], help="forget a model, its files too")
    remove.add_argument("name", metavar="NAME", help="of the model")

    add = actions.add_parser("manifest", help="write what a file is, for those who install it").add_argument
    add("file", metavar="FILE", help="the model; the manifest is written beside it")
    add("--sign", metavar="KEY.pem", help="sign it with this private key (Ed25519)")


def run(args: argparse.Namespace) -> int:
    """Do what is asked; 0.

    Raises
    ------
    HoldoverError
        The gate refuses the file, a signature is not what it should be, or the store cannot be read or written.
    """
    return {"list": _list, "install": _install, "rollback": _roll_back, "remove": _remove, "manifest": _manifest}[
        args.action
    ](args)


def _store(args: argparse.Namespace) -> "ModelStore":
    from holdover.apps.model.options import default_store
    from holdover.apps.model.store import ModelStore

    return ModelStore(Path(args.store) if args.store else default_store())


def _install(args: argparse.Namespace) -> int:
    from holdover.apps.model.gate import Gate, read_stated
    from holdover.apps.model.store import name_of
    from holdover.runtime.engine import read_model

    path = Path(args.file)
    data, sha256 = read_model(path)
    stated = read_stated(path, _path(args.manifest), _path(args.key))
    if stated is None and not args.unsigned:
        raise UsageError(
            f"{path} has no manifest beside it: nobody says what the file should be. Ask its maker for one, or if you "
            "made the file or trust where it is from, say --unsigned"
        )
    with Gate() as gate:
        verdict = gate.judge(data, stated)
    verdict.demand(str(path))
    contract = _contract(data)
    store = _store(args)
    name = args.name or name_of(contract.name)
    before = store.entry(name)
    notes = _fit(store, before, contract, name)
    vouched = (stated.data, stated.signature) if stated else None
    entry = store.install(name, data, contract.model_version, _trust(stated), vouched)
    assert entry.current is not None
    print(f"judged {path}: {', '.join(verdict.checks)}")
    print(f"installed {name} {contract.model_version} ({sha256[:8]}, {entry.current.trust}) in {store.folder}")
    print("\n".join(notes))
    return 0


def _fit(store: "ModelStore", before: "Entry | None", new: "Contract", name: str) -> list[str]:
    """What changes for the streams that ran the model before, in words; raises `ModelError` if they cannot go on."""
    start = f'It runs from the next start of a daemon with model = "{name}", on probation.'
    if before is None or before.current is None:
        return [start]
    try:
        old = _contract(store.load(before.current))
    except ModelError as error:
        return [f"what it replaces cannot be read any more: {error}", start]
    if [c.unit for c in old.signal.channels] != [c.unit for c in new.signal.channels]:
        raise ModelError(
            f"{name} takes {_channels(old)} now, the new file {_channels(new)}: the streams that feed it would not "
            "fit; install it under another name with --name"
        )
    changes = [f"the signal: {_channels(old)} before, {_channels(new)} now"] if _channels(old) != _channels(new) else []
    differing = _differing(old, new)
    memory = (
        f"it has another shape ({', '.join(differing)})" if differing else "its shape is the same, its meaning is not"
    )
    changes.append(f"the memory of {before.current.model_version} is not carried over: {memory}; streams begin anew")
    lost = sorted({str(t.get("kind")) for t in old.detectors} - {str(t.get("kind")) for t in new.detectors})
    return changes + ([f"no longer detected: {', '.join(lost)}"] if lost else []) + [start]


def _differing(old: "Contract", new: "Contract") -> list[str]:
    """Names of states that only one of two models has, or that have another shape or type."""
    a, b = ({s.name: (s.steady_shape, s.dtype) for s in c.states} for c in (old, new))
    return sorted(name for name in a.keys() | b.keys() if a.get(name) != b.get(name))


def _channels(c: "Contract") -> str:
    return (
        f"{', '.join(f'{channel.name} in {channel.unit}' for channel in c.signal.channels)} at {c.signal.rate_hz:g} Hz"
    )


def _contract(data: bytes) -> "Contract":
    """The contract of a file that the gate has let through, read without loading it."""
    from holdover.runtime.contract import KEY, Contract
    from holdover.runtime.onnx_outline import Outline
    from holdover.runtime.protobuf import Malformed

    try:
        return Contract.parse(dict(Outline.read(data).metadata)[KEY])
    except (Malformed, KeyError) as error:
        raise ModelError(f"it has no contract that can be read ({error}); install it again") from error


def _trust(stated: "Stated | None") -> "Trust":
    if stated is None:
        return "unsigned"
    return "signed" if stated.signed else "manifest"


def _roll_back(args: argparse.Namespace) -> int:
    entry = _store(args).roll_back(args.name, "asked for")
    assert entry.current is not None
    print(f"{args.name} is {entry.current.model_version} ({entry.current.sha256[:8]}) again, from the next start on")
    return 0


def _remove(args: argparse.Namespace) -> int:
    _store(args).remove(args.name)
    print(f"removed {args.name}; a daemon that runs it goes on until it ends")
    return 0


def _manifest(args: argparse.Namespace) -> int:
    from holdover.apps.model import manifest as model_manifest
    from holdover.apps.model.gate import Gate
    from holdover.runtime.engine import read_model

    path = Path(args.file)
    data, sha256 = read_model(path)
    with Gate() as gate:
        gate.judge(data, hand_back=True).demand(str(path))
        golden = gate.given
    contract = _contract(data)
    stated = model_manifest.encode(
        model_manifest.Manifest(contract.name, contract.model_version, sha256, len(data), golden=golden)
    )
    signature = model_manifest.sign(stated, Path(args.sign)) if args.sign else None
    place = model_manifest.beside(path)
    signed = place.with_name(place.name + model_manifest.SIGNED)
    try:
        place.write_bytes(stated)
        signed.unlink(missing_ok=True)
        if signature:
            signed.write_bytes(signature)
    except OSError as error:
        raise ModelError(f"cannot write {place}: {error.strerror}; copy the model to where you may write") from error
    print(f"wrote {place}" + (f" and {signed.name}" if signature else ", not signed"))
    return 0


def _list(args: argparse.Namespace) -> int:
    import msgspec

    from holdover.apps.model.shipped import shipped
    from holdover.apps.subscriber.alert_view import plain

    store = _store(args)
    document = store.read()
    if args.json:
        print(msgspec.json.format(msgspec.json.encode(document)).decode())
        return 0
    lines = _journal(document) if args.journal else _rows(document)
    if not args.journal:
        lines += [f"{name:<20} shipped" for name in shipped() if not store.entry(name)]
    print("\n".join(plain(line) for line in lines) or "nothing was ever installed")
    return 0


def _rows(document: "Document") -> list[str]:
    rows = [f"{'NAME':<20} {'VERSION':<10} {'SHA-256':<8} {'TRUST':<8} {'INSTALLED':<20} STATE"]
    for name, entry in document.models.items():
        for state, model in (("in use", entry.current), ("previous", entry.previous)):
            if model is None:
                continue
            if state == "in use" and entry.probation:
                state = "probation"
            facts = f"{model.model_version:<10.10} {model.sha256[:8]} {model.trust:<8} {model.installed:<20}"
            rows.append(f"{name:<20.20} {facts} {state}")
    return rows if len(rows) > 1 else []


def _journal(document: "Document") -> list[str]:
    return [f"{e.at} {e.what:<11} {e.name:<20.20} {e.sha256[:8]} {e.why}" for e in document.journal]


def _path(given: str | None) -> Path | None:
    return Path(given).expanduser() if given else None
