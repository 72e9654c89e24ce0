"""What cannot fit is refused before it is claimed."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toy_system import toy_tokenizer

from unmask import memory
from unmask.errors import InputError
from unmask.memory import GIB, check_fits, check_memory, most_memory
from unmask.networks.network import Network
from unmask.recipes import RECIPES
from unmask.train.generator import make_task

NETWORKS = {type(recipe.network): recipe.network for recipe in RECIPES.values()}.values()


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: type(network).__name__)
def test_a_network_is_counted_without_a_byte_of_it(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    with torch.device("meta"):
        weights = sum(p.numel() for p in network.build().parameters())
    monkeypatch.setattr(memory, "most_memory", lambda: 4 * weights)
    check_fits(network.build, "network")
    monkeypatch.setattr(memory, "most_memory", lambda: 4 * weights - 1)
    with pytest.raises(InputError, match=f"a network of {weights:,} parameters needs at least"):
        check_fits(network.build, "network")


def test_sizes_that_are_each_in_range_and_together_are_not() -> None:
    """50 trillion parameters are refused in seconds, by the training that would build them."""
    recipe = RECIPES["fashion-maskgit"]
    huge = replace(recipe, network=replace(recipe.network, width=2**16, depth=1000))
    with pytest.raises(InputError, match=r"51,\d{3},\d{3},\d{3},\d{3} parameters .* smaller"):
        make_task(huge, toy_tokenizer())


def test_the_message_has_both_numbers() -> None:
    has = f"{most_memory() / GIB:,.1f}"
    with pytest.raises(InputError) as error:
        check_memory(1 << 60, "a sheet", "give fewer images")
    assert str(error.value) == (
        "a sheet needs at least 1,073,741,824.0 GiB of memory, and this machine has "
        f"{has} GiB; give fewer images"
    )
    check_memory(1 << 20, "a sheet", "give fewer images")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limits of processes")
def test_a_limit_of_the_process_counts() -> None:
    code = (
        "import resource; from unmask.memory import most_memory; before = most_memory()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (before // 2, -1)); print(before, most_memory())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert after == before // 2


def test_a_container_s_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(memory, "CONTAINER", limit)
    whole = most_memory()
    limit.write_text("max\n")
    assert most_memory() == whole
    limit.write_text(f"{1 << 29}\n")
    assert most_memory() == 1 << 29


def test_a_network_without_memory_needs_no_compiler() -> None:
    """``torch._dynamo`` takes a second of CPU time to import, more than a first picture."""
    code = (
        "import sys\nfrom unmask.memory import skeleton\n"
        "from unmask.pipeline import load\nfrom unmask.recipes import RECIPES\n"
        "with skeleton():\n    for recipe in RECIPES.values():\n        recipe.network.build()\n"
        "for name in ('fashion-mar', 'fashion-selfguidance'):\n    load(name)\n"
        "print(len(RECIPES), 'torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(len(RECIPES)), "False"]


def test_free_memory_is_the_least_of_machine_and_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "CONTAINER", tmp_path / "memory.max")
    assert memory.free_memory() == 0
    (tmp_path / "meminfo").write_text("MemTotal: 99 kB\nMemAvailable:   5 kB\nHugePages_Free: 0\n")
    assert memory.free_memory() == 5120
    (tmp_path / "memory.stat").write_text("anon 3000\nfile 900\n")
    for limit, free in ("max", 5120), ("7000", 4000), ("2000", 0):
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        assert memory.free_memory() == free
