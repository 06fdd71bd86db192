import numpy as np
import torch
from edgepipe_torchscript import TorchScript, TorchScriptExporter

from edgepipe.exporters.base import ExportOptions
from edgepipe.runners.testing import Case, RunnerConformance


def cases():
    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 1), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(64, 2)
    ).eval()
    options = ExportOptions(opset=20, dynamic_batch=True)
    files = TorchScriptExporter().export(module, (torch.zeros(2, 3, 4, 4),), options)
    for batch in (1, 3):
        pixels = np.random.default_rng(0).normal(size=(batch, 3, 4, 4)).astype(np.float32)
        with torch.inference_mode():
            logits = module(torch.from_numpy(pixels)).numpy()
        yield Case({"model.ts": files[".ts"]}, {"input": pixels}, {"logits": logits})


class TestTorchScript(RunnerConformance):
    runner = TorchScript
    cases = tuple(cases())
