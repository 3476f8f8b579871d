"""Published data sets as data modules, beside those that tsgen brings."""

from datamodules.air_quality import AirQualityDataModule
from datamodules.red_wine import RedWineDataModule
from datamodules.traffic import TrafficDataModule
from tsgen.datamodules import FilesDataModule, SeriesDataModule, Split, SyntheticDataModule

__all__ = [
    "AirQualityDataModule",
    "FilesDataModule",
    "RedWineDataModule",
    "SeriesDataModule",
    "Split",
    "SyntheticDataModule",
    "TrafficDataModule",
]
