"""The PyTorch side: the peer, eager or compiled, with its partitioner in either bookkeeping."""

import copy
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from experiments.compare.batches import noise, timing_config
from experiments.compare.protocol import Prepared, Settings, cores
from experiments.torch_peer.features import featurise
from experiments.torch_peer.graphs import from_packed
from experiments.torch_peer.host_reads import HostReads
from experiments.torch_peer.models import build_model
from experiments.torch_peer.training import make_optimiser, total_loss
from experiments.torch_peer.weights import load_ours
from partoken_jax.convert import our_path
from partoken_jax.timing.batches import timing_data
from partoken_jax.timing.programs import timing_settings, train_config


def on_cpu() -> bool:
    return not torch.cuda.is_available()


class TorchWorker(ABC):
    """What every way to run PyTorch has in common."""

    def __init__(self, variant: str, settings: Settings):
        torch.set_num_threads(cores())
        torch.backends.cuda.matmul.allow_tf32 = settings.precision == "tensorfloat32"
        torch.manual_seed(settings.seed)
        config = timing_config(settings, variant)
        data = timing_data(config)
        self.config = train_config(config, data, settings.model)
        self.target = torch.device("cpu" if on_cpu() else "cuda")
        self.device = "cpu" if on_cpu() else torch.cuda.get_device_name()
        self.padding_share = 0.0
        self.num_proteins = data.proteins
        self.compiled = variant == "torch_compile"
        self.proteins = from_packed(data.batch, self.target)
        self.settings = timing_settings(self.config)
        self.calls: dict[str, Callable[[], Any]] = {}

    @abstractmethod
    def _forward(self) -> Callable[[], Any]:
        """Inference."""

    @abstractmethod
    def _train_step(self) -> Callable[[], Any]:
        """A training step."""

    def prepare(self, name: str) -> Prepared:
        """See `protocol.Worker`."""
        call = self._train_step() if name == "train_step" else self._forward()
        self.calls[name] = call
        start = time.perf_counter()
        self.run(name)
        first = time.perf_counter() - start
        if self.compiled:
            start = time.perf_counter()
            self.run(name)
            return Prepared(max(first - (time.perf_counter() - start), 0.0), None)
        with HostReads() as reads:
            call()
        return Prepared(None, reads.count)

    def run(self, name: str) -> None:
        """See `protocol.Worker`."""
        self.calls[name]()
        if not on_cpu():
            torch.cuda.synchronize()

    def peak_growth(self, name: str) -> int | None:
        """See `protocol.Worker`."""
        if on_cpu():
            return None
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        self.run(name)
        return torch.cuda.max_memory_allocated() - before


class PeerWorker(TorchWorker):
    """One way to run the peer."""

    def __init__(self, variant: str, settings: Settings):
        super().__init__(variant, settings)
        bookkeeping: Literal["loops", "vectorised"] = "loops" if variant == "torch_loops" else "vectorised"
        self.model = build_model(self.config.model, bookkeeping).to(self.target)

    def probe(self, weights: Path) -> dict[str, Any]:
        """See `protocol.Compared`."""
        with np.load(weights) as arrays:
            load_ours(self.model, dict(arrays))
        model = copy.deepcopy(self.model).eval()  # the codebook moves
        options: dict[str, Any] = {}
        if self.config.model.kind == "partoken":
            uniform = torch.from_numpy(noise(self.config.model, len(self.proteins.mask)))
            options = {"uniform": uniform.to(self.target), **self._training()}

        def objective():
            out = model(featurise(self.proteins), **options)
            return out, total_loss(out, self.proteins.label, self.settings.weights).total

        out, loss = torch.compile(objective)() if self.compiled else objective()
        loss.backward()
        torch.compiler.reset()  # what is timed compiles anew, so that its compile time is the whole of it
        found = {"loss": loss, "logits": out.logits, "clusters": torch.zeros(0, dtype=torch.int64)}
        if options:
            found["clusters"] = out.cluster_of_residue
        result = {name: value.detach().cpu().numpy() for name, value in found.items()}
        for key, parameter in model.named_parameters():
            path = our_path(key)
            if path is not None and parameter.grad is not None:
                gradient = parameter.grad.cpu().numpy()
                result[f"g.{path}"] = gradient.T if path.endswith("kernel") else gradient
        return result

    def inferred(self) -> np.ndarray:
        """See `protocol.Compared`."""
        return self.calls["forward"]().logits.cpu().numpy()

    def _training(self) -> dict[str, Any]:
        """Options of the model in a training step."""
        if self.config.model.kind == "gvp":
            return {}
        return {"temperature": float(self.settings.temperature), "update_codebook": True}

    def _forward(self) -> Callable[[], Any]:
        def infer():
            return self.model(featurise(self.proteins))

        infer = torch.compile(infer) if self.compiled else infer

        def call():
            self.model.eval()
            with torch.inference_mode():
                return infer()

        return call

    def _train_step(self) -> Callable[[], Any]:
        optimiser = make_optimiser(self.model, float(self.settings.learning_rate))
        options = self._training()

        def objective():
            out = self.model(featurise(self.proteins), **options)
            return total_loss(out, self.proteins.label, self.settings.weights).total

        objective = torch.compile(objective) if self.compiled else objective

        def call():
            self.model.train()
            optimiser.zero_grad(set_to_none=True)
            objective().backward()
            optimiser.step()

        return call
