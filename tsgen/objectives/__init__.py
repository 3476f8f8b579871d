"""Objectives: losses that training minimises.

Every loss is in nats per entry: a sum over all processes divided by a count over all processes.
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
