"""aucurriculum's prediction depth with one forward pass for all probes, and pdepth's engine.

In the configuration of a scoring function:

    _target_: pdepth.compat.aucurriculum_scoring.PredictionDepth

where aucurriculum's has `aucurriculum.curricula.scoring.PredictionDepth`. All else stays: its other
settings, the files that are written, their names and what is in them.

aucurriculum reads the data and runs the network once for every probe. Here one pass takes all
probes, or as many as fit into half of the free memory; so much of them is held until their turn
comes. Data that change from one reading to the next (random transforms, its own toy data) are read
as often, and in the same order, as there: the scores are the same. Of votes, see `ParallelKNN`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pdepth.arrays.memory import Budget
from pdepth.compat.aucurriculum import ParallelKNN
from pdepth.optional import require_tested

HERE = "pdepth.compat.aucurriculum_scoring"
require_tested("aucurriculum.curricula.scoring", HERE, "aucurriculum", "0.1", "0.2")

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
        self._placements, self._taken = names, dict[str, torch.Tensor]()
        return names

    def _extract_embeddings(
        self, model: GraphModule, loader: Any, index: int, placement: str
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One probe's embeddings (N, D) float32, which are given once, and the labels (N,)."""
        if placement not in self._taken:
            self._targets = self._pass(model, loader, self._placements[index:])
        return self._taken.pop(placement), self._targets

    def _pass(self, model: GraphModule, loader: Any, names: list[str]) -> torch.Tensor:
        """Take the first of these probes, and with it all that may be; the labels (N,)."""
        model.eval()
        model.to(self.device)
        sample = next(iter(loader))[0].to(self.device)
        pools: dict[str, torch.nn.Module] = {}
        widths: dict[str, int] = {}

        def note(name: str, value: torch.Tensor) -> None:
            pools[name] = self._get_pooling_layer(value.shape)
            widths[name] = pools[name](value).flatten(1).shape[-1]

        def take(name: str, value: torch.Tensor) -> None:
            self._taken[name][rows] = pools[name](value).flatten(1).cpu()

        count, step = len(loader.dataset), len(sample)
        targets = torch.zeros(count, dtype=torch.long)
        self.forward_timer.start()
        with torch.no_grad():
            self._run(model, names, sample, note)
            names = _fitting(names, widths, count)
            progress = tqdm(loader, disable=self.disable_progress_bar, desc="Forward")
            for number, (inputs, labels, _) in enumerate(progress):
                inputs = inputs.to(self.device)
                if number == 0:
                    if not torch.equal(inputs, sample):
                        names = names[:1]  # the data change: each probe has a pass of its own
                    model = self._prune_graph_until_node(
                        model, names[-1], self.first_node, self.last_node
                    )
                    for name in names:
                        self._taken[name] = torch.zeros(count, widths[name])
                rows = slice(number * step, min((number + 1) * step, count))
                self._run(model, names, inputs, take)
                targets[rows] = labels
        self.forward_timer.stop()
        return targets

    def _run(
        self,
        model: torch.nn.Module,
        names: list[str],
        inputs: torch.Tensor,
        take: Callable[[str, torch.Tensor], None],
    ) -> None:
        if isinstance(model, GraphModule):
            _Tapped(model, names, take).run(inputs)
        else:  # all that is pruned away leaves an identity
            take(self.first_node, inputs)

    def _predict_knn_probe(self) -> torch.Tensor:
        knn = ParallelKNN(self.knn_n_neighbors, self.knn_batch_size, self.device)
        self.knn_timer.start()
        knn.fit(self.x, self.y)
        votes: torch.Tensor = knn.predict(self.x)
        self.knn_timer.stop()
        return votes


class _Tapped(Interpreter):
    """Runs a network, and hands on the values of some nodes before a later one can change them."""

    def __init__(
        self, model: GraphModule, names: list[str], take: Callable[[str, torch.Tensor], None]
    ) -> None:
        super().__init__(model)
        self._names, self._take = frozenset(names), take

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        if n.name in self._names:
            self._take(n.name, value)
        return value


def _fitting(names: list[str], widths: dict[str, int], count: int) -> list[str]:
    """The first of the probes, and those behind it whose rows fit into memory together with it."""
    free = Budget.of(None).size
    held = 0
    for number, name in enumerate(names):
        held += torch.float32.itemsize * count * widths[name]
        if number and free is not None and held > SHARE * free:
            return names[:number]
    return names
