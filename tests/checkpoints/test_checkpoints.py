"""Checkpoints: complete or refused, and no code in them is run."""

import errno
import importlib
import os
import pickletools
import random
import signal
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agmax import builders
from agmax.checkpoints import read as reading
from agmax.checkpoints import write as saving
from agmax.checkpoints.read import load, load_weights, open_checkpoint, read_state
from agmax.checkpoints.write import copy_checkpoint, save_checkpoint
from agmax.config.resolve import Setting, resolve
from agmax.core import storage
from agmax.core.errors import CheckpointError, OutputError
from agmax.core.storage import sweep
from agmax.experiments.saved import KINDS
from agmax.experiments.saved import load as load_saved
from agmax.training.checkpoint_folder import CheckpointFolder
from helpers import killed


def state(value: float = 1.0) -> dict[str, Any]:
    return {"model": {"weight": torch.full((40, 5), value)}, "step": 3, "sums": {"loss": 0.1}, "names": ["a", "b"]}


def test_a_saved_checkpoint_can_be_loaded(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a.pth", state())
    loaded = load(tmp_path / "a.pth")
    assert torch.equal(loaded.pop("model")["weight"], state()["model"]["weight"])
    assert loaded == {"format": "agmax checkpoint", "version": 2, "step": 3, "sums": {"loss": 0.1}, "names": ["a", "b"]}
    assert os.listdir(tmp_path) == ["a.pth"]


def test_no_flipped_bit_loads_wrong(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    save_checkpoint(path, state())
    full, expected = path.read_bytes(), load(path)
    for position in range(0, len(full), 97):
        damaged = bytearray(full)
        damaged[position] ^= 1 << (position % 8)
        path.write_bytes(damaged)
        try:
            loaded = load(path)
        except CheckpointError as error:
            assert error.exit_code == 4 and str(path) in str(error)
        else:  # a byte that carries nothing, such as padding or a time stamp
            assert torch.equal(loaded.pop("model")["weight"], expected["model"]["weight"])
            assert loaded == {key: value for key, value in expected.items() if key != "model"}


@pytest.mark.parametrize("fraction", [*np.linspace(0, 0.999, 60)])
def test_a_truncated_file_is_refused(tmp_path: Path, fraction: float) -> None:
    path = tmp_path / "a.pth"
    save_checkpoint(path, state())
    path.write_bytes(path.read_bytes()[: int(fraction * path.stat().st_size)])
    with pytest.raises(CheckpointError, match="damaged checkpoint" if fraction else "it is not a zip file"):
        load(path)


def test_bytes_after_the_archive_change_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    save_checkpoint(path, state())
    with path.open("ab") as file:
        file.write(b"more" * 1000)
    assert torch.equal(load(path)["model"]["weight"], state()["model"]["weight"])


def test_a_file_that_is_replaced_during_the_read_is_still_read_completely(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    save_checkpoint(path, state(1.0))
    with open_checkpoint(path) as file:
        save_checkpoint(path, state(2.0))
        assert read_state(file, path)["model"]["weight"][0, 0] == 1
    assert load(path)["model"]["weight"][0, 0] == 2


def test_a_file_that_is_replaced_after_its_check_is_not_the_one_that_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, verify = tmp_path / "a.pth", reading.verify
    save_checkpoint(path, state(1.0))

    def replace_then(*arguments: Any) -> None:
        verify(*arguments)
        save_checkpoint(path, state(2.0))

    monkeypatch.setattr(reading, "verify", replace_then)
    assert load(path)["model"]["weight"][0, 0] == 1


def test_a_file_that_says_it_is_encrypted_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    save_checkpoint(path, state())
    damaged = bytearray(path.read_bytes())
    directory = damaged.rfind(b"PK\x01\x02")
    damaged[directory + 8] |= 1
    path.write_bytes(damaged)
    with pytest.raises(CheckpointError, match="damaged checkpoint"):
        load(path)


@pytest.mark.filterwarnings("ignore:Validating sparse", "ignore:Sparse invariant checks")  # torch 2.11's words
@pytest.mark.parametrize(
    "tensor",
    [torch.zeros(1).expand(2**36, 2048), torch.zeros(3, device="meta"), torch.zeros(3, 3).to_sparse()],
    ids=["expanded", "without data", "sparse"],
)
def test_tensors_without_enough_values_or_of_other_layouts_are_refused(tmp_path: Path, tensor: torch.Tensor) -> None:
    save_checkpoint(tmp_path / "a.pth", {"model": {"weight": tensor}})
    with pytest.raises(CheckpointError, match="without enough values"):
        load(tmp_path / "a.pth")


def test_a_checkpoint_without_settings_is_named(tmp_path: Path) -> None:
    for content, why in (
        ({}, "class_names, config, .* missing"),
        ({"config": {"modle": 1}}, "class_names, fingerprint, model, .* missing"),
    ):
        save_checkpoint(tmp_path / "a.pth", content)
        with pytest.raises(CheckpointError, match=why):
            _ = load_saved(tmp_path / "a.pth").config
    whole = dict.fromkeys(["model", *KINDS])
    save_checkpoint(tmp_path / "a.pth", {"config": {"modle": 1}, **whole})
    message = "its settings belong to another release or to parts that are not registered: unknown key modle"
    with pytest.raises(CheckpointError, match=message):
        _ = load_saved(tmp_path / "a.pth").config


def test_compressed_entries_are_refused_before_they_are_read(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a.pth", state())
    with (
        zipfile.ZipFile(tmp_path / "a.pth") as full,
        zipfile.ZipFile(tmp_path / "b.pth", "w", zipfile.ZIP_DEFLATED) as small,
    ):
        for name in full.namelist():
            small.writestr(name, full.read(name))
    with pytest.raises(CheckpointError, match="it holds compressed entries"):
        load(tmp_path / "b.pth")


class Calls:
    """An object whose pickle calls a function when it is read."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


CODE = {
    "open": (open, "PWNED", "w"),
    "system": (os.system, "touch PWNED"),
    "exec": (exec, "open('PWNED', 'w')"),
    "eval": (eval, "open('PWNED', 'w')"),
    "Popen": (subprocess.Popen, ["touch", "PWNED"]),
    "import_module": (importlib.import_module, "antigravity"),
    "mkdir": (os.mkdir, "PWNED"),
}


@pytest.mark.parametrize("name", CODE)
def test_code_in_a_checkpoint_is_refused_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"format": "agmax checkpoint", "version": 1, "model": Calls(*CODE[name])}, "evil.pth")
    with pytest.raises(CheckpointError, match=f"it contains code, which is never run: .*{name}"):
        load(Path("evil.pth"))
    assert os.listdir() == ["evil.pth"]


def test_no_changed_opcode_of_the_pickle_runs_code_or_fails_in_another_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The archive is whole; its pickle, which could call any function, has random bytes, opcodes and names in it."""
    monkeypatch.chdir(tmp_path)
    torch.save({"format": "agmax checkpoint", "version": 1, "model": {"w": torch.zeros(3)}}, "whole.pth")
    with zipfile.ZipFile("whole.pth") as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    [name] = [name for name in entries if name.endswith("data.pkl")]
    rng = random.Random(0)
    opcodes = [opcode.code.encode("latin-1") for opcode in pickletools.opcodes]
    code = [b"cos\nsystem\n(X\x0b\x00\x00\x00touch PWNEDtR", b"cbuiltins\nopen\n(U\x05PWNEDU\x01wtR"]
    num_refused = 0
    for _ in range(400):
        pickled = bytearray(entries[name])
        place = rng.randrange(2, len(pickled))
        pickled[place : place + rng.choice([0, 0, 1, 4])] = rng.choice(
            [rng.choice(opcodes), rng.choice(code), rng.randbytes(2)]
        )
        with zipfile.ZipFile("evil.pth", "w") as archive:
            for entry, content in entries.items():
                archive.writestr(entry, bytes(pickled) if entry == name else content)
        try:
            load(Path("evil.pth"))
        except CheckpointError as error:
            num_refused += 1
            assert error.exit_code == 4 and str(error).startswith(
                ("checkpoint not loaded (", "not a checkpoint", "checkpoint of")
            )
    assert num_refused > 200 and sorted(os.listdir()) == ["evil.pth", "whole.pth"]


def test_an_archive_of_very_many_entries_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_ENTRIES", 3)
    save_checkpoint(tmp_path / "a.pth", state())
    with pytest.raises(CheckpointError, match=r"not a checkpoint .*it has \d+ entries"):
        load(tmp_path / "a.pth")


def test_files_of_other_formats_are_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "other.pth")
    torch.save({"format": "agmax checkpoint", "version": 99}, tmp_path / "later.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    (tmp_path / "page.pth").write_text("<!doctype html>")
    os.mkfifo(tmp_path / "pipe.pth")
    (tmp_path / "loop.pth").symlink_to("loop.pth")
    (tmp_path / "zero.pth").symlink_to("/dev/zero")
    for name, why in (
        ("other.pth", "not a checkpoint of this program"),
        ("list.pth", "it holds a list"),
        ("later.pth", "format version 99"),
        ("page.pth", "it is not a zip file"),
        ("pipe.pth", "not a plain file"),
        (".", "not a plain file"),
        ("loop.pth", "Too many levels of symbolic links"),
        ("zero.pth", "not a plain file"),
        ("none.pth", "not found"),
    ):
        with pytest.raises(CheckpointError, match=why):
            load(tmp_path / name)


@pytest.mark.parametrize("fault", ["save", "fsync", "replace"])
def test_a_save_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    path = tmp_path / "a.pth"
    save_checkpoint(path, state(1.0))
    before = path.read_bytes()

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    owner = saving.torch if fault == "save" else storage.os
    monkeypatch.setattr(owner, fault, fail)
    with pytest.raises(OutputError, match="disk full") as caught:
        save_checkpoint(path, state(2.0))
    assert caught.value.exit_code == 6
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.pth"]


def test_a_file_that_cannot_be_read_back_is_not_moved_into_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.pth"
    save_checkpoint(path, state(1.0))
    before = path.read_bytes()
    original = torch.save

    def broken(value: Any, file: Any) -> None:
        original(value, file)
        file.seek(200)
        file.write(b"\xff" * 8)

    monkeypatch.setattr(saving.torch, "save", broken)
    with pytest.raises(OutputError):
        save_checkpoint(path, state(2.0))
    assert path.read_bytes() == before


def test_temporary_files_of_a_killed_save_are_removed(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "step-00000001.pth", state())
    (tmp_path / ".step-00000002.pth.tmp-123").write_bytes(b"half")
    sweep(tmp_path)
    assert os.listdir(tmp_path) == ["step-00000001.pth"]


@pytest.mark.parametrize("instant", killed.INSTANTS)
def test_a_save_killed_at_any_instant_loses_no_checkpoint_and_the_next_start_sweeps(
    tmp_path: Path, instant: str
) -> None:
    store = CheckpointFolder(tmp_path)
    for step in (1, 2):
        store.save(step, killed.state(step))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert killed.save_and_be_killed(tmp_path, 3, instant) == -signal.SIGKILL
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    sweep(tmp_path)
    is_complete = instant in ("after it is put in place", "before the oldest is removed")
    assert sorted(os.listdir(tmp_path)) == [store.path(step).name for step in ((1, 2, 3) if is_complete else (1, 2))]
    found = store.newest()
    assert found is not None and found[1]["step"] == (3 if is_complete else 2)
    assert found[1]["model"]["weight"].unique().tolist() == [found[1]["step"]]
    store.save(4, killed.state(4))
    assert sorted(os.listdir(tmp_path)) == [store.path(step).name for step in ((3, 4) if is_complete else (2, 4))]


def test_the_newest_two_and_the_best_are_kept(tmp_path: Path) -> None:
    store = CheckpointFolder(tmp_path)
    for step in (5, 10, 15, 20):
        store.save(step, state(step))
        if step == 5:
            store.keep_best(step)
    assert sorted(os.listdir(tmp_path)) == ["best.pth", "step-00000015.pth", "step-00000020.pth"]
    assert load(store.best)["model"]["weight"][0, 0] == 5
    found = store.newest()
    assert found is not None
    assert found[0].name == "step-00000020.pth"


def test_the_newest_intact_checkpoint_is_used_and_none_is_an_error(tmp_path: Path) -> None:
    store = CheckpointFolder(tmp_path)
    assert store.newest() is None
    store.save(5, state(5))
    store.save(10, state(10))
    store.path(10).write_bytes(b"")
    found = store.newest()
    assert found is not None
    assert found[1]["model"]["weight"][0, 0] == 5
    store.path(5).write_bytes(b"")
    with pytest.raises(CheckpointError, match="no undamaged checkpoint"):
        store.newest()


def test_a_copy_is_complete(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a.pth", state())
    copy_checkpoint(tmp_path / "a.pth", tmp_path / "b.pth")
    assert (tmp_path / "a.pth").read_bytes() == (tmp_path / "b.pth").read_bytes()
    with pytest.raises(OutputError):
        copy_checkpoint(tmp_path / "a.pth", tmp_path / "nowhere" / "b.pth")
    with pytest.raises(CheckpointError, match=r"cannot read the checkpoint \(.*/gone\.pth\): No such file"):
        copy_checkpoint(tmp_path / "gone.pth", tmp_path / "b.pth")
    assert (tmp_path / "a.pth").read_bytes() == (tmp_path / "b.pth").read_bytes()


def test_weights_that_do_not_fit_are_counted_and_named() -> None:
    model = torch.nn.Linear(2, 3)
    wrong = {"weight": torch.zeros(3, 4), "extra": torch.zeros(1)}
    with pytest.raises(CheckpointError) as caught:
        load_weights(model, wrong, where=Path("x.pth"), saved="this", wanted="that")
    text = str(caught.value)
    assert "checkpoint: this; configuration: that" in text
    assert "1 missing (bias)" in text
    assert "1 unexpected (extra)" in text
    assert "weight (3, 4) instead of (3, 2)" in text


def test_weights_fit_only_the_network_that_they_are_of() -> None:
    """Six networks and the weights of each; what does not fit is counted, and the first five names are shown."""
    kinds: dict[str, dict[str, Any]] = {"ResNet8": {}, "ResNet20": {}, "WideResNet10-1": {}, "ResNet8-agmax": {}}
    kinds |= {"ResNet8-cutout": {"dataset.num_classes": 7}, "ResNet8-mixup": {"model.channels": 3}}
    configs = [
        resolve(name, dataset="digits", settings=[Setting(key, value, "test") for key, value in more.items()]).config
        for name, more in kinds.items()
    ]
    states = [builders.model(config).state_dict() for config in configs]
    for wanted in configs:
        for saved, weights in zip(configs, states, strict=True):
            if saved is wanted:
                builders.restore_model(wanted, weights, where=Path("a.pth"), saved=saved)
                continue
            with pytest.raises(
                CheckpointError, match=r"checkpoint: \w+, \d channels, \d+ classes, \w+; configuration:"
            ):
                builders.restore_model(wanted, weights, where=Path("a.pth"), saved=saved)
    with pytest.raises(CheckpointError, match=r"[0-9]+ unexpected \((backbone[\w.]+, ){5}\.\.\.\)"):
        builders.restore_model(configs[0], states[1], where=Path("a.pth"), saved=configs[1])
