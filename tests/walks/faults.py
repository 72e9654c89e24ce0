"""Commands whose file-system calls fail or kill, one after the other.

    LD_PRELOAD=faults.so python tests/walks/faults.py PLACE COMMAND ...

One warm process forks a child for each fault; ``disk_faults.c`` brings the fault about. After a
kill the files are those of before or of the end, and the next start ends as an undisturbed one.
After "no space left on device" the same holds, and the command has ended with status 2 and one
line. Where a file system can be mounted, which root may, each command also meets a real full disk.
The result is a line of JSON for each command.
"""

from __future__ import annotations

import ctypes
import importlib
import io
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from safetensors.torch import load_file

sys.path += [str(Path(__file__).parents[1] / "toys"), str(Path(__file__).parent)]

from forks import forked, status
from toy_mage import save_toy, toy_generator, write_labelled
from toy_system import TOKENIZER, TOY, fill, toy_pipeline, toy_tokenizer

import unmask.commands.cache
import unmask.commands.convert
import unmask.commands.eval
import unmask.commands.features
import unmask.commands.finetune
import unmask.commands.probe
import unmask.commands.sample
import unmask.commands.takeover
import unmask.commands.tokenizer
import unmask.commands.train  # noqa: F401 - loaded before the forks
from unmask.cli import main
from unmask.files.serial import write_yaml
from unmask.recipes.tokenizers import FASHION_VQ
from unmask.tokenizers.conv_stack import ConvVQTokenizer
from unmask.tokenizers.folder import save_tokenizer
from unmask.train.log import TIMING
from unmask.train.run_folder import TRACKER

KILL_BEFORE, KILL_AFTER, FULL_BEFORE, FULL_AFTER = 1, 2, 3, 4
MODES = {
    KILL_BEFORE: "killed before",
    KILL_AFTER: "killed after",
    FULL_BEFORE: "full before",
    FULL_AFTER: "full after",
}
DISK, ROOM = "disk", 1 << 26  # a file system of its own where one can be mounted, and its bytes
PAGE = os.sysconf("SC_PAGE_SIZE")  # the unit of room on it
SHARES = (0.0, 0.25, 0.5, 0.75)  # of the room that the results take
REMOVALS = (b"unlink", b"unlinkat", b"rmdir")
NETWORK = """
def means(images):
    return images.mean((2, 3))
"""


@dataclass(frozen=True)
class Command:
    """A command and what is in its folder before."""

    name: str
    words: str
    """``{out}`` stands for what is written."""
    out: str = "out"
    """Name of the file or folder."""
    older: str = ""
    """Words of a command that has written there earlier."""
    every: int = 1
    """Every how many calls there is a fault."""


ON_CPU = "--device cpu --out {out}"
SAMPLE = f"sample model --per-class 1 --steps 2 {ON_CPU}"
EVAL = "eval made.npz --data labelled --features own:means --count 8 --batch-size 4 --device cpu"
FEATURES = "--data labelled --crop none --pool class --out {out}/f.npy"
COURSE = "--data labelled --crop none --batch-size 16 --epochs 1 --warmup-epochs 0 --out {out}"
TRAINING = "--training.steps 4 --training.save-every 2 --training.tracker none --out {out}"
IMAGES = "--data labelled --image-size 16"
ADAPTER = Path(__file__).parents[1] / "fixtures" / "takeover" / "unlockmgm"

