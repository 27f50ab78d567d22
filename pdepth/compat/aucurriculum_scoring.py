"""aucurriculum's prediction depth with one forward pass for all probes, and pdepth's votes.

In the configuration of a scoring function:

    _target_: pdepth.compat.aucurriculum_scoring.PredictionDepth

where aucurriculum's has `aucurriculum.curricula.scoring.PredictionDepth`. All else stays: its other
settings, the files that are written, their names and what is in them.

aucurriculum reads the data and runs the network once for every probe. Here one reading captures all
probes, or as many as fit into half of the free memory; their embeddings are held until their turn
comes. Data that change from one reading to the next (random transforms, its own toy data) are read
as often, and in the same order, as there: the scores are the same. Votes are those of
`pdepth.compat.aucurriculum.ParallelKNN`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pdepth.arrays.memory import Budget
from pdepth.compat.shared.parallel_knn import ParallelKNN
from pdepth.optional import require_tested

NAME = "pdepth.compat.aucurriculum_scoring"
require_tested("aucurriculum.curricula.scoring", NAME, "aucurriculum", "0.1", "0.2")

import torch
from aucurriculum.curricula.scoring import prediction_depth as original
from torch.fx import GraphModule, Interpreter, Node
from tqdm import tqdm

__all__ = ["PredictionDepth"]

SHARE = 0.5  # of the free memory; the search takes some, too


class PredictionDepth(original.PredictionDepth):
    """aucurriculum's PredictionDepth, with its parameters and files."""

    def _create_probe_placements(self, model: GraphModule, run_name: str) -> list[str]:
        names: list[str] = super()._create_probe_placements(model, run_name)
        self._placements, self._captured = names, dict[str, torch.Tensor]()
        return names

    def _extract_embeddings(
        self, model: GraphModule, loader: Any, index: int, placement: str
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a probe's embeddings (N, D) float32, once, and the labels (N,)."""
        if placement not in self._captured:
            self._labels = self._capture(model, loader, self._placements[index:])
        return self._captured.pop(placement), self._labels

    def _capture(self, model: GraphModule, loader: Any, names: list[str]) -> torch.Tensor:
        """Capture the first of these probes, and the next that fit; return the labels (N,)."""
        model.eval()
        model.to(self.device)
        sample = next(iter(loader))[0].to(self.device)
        pools: dict[str, torch.nn.Module] = {}
        widths: dict[str, int] = {}

        def measure(name: str, value: torch.Tensor) -> None:
            pools[name] = self._get_pooling_layer(value.shape)
            widths[name] = pools[name](value).flatten(1).shape[-1]

        def store(name: str, value: torch.Tensor) -> None:
            self._captured[name][rows] = pools[name](value).flatten(1).cpu()

        count, step = len(loader.dataset), len(sample)
        all_labels = torch.zeros(count, dtype=torch.long, device="cpu")
        self.forward_timer.start()
        with torch.no_grad():
            self._run(model, names, sample, measure)
            names = _fitting(names, widths, count)
            progress = tqdm(loader, disable=self.disable_progress_bar, desc="Forward")
            for number, (inputs, labels, _) in enumerate(progress):
                inputs = inputs.to(self.device)
                if number == 0:
                    if not torch.equal(inputs, sample):
                        names = names[:1]  # the data change: each probe has a reading of its own
                    model = self._prune_graph_until_node(
                        model, names[-1], self.first_node, self.last_node
                    )
                    for name in names:
                        self._captured[name] = torch.zeros(count, widths[name], device="cpu")
                rows = slice(number * step, min((number + 1) * step, count))
                self._run(model, names, inputs, store)
                all_labels[rows] = labels
        self.forward_timer.stop()
        return all_labels

    def _run(
        self,
        model: torch.nn.Module,
        names: list[str],
        inputs: torch.Tensor,
        consume: Callable[[str, torch.Tensor], None],
    ) -> None:
        if isinstance(model, GraphModule):
            _ProbeInterpreter(model, names, consume).run(inputs)
        else:  # all that is pruned away leaves an identity
            consume(self.first_node, inputs)

    def _predict_knn_probe(self) -> torch.Tensor:
        knn = ParallelKNN(self.knn_n_neighbors, self.knn_batch_size, self.device)
        self.knn_timer.start()
        knn.fit(self.x, self.y)
        votes: torch.Tensor = knn.predict(self.x)
        self.knn_timer.stop()
        return votes


class _ProbeInterpreter(Interpreter):
    """Runs a network, and passes the values of some nodes on before a later one can change them."""

    def __init__(
        self, model: GraphModule, names: list[str], consume: Callable[[str, torch.Tensor], None]
    ) -> None:
        super().__init__(model)
        self._probe_names, self._consume = frozenset(names), consume

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        if n.name in self._probe_names:
            self._consume(n.name, value)
        return value


def _fitting(names: list[str], widths: dict[str, int], count: int) -> list[str]:
    """Return the first of the probes, and the next whose embeddings fit into memory with it."""
    free = Budget.of(None).size
    size = 0
    for number, name in enumerate(names):
        size += torch.float32.itemsize * count * widths[name]
        if number and free is not None and size > SHARE * free:
            return names[:number]
    return names
