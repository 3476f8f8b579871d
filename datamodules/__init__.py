"""Data modules of published data sets, together with those of tsgen."""

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
