"""Series from simulators and files, cut into windows for training, evaluation and imputation."""

from datamodules.air_quality import AirQualityDataModule
from datamodules.base import SeriesDataModule, Split
from datamodules.files import FilesDataModule
from datamodules.red_wine import RedWineDataModule
from datamodules.synthetic import SyntheticDataModule
from datamodules.traffic import TrafficDataModule

__all__ = [
    "AirQualityDataModule",
    "FilesDataModule",
    "RedWineDataModule",
    "SeriesDataModule",
    "Split",
    "SyntheticDataModule",
    "TrafficDataModule",
]
