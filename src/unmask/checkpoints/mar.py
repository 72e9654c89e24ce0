"""MAR (LTH14) and eMIGM (ML-GSAI): name table of the diffusion head that they share."""

from __future__ import annotations

from unmask.checkpoints.names import Table, rename_layer

HEAD = "diffloss.net"
HEAD_BLOCK, OWN_HEAD_BLOCK = f"{HEAD}.res_blocks.{{i}}", "head.blocks.{i}"

HEAD_TABLE: Table = (
    *rename_layer(f"{HEAD}.time_embed.mlp.0", "head.time.0"),
    *rename_layer(f"{HEAD}.time_embed.mlp.2", "head.time.2"),
    *rename_layer(f"{HEAD}.cond_embed", "head.condition"),
    *rename_layer(f"{HEAD}.input_proj", "head.input"),
    *rename_layer(f"{HEAD_BLOCK}.adaLN_modulation.1", f"{OWN_HEAD_BLOCK}.modulation"),
    *rename_layer(f"{HEAD_BLOCK}.in_ln", f"{OWN_HEAD_BLOCK}.norm"),
    *rename_layer(f"{HEAD_BLOCK}.mlp.0", f"{OWN_HEAD_BLOCK}.first"),
    *rename_layer(f"{HEAD_BLOCK}.mlp.2", f"{OWN_HEAD_BLOCK}.second"),
    *rename_layer(f"{HEAD}.final_layer.adaLN_modulation.1", "head.modulation"),
    *rename_layer(f"{HEAD}.final_layer.linear", "head.out"),
)
