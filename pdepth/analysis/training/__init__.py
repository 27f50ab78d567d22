"""Training: which examples a network learned when, and forgot, and when its probes settled.

    recorder = Recorder(test_set, support=train_set, depth_every=5)
    for step, batch in enumerate(loader):
        ...
        if step % 100 == 0:
            recorder.record(model, step)
    training = recorder.training()
    learned(training).step, forgetting(training).count, over_training(training).accuracy

`from_checkpoints` does the same for saved weights, `Training.from_predictions` for predictions that
exist already, and `pdepth.analysis.lightning` has a callback for Lightning.

Sources: Baldock, Maennel, Neyshabur, arXiv 2106.09647 (iteration learned, probes over training);
Toneva et al., "An Empirical Study of Example Forgetting", arXiv 1812.05159 (forgetting events).
"""

from pdepth.analysis.training.learning import Forgetting, Learned, forgetting, learned
from pdepth.analysis.training.probes import OverTraining, over_training
from pdepth.analysis.training.record import Training
from pdepth.analysis.training.recorder import Recorder, from_checkpoints

__all__ = [
    "Forgetting",
    "Learned",
    "OverTraining",
    "Recorder",
    "Training",
    "forgetting",
    "from_checkpoints",
    "learned",
    "over_training",
]
