"""Which device the command line chooses where the machine's GPU has no float64."""

import torch

from tsgen.cli.main import main

SMALL = ["--config", "demo", "--data.steps=300", "--data.num_nodes=4", "--model.encoder.hidden=4"]
SMALL += ["--trainer.logger=false", "--trainer.enable_progress_bar=false", "--trainer.max_steps=1"]


def test_the_cpu_is_chosen_over_a_gpu_of_apples(tmp_path, monkeypatch):
    """A stand-in: torch says that there is one, as on such a machine."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert main(["fit", *SMALL]) == 0
    state = torch.load("runs/demo/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert {x.device.type for x in state.values()} == {"cpu"} and state["loc"].dtype == torch.float64
