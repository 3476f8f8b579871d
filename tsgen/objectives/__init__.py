"""Objectives: what training makes small.

Every one is a number in nats an entry: sums over all processes divided by counts over all processes.
"""

from tsgen.objectives.base import Objective
from tsgen.objectives.maximum_likelihood import MaskedNLL
from tsgen.objectives.particle_bound import ParticleBound
from tsgen.objectives.rollout import Rollout
from tsgen.objectives.scheduled_sampling import ScheduledSampling

__all__ = [
    "MaskedNLL",
    "Objective",
    "ParticleBound",
    "Rollout",
    "ScheduledSampling",
]