COMMANDS = [
    Command("sample", SAMPLE, older=f"{SAMPLE} --seed 9", every=2),
    Command("sample --film", f"{SAMPLE} --film", older=f"{SAMPLE} --film --seed 9", every=2),
    Command("sample --format png", f"{SAMPLE} --format png", every=2),
    Command("sample --format folder", f"{SAMPLE} --format folder", every=2),
    *(
        Command(
            f"sample --format {f}",
            f"{SAMPLE} --format {f}",
            older=f"{SAMPLE} --format {f} --seed 9",
            every=2,
        )
        for f in ("npz", "tokens")
    ),
    Command(
        "eval --out",
        f"{EVAL} --out {{out}}",
        out="report.json",
        older=f"{EVAL} --seed 9 --out {{out}}".replace("--count 8", "--count 6"),
    ),
    Command("eval --work", f"{EVAL} --work {{out}}"),
    Command("tokenizer eval", f"tokenizer eval vq {IMAGES} --count 8 {ON_CPU}", every=7),
    Command("features", f"features mage {FEATURES}", older=f"features other {FEATURES}"),
    Command("features --work", f"features mage {FEATURES} --work {{out}}/work", every=7),
    Command(
        "convert",
        "convert foreign {out} --tokenizer foreign/vq",
        older="convert older {out} --tokenizer older/vq",
        every=5,
    ),
    Command("export", "export model {out} --to maskgit-pytorch"),
    Command("takeover", f"takeover {ADAPTER} {{out}}", every=5),
    Command(
        "cache build",
        f"cache build --tokenizer vq {IMAGES} --shard-size 12 --out {{out}}",
        every=5,
    ),
    Command("tokenizer train", f"tokenizer train vq.yaml --data labelled {TRAINING}", every=5),
    Command("train", f"train toy.yaml --cache cache {TRAINING}", every=5),
    Command("probe", f"probe mage {COURSE}", every=5),
    Command("finetune", f"finetune tuned {COURSE} --mixing.group 8", every=5),
]


@dataclass
class Outcome:
    """What became of the faults of one command."""

    command: str
    calls: int = 0
    """File-system calls of an undisturbed run."""
    tried: int = 0
    answered: int = 0
    full: int = 0
    """Those tried that were real full disks."""
    seconds: float = 0.0
    """On the clock."""
    processor: float = 0.0
    """Seconds that its processes computed."""
    wrong: list[str] = field(default_factory=list)
    """What was not as it should be, a line a fault."""


def prepare(place: Path) -> None:
    """Write what the commands read."""
    toy_pipeline().save_pretrained(place / "model")
    save_tokenizer(toy_tokenizer(), place / "vq")
    write_labelled(place / "labelled")
    save_toy(place / "tuned")
    for name in ("mage", "other"):
        toy_generator().save_pretrained(place / name)
    (place / "own.py").write_text(NETWORK)
    two = replace(TOY, network=replace(TOY.network, classes=2), tokenizer=str(place / "vq"))
    write_yaml(two, place / "toy.yaml")
    training = replace(FASHION_VQ.training, batch_size=8)
    small = replace(FASHION_VQ, network=TOKENIZER, image_size=16, training=training)
    write_yaml(small, place / "vq.yaml")
    for name, factor in (("foreign", 1.0), ("older", 2.0)):
        prepare_foreign(place / name, factor)
    os.chdir(place)
    for words in (
        "cache build --tokenizer vq --data labelled --image-size 16 --out cache",
        "sample model --device cpu --per-class 4 --format npz --out made",
    ):
        assert main(words.split()) == 0
    (place / "made" / "samples.npz").rename(place / "made.npz")


def prepare_foreign(folder: Path, factor: float) -> None:
    """Write a model of UnlockMGM, and a tokenizer of as many codes."""
    folder.mkdir()
    source = Path(__file__).parents[1] / "fixtures" / "maskgit" / "um_logits"
    state = load_file(source.with_suffix(".weights.safetensors"))
    torch.save({k: v * factor for k, v in state.items()}, folder / "pytorch_model.bin")
    sizes = json.loads(source.with_suffix(".json").read_text())["config"]
    sizes["_class_name"] = "MaskGitTransformer"
    (folder / "config.json").write_text(json.dumps(sizes))
    tokenizer = ConvVQTokenizer(replace(TOKENIZER, codes=32))
    fill(tokenizer, folder.name, 0.3)
    save_tokenizer(tokenizer, folder / "vq")


