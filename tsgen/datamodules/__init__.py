"""Lightning data modules: windows of a series for every stage, from your own files or from simulators."""

from tsgen.datamodules.files import FilesDataModule
from tsgen.datamodules.simulated import SimulatedDataModule
from tsgen.datamodules.synthetic import SyntheticDataModule
from tsgen.datamodules.windows import SeriesDataModule, Split

__all__ = ["FilesDataModule", "SeriesDataModule", "SimulatedDataModule", "Split", "SyntheticDataModule"]
