"""``unmask export``: what it says, and what it leaves alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from toy_system import toy_pipeline

from unmask.cli import main


def test_it_says_what_it_wrote_and_what_the_files_do_not_tell(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    toy_pipeline().save_pretrained(tmp_path / "model")
    words = ["export", str(tmp_path / "model"), str(tmp_path / "out"), "--to", "maskgit-pytorch"]
    assert main(words) == 0
    said = capsys.readouterr().out.splitlines()
    assert said == [
        "maskgit-pytorch: 29 tensors in ckpt/step0000000/model.pt, "
        "ckpt/step0000000/model_ema.pt, config-exported.yaml"
    ]
    assert main(words) == 2
    assert "holds 'ckpt' but no export; name a new or empty folder" in capsys.readouterr().err
    words[2], words[4] = str(tmp_path / "other"), "mage"
    assert main(words) == 2
    assert "mage stores a MageNetwork, and this is a MaskGITVitNetwork" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_sizes_that_the_files_do_not_tell_are_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["export", "fashion-mar", str(tmp_path / "out"), "--to", "mar"]) == 0
    told = "not in these files, to be given to the project's code: heads=4, decoder_heads=4"
    assert told in capsys.readouterr().out