class Walk:
    """All faults of one command.

    Args:
        command: what is run.
        place: of its inputs; everything is written below it.
    """

    def __init__(self, command: Command, place: Path) -> None:
        self.command, self.place = command, place
        name = command.name.replace(" ", "")
        self.root, self.older = place / DISK / name, place / f"{name}-older"
        self.said, self.filler = place / f"{name}.txt", place / DISK / "filler"
        self.library = ctypes.CDLL(None)
        self.library.fault_name.restype = ctypes.c_char_p
        self.outcome = Outcome(command.name)

    def run(self, words: str, at: int = 0, mode: int = 0) -> tuple[int, int, bytes]:
        """Status, file-system calls, and the name of the one that was hit."""
        told, tell = os.pipe()
        before = set(sys.modules)

        def child() -> None:
            os.close(told)
            os.chdir(self.place)
            output = os.open(self.said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(output, 1)
            os.dup2(output, 2)
            sys.stdout = sys.stderr = io.TextIOWrapper(io.FileIO(1, "w"), write_through=True)
            out = str(self.root / self.command.out)
            self.library.fault_arm(os.fsencode(self.root), at, mode)
            code = 1
            try:
                code = main([word.replace("{out}", out) for word in words.split()])
            except BaseException:
                traceback.print_exc()
            finally:
                count, name = self.library.fault_count(), self.library.fault_name()
                self.library.fault_arm(b"", 0, 0)
                loaded = [] if at else [m for m in sys.modules if m not in before]
                os.write(tell, json.dumps([count, name.decode(), loaded]).encode())
                os._exit(code)

        pid = forked(child)
        os.close(tell)
        with os.fdopen(told, "rb") as pipe:
            heard = pipe.read()
        count, name, loaded = json.loads(heard) if heard else (at, "", [])
        for module in loaded:  # so that the next child need not
            with suppress(Exception):
                importlib.import_module(module)
        return status(pid), count, name.encode()

    def fresh(self) -> None:
        """The folder as it was before the command."""
        shutil.rmtree(self.root, ignore_errors=True)
        if self.older.exists():
            shutil.copytree(self.older, self.root)
        else:
            self.root.mkdir(parents=True)

    def walk(self) -> Outcome:
        """Try every fault."""
        start, computed = time.monotonic(), _computed()
        self.fresh()
        if self.command.older:
            code, _, _ = self.run(self.command.older)
            assert code == 0, self.said.read_text()
            shutil.copytree(self.root, self.older)
        self.before = contents(self.root)
        code, self.outcome.calls, _ = self.run(self.command.words)
        assert code == 0, self.said.read_text()
        first = contents(self.root)
        self.fresh()
        self.run(self.command.words)
        again = contents(self.root)
        assert first.keys() == again.keys()
        self.stable = {name for name in first if first[name] == again[name]}
        self.after = first
        for at in range(1, self.outcome.calls + 1, self.command.every):
            for mode in MODES:
                self.try_fault(at, mode)
        if os.path.ismount(self.root.parent):
            for share in SHARES:
                self.try_full_disk(share)
        self.outcome.seconds = round(time.monotonic() - start, 1)
        self.outcome.processor = round(_computed() - computed, 1)
        return self.outcome

    def try_fault(self, at: int, mode: int) -> None:
        """One fault, and the start after it."""
        self.fresh()
        code, _, name = self.run(self.command.words, at, mode)
        if code == 0:  # another order of calls had fewer of them
            return
        self.outcome.tried += 1
        self.judge(f"{MODES[mode]} call {at} ({name.decode()})", self.complaints(code, mode, name))

    def try_full_disk(self, share: float) -> None:
        """A disk with room for a share of the results, and the start when there is room again."""
        self.fresh()
        room = int(share * sum(-(-len(content) // PAGE) for content in self.after.values()))
        free = os.statvfs(self.root).f_bavail
        self.filler.write_bytes(bytes((free - room) * PAGE))
        code, _, _ = self.run(self.command.words)
        self.filler.unlink()
        if code == 0:  # what it replaces has made room
            return
        self.outcome.tried += 1
        self.outcome.full += 1
        self.judge(f"a disk with {room} pages", self.complaints(code, FULL_BEFORE, b""))

    def judge(self, what: str, complaints: Iterable[str]) -> None:
        """Note what is wrong after a fault and with the start after it."""
        complaints, said = list(complaints), self.said.read_text()
        if not self.is_done():
            complaints += self.next_start()
        if complaints:
            self.outcome.wrong.append(f"{what}: {'; '.join(complaints)}; said: {said[-300:]}")
        else:
            self.outcome.answered += 1

    def is_done(self) -> bool:
        """Whether the command's whole work is there, and nothing else."""
        found = contents(self.root)
        return found.keys() == self.after.keys() and all(
            found[name] == self.after[name] for name in self.stable
        )

    def next_start(self) -> Iterator[str]:
        """What is wrong with the same command once more."""
        code, _, _ = self.run(self.command.words)
        found = contents(self.root)
        if code:
            yield f"the next start ended with {code}: {self.said.read_text()[-300:]}"
        elif found.keys() != self.after.keys():
            yield f"the next start left {sorted(found.keys() ^ self.after.keys())}"
        elif not self.is_done():
            others = [name for name in self.stable if found[name] != self.after[name]]
            yield f"the next start made others of {sorted(others)}"

    def complaints(self, code: int, mode: int, name: bytes) -> Iterator[str]:
        """What is wrong right after a fault."""
        found = contents(self.root)
        for file in self.stable & found.keys():
            begun = file.endswith(".jsonl") and self.after[file].startswith(found[file])
            if not begun and found[file] not in (self.before.get(file), self.after[file]):
                yield f"{file} is neither the older nor the new one"
        for file in self.before:
            if file not in found:
                yield f"{file} is gone"
        if mode in (KILL_BEFORE, KILL_AFTER):
            if code != -signal.SIGKILL:
                yield f"status {code}"
            return
        lines = self.said.read_text().splitlines()
        errors = [line for line in lines if line.startswith("unmask: error: ")]
        if code != 2 or len(errors) != 1 or "Traceback" in "\n".join(lines):
            yield f"status {code}"
        elif str(self.root) not in errors[0] or "No space left" not in errors[0]:
            yield "the line does not name the path and the reason"
        left = [file for file in found if is_aside(file) and file not in self.before]
        if left and name not in REMOVALS:
            yield f"left behind: {left}"


def _computed() -> float:
    """Seconds that the children of this process have computed."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def is_aside(file: str) -> bool:
    """Whether a file is no result."""
    return any(part.startswith(".") and part.endswith(".partial") for part in Path(file).parts)


def contents(root: Path) -> dict[str, bytes]:
    """What is below a folder, by relative path, without what the time of the start decides."""
    files = {str(p.relative_to(root)): p for p in sorted(root.rglob("*")) if p.is_file()}
    return {name: _content(path) for name, path in files.items() if TRACKER not in path.parts}


def _content(path: Path) -> bytes:
    if path.suffix == ".jsonl":
        return b"".join(map(_untimed, path.read_bytes().splitlines(keepends=True)))
    if path.name == "state.pt":  # the same values may lie in it in another way
        return b""
    if path.name == "manifest.json":
        return b""
    return path.read_bytes()


def _untimed(line: bytes) -> bytes:
    """A line of a log without its times; nothing of one that is torn."""
    if not line.endswith(b"\n"):
        return b""
    kept = {name: value for name, value in json.loads(line).items() if name not in TIMING}
    return json.dumps(kept).encode() + b"\n"


def walked(place: Path, names: Sequence[str]) -> Iterator[Outcome]:
    """Outcomes of commands by name."""
    place.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    if not (place / "made.npz").exists():
        assert status(forked(lambda: prepare(place))) == 0
    (place / DISK).mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "none", str(place / DISK)]
    mounted = not subprocess.run(mount, capture_output=True, check=False).returncode
    try:
        for command in COMMANDS:
            if not names or command.name in names:
                yield Walk(command, place).walk()
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(place / DISK)], check=True)


if __name__ == "__main__":
    for outcome in walked(Path(sys.argv[1]).resolve(), sys.argv[2:]):
        print(json.dumps(asdict(outcome)), flush=True)
