"""Flax files: the decoder, and the transformer tree in the PyTorch port's names."""

from __future__ import annotations

from golden import Case
from torch import Tensor

from unmask.checkpoints.flax import Leaf, decode_flax, flatten
from unmask.checkpoints.names import to_own, to_source
from unmask.projects.maskgit_jax import TABLE
from unmask.projects.unlockmgm import TABLE as PORT_TABLE


def read(case: Case, separator: str = "/") -> dict[str, Leaf]:
    """The leaves of the case's file by path."""
    return flatten(decode_flax(case.file().read_bytes(), case.name), separator)


def decode(case: Case) -> dict[str, Tensor]:
    leaves = read(case, ".")
    for key, wanted in case.spec.get("python_values", {}).items():
        value = complex(*wanted) if isinstance(wanted, list) else wanted
        assert leaves[key] == value, f"{key}: {leaves[key]!r} is not {value!r}"
    arrays = {key: leaf for key, leaf in leaves.items() if isinstance(leaf, Tensor)}
    assert arrays.keys() == case.tensors.keys()
    return arrays


def transformer(case: Case) -> dict[str, Tensor]:
    source = {key: leaf for key, leaf in read(case).items() if isinstance(leaf, Tensor)}
    port = to_source(to_own(source, TABLE, case.name), PORT_TABLE)
    assert port.keys() == case.tensors.keys()
    sizes = (port["embed.word_embeddings.weight"], port["embed.position_embeddings.weight"])
    wide = [t for key, t in port.items() if key.endswith(".ffn.intermediate_output.bias")]
    query = source["params/TransformerLayer_0/Attention_0/self_attention/query/kernel"]
    told = {
        "vocab_size": len(sizes[0]),
        "max_positions": len(sizes[1]),
        "hidden_size": sizes[0].shape[1],
        "num_layers": len(wide),
        "num_heads": query.shape[1],
        "intermediate_size": len(wide[0]),
    }
    for name, found in told.items():
        assert case.spec.get(name, found) == found, name
    return port


HANDLERS = {"flax.decode": decode, "flax.transformer": transformer}
