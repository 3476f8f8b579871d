"""A user's own files: what is read lands where it belongs, and every mistake in them is one line."""

import gzip
import re
import tempfile
from inspect import signature
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonargparse import ArgumentParser

from tsgen.argument_types import ArgumentTypeError
from tsgen.data.graphs import from_coordinates, from_edges, nearest_neighbours, same_graph
from tsgen.data.masks import BlockMask, PointMask
from tsgen.data.series import GraphSeries
from tsgen.data.subgraphs import Subgraphs
from tsgen.datamodules.files import FilesDataModule
from tsgen.datamodules.windows import SeriesDataModule

GOOD = "time,node,pm\n0,a,1\n0,b,2\n1,a,3\n1,b,4\n2,a,5\n2,b,6\n"
EDGES = "source,target\na,b\n"
PLACES = "node,latitude,longitude\na,50,10\nb,51,11\n"


def write(folder: Path, name: str, content) -> str:
    """Writes text, bytes, a table (Parquet) or a dataset (netCDF) and returns the path."""
    path = folder / name
    if isinstance(content, str):
        path.write_text(content, encoding="utf-8", newline="")
    elif isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, pd.DataFrame):
        content.to_parquet(path)
    else:
        content.to_netcdf(path)
    return str(path)


def read(folder: Path, data=GOOD, edges=EDGES, name: str = "data.csv", **options) -> GraphSeries:
    """The series that files of this content give."""
    path = write(folder, name, data)
    if edges is not None:
        options["edges"] = write(folder, "edges.csv", edges)
    return FilesDataModule(path, **options).split.series


def same(a: GraphSeries, b: GraphSeries) -> None:
    """Fails unless two series are the same in all that they hold."""
    assert torch.equal(a.observed, b.observed)
    assert torch.equal(a.values.where(a.observed, -1), b.values.where(b.observed, -1))
    assert same_graph(a.graph, b.graph)
    assert a.time.dtype == b.time.dtype
    assert (a.time == b.time).all()
    assert (a.covariates is None) == (b.covariates is None)
    assert a.covariates is None or torch.equal(a.covariates, b.covariates)
    for labels in ("nodes", "channels", "units", "covariate_names"):
        assert list(getattr(a, labels)) == list(getattr(b, labels))


def long_table(
    steps: int = 6, nodes: tuple = ("n0", "n1", "n2"), start: str = "2024-03-30T22:00"
) -> pd.DataFrame:
    """A complete table whose numbers tell time, node and column."""
    t, v = (x.ravel() for x in np.meshgrid(np.arange(steps), np.arange(len(nodes)), indexing="ij"))
    return pd.DataFrame(
        {
            "time": (pd.Timestamp(start) + pd.to_timedelta(t, unit="h")).strftime("%Y-%m-%dT%H:%M"),
            "node": np.array(nodes, dtype=object)[v],
            "x": 100.0 * t + 10 * v,
            "y": 100.0 * t + 10 * v + 1,
        }
    )


def csv_of(table: pd.DataFrame, **options) -> str:
    return table.to_csv(index=False, **options)


CHAIN = "source,target,weight\nn0,n1,2\nn1,n2,0.5\n"


# ------------------------------------------------------------------------------------- what is read


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_values_land_at_their_time_node_and_channel(tmp_path, kind):
    table = long_table().sample(frac=1, random_state=3)
    series = read(tmp_path, csv_of(table) if kind == "csv" else table, CHAIN, f"data.{kind}")
    t, v, c = np.meshgrid(np.arange(6), np.arange(3), np.arange(2), indexing="ij")
    assert series.observed.all()
    np.testing.assert_array_equal(series.values.numpy(), 100 * t + 10 * v + c)
    assert (series.nodes, series.channels) == (["n0", "n1", "n2"], ["x", "y"])
    np.testing.assert_array_equal(
        series.time, pd.date_range("2024-03-30T22:00", periods=6, freq="h").to_numpy()
    )
    assert series.time.dtype == "datetime64[ns]"


cells = st.dictionaries(
    st.tuples(st.integers(0, 5), st.sampled_from("abc")),
    st.tuples(*[st.one_of(st.none(), st.integers(-99, 99))] * 2),
    min_size=1,
)


@settings(max_examples=60, deadline=None)
@given(cells=cells, shuffle=st.randoms(use_true_random=False))
def test_any_order_of_any_rows_gives_what_a_loop_over_them_gives(cells, shuffle):
    # two rows hold the grid's ends, and every node and channel has a value
    cells |= dict.fromkeys([(0, "a"), (1, "b"), (5, "c")], (1, 2))
    expected = torch.full((6, 3, 2), torch.nan)
    for (t, v), numbers in cells.items():
        for c, number in enumerate(numbers):
            expected[t, "abc".index(v), c] = torch.nan if number is None else number
    rows = [f"{t},{v}," + ",".join("" if n is None else str(n) for n in cells[t, v]) for t, v in cells]
    shuffle.shuffle(rows)
    with tempfile.TemporaryDirectory() as folder:
        series = read(Path(folder), "\n".join(["time,node,x,y", *rows]), EDGES)
    assert torch.equal(series.observed, expected.isfinite())
    assert torch.equal(series.values[series.observed], expected[expected.isfinite()])


@settings(max_examples=20, deadline=None)
@given(order=st.permutations(range(18)))
def test_shuffled_rows_change_nothing(order):
    with tempfile.TemporaryDirectory() as folder:
        straight = read(Path(folder), csv_of(long_table()), CHAIN)
        shuffled = read(Path(folder), csv_of(long_table().iloc[list(order)]), CHAIN)
    same(straight, shuffled)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_absent_rows_are_missing_values(tmp_path, kind):
    table = long_table()
    holes = [2, 3, 10, 16]
    blank = table.copy()
    blank.loc[holes, ["x", "y"]] = np.nan
    absent = table.drop(index=holes)
    as_kind = csv_of if kind == "csv" else (lambda table: table)
    a, b = (read(tmp_path, as_kind(one), CHAIN, f"data.{kind}") for one in (blank, absent))
    same(a, b)
    assert int((~a.observed).sum()) == 8


@pytest.mark.parametrize("word", ["", "NA", "NaN", "nan", "null", "None", "<NA>", " ", " NA "])
def test_words_for_no_value(tmp_path, word):
    series = read(tmp_path, GOOD.replace("1,a,3", f"1,a,{word}"))
    assert series.observed.flatten().tolist() == [True, True, False, True, True, True]


def test_times_that_are_missing_altogether_are_put_in(tmp_path):
    series = read(tmp_path, "time,node,pm\n10,a,1\n10,b,2\n12,a,3\n18,b,4\n")
    assert series.time.tolist() == [10, 12, 14, 16, 18]
    assert series.observed[..., 0].tolist() == [[1, 1], [1, 0], [0, 0], [0, 0], [0, 1]]
    assert series.values[series.observed].tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("text", "step"), [("2024-01-01", "1h"), ("2024-01-01", "h"), ("0", 1), ("0", "1"), ("0", "0001")]
)
def test_a_finer_step_than_the_smallest_difference(tmp_path, text, step):
    later = "2024-01-01T12" if "-" in text else "12"
    series = read(tmp_path, f"time,node,pm\n{text},a,1\n{later},b,2\n", step=step)
    assert series.values.shape[0] == 13
    assert int(series.observed.sum()) == 2


def test_a_single_time(tmp_path):
    assert read(tmp_path, "time,node,pm\n2024,a,1\n2024,b,1\n").time.tolist() == [2024]


@pytest.mark.parametrize(
    "times",
    [
        ["2024-03-31T00:00Z", "2024-03-31T01:00Z", "2024-03-31T02:00Z"],
        ["2024-03-31T01:00+01:00", "2024-03-31T03:00+02:00", "2024-03-31 04:00:00+0200"],
        ["2024-03-31", "2024-03-31 01:00", "2024-03-31T02:00:00.000"],
        ["2024-03-31T00", "2024-03-31T01", "20240331T02"],
    ],
)
def test_dates_are_read_as_iso_and_in_utc(tmp_path, times):
    series = read(tmp_path, "time,node,pm\n" + "".join(f"{t},a,1\n{t},b,1\n" for t in times))
    np.testing.assert_array_equal(series.time, pd.date_range("2024-03-31", periods=3, freq="h").to_numpy())


@pytest.mark.parametrize(
    "times",
    [
        pd.date_range("2024-03-31", periods=3, freq="D").tz_localize("UTC").tz_convert("Europe/Berlin"),
        pd.date_range("2024-03-31", periods=3, freq="D").as_unit("s"),
        pd.date_range("2024-03-31", periods=3, freq="D").date,
        pd.date_range("2024-03-31", periods=3, freq="D").strftime("%Y-%m-%d"),
        pd.Categorical(pd.date_range("2024-03-31", periods=3, freq="D")),
    ],
    ids=["zoned", "seconds", "date", "text", "categories"],
)
def test_dates_in_parquet(tmp_path, times):
    table = pd.DataFrame({"time": times, "node": ["a", "b", "a"], "pm": [1.0, 2, 3]})
    series = read(tmp_path, table, name="data.parquet")
    np.testing.assert_array_equal(
        series.time, pd.date_range("2024-03-31", periods=3).as_unit("ns").to_numpy()
    )


def test_nodes_are_text_in_every_file(tmp_path):
    data = "time,node,pm\n" + "".join(
        f"{t},{v},1\n" for t in (0, 1) for v in ("007", "7", "NA", '"Ö, x"', "1e3")
    )
    edges = 'source,target,weight\n007,7,2\n7,NA,3\nNA,"Ö, x",4\n1e3,007,5\n'
    series = read(tmp_path, data, edges)
    assert series.nodes == ["007", "1e3", "7", "NA", "Ö, x"]
    expected = from_edges([0, 2, 3, 1], [2, 3, 4, 0], [2, 3, 4, 5], num_nodes=5)
    assert same_graph(series.graph, expected)


def test_whole_numbers_name_nodes_in_parquet(tmp_path):
    table = pd.DataFrame({"time": [0, 0, 1], "node": [10, 9, 9], "pm": [1, 2, 3]})
    edges = write(tmp_path, "edges.parquet", pd.DataFrame({"source": [9], "target": [10]}))
    series = FilesDataModule(write(tmp_path, "data.parquet", table), edges=edges).split.series
    assert series.nodes == ["10", "9"]
    assert series.values[0, :, 0].tolist() == [1, 2]
    assert series.graph.edge_index.tolist() == [[1], [0]]


def test_categories_that_no_row_has_are_no_nodes(tmp_path):
    table = pd.DataFrame(
        {"time": [0, 0, 1], "node": pd.Categorical(["a", "b", "b"], ["z", "b", "a"]), "pm": 1.0}
    )
    assert read(tmp_path, table, name="data.parquet").nodes == ["a", "b"]


def test_an_unnamed_index_in_parquet_is_no_channel(tmp_path):
    table = long_table().query("x != 110")  # leaves an index with a hole, which pandas writes along
    assert read(tmp_path, table, CHAIN, "data.parquet").channels == ["x", "y"]


def test_numbers_of_any_kind_in_parquet(tmp_path):
    table = pd.DataFrame(
        {"time": [0, 1], "node": ["a", "b"], "i": [1, 2], "b": [True, False], "s": ["1.5", None]}
    )
    table["n"] = pd.array([3, None], dtype="Int64")
    series = read(tmp_path, table, name="data.parquet")
    assert series.values[0, 0].tolist() == [1, 1, 1.5, 3]
    assert series.observed[1, 1].tolist() == [True, True, False, False]


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "\ufeff" + text,
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("\n", "\n\n"),
        lambda text: text.replace(",", ", "),
        lambda text: text.rstrip("\n"),
        lambda text: "\n" + text,
        lambda text: re.sub(r"(\w+)", r'"\1"', text),
    ],
    ids=["mark", "crlf", "blank lines", "blanks", "no last newline", "blank first", "quoted"],
)
def test_dialects_of_csv(tmp_path, change):
    same(read(tmp_path, change(GOOD), change(EDGES)), read(tmp_path, GOOD, EDGES))


def test_line_breaks_in_quotes_of_a_file_of_several_megabytes(tmp_path):
    note = '"' + "x\n" * 500 + '"'
    text = "time,node,pm,note\n" + "".join(f"{t},a,{t},{note}\n" for t in range(5000))
    series = read(tmp_path, text, "source,target\na,a\n", value_columns=["pm"])
    assert torch.equal(series.values.flatten(), torch.arange(5000.0))


def test_columns_are_chosen_by_name(tmp_path):
    text = csv_of(long_table().rename(columns={"time": "when", "node": "where"}).assign(note="text"))
    names = {
        "time_column": "when",
        "node_column": "where",
        "value_columns": ["y"],
        "covariate_columns": ["x"],
    }
    series = read(tmp_path, text, CHAIN, **names, units=["µg/m³"])
    assert (series.channels, series.units, series.covariate_names) == (["y"], ["µg/m³"], ["x"])
    assert series.covariates[4, 2].tolist() == [420]
    assert series.values[4, 2].tolist() == [421]


def test_what_is_left_is_modelled(tmp_path):
    series = read(tmp_path, csv_of(long_table()), CHAIN, covariate_columns=["x"])
    assert (series.channels, series.covariate_names) == (["y"], ["x"])


WIDE = "time,n2,n0\n0,1.5,\n3,,2\n1,,\n"


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "parquet"])
def test_a_wide_table_is_the_long_one_of_a_single_quantity(tmp_path, kind):
    long = "time,node,pm\n0,n0,\n0,n2,1.5\n1,n0,\n1,n2,\n3,n0,2\n3,n2,\n"
    table = pd.DataFrame({"time": [0, 3, 1], "n2": [1.5, None, None], "n0": [None, 2, None]})
    wide = {"csv": WIDE, "csv.gz": gzip.compress(WIDE.encode()), "parquet": table}[kind]
    edges = "source,target\nn0,n2\n"
    same(
        read(tmp_path, wide, edges, f"pm.{kind}", layout="wide", units=["ppb"]),
        read(tmp_path, long, edges, units=["ppb"]),
    )


def test_a_wide_table_as_pandas_writes_it_and_a_choice_of_its_nodes(tmp_path):
    dates = pd.date_range("2024-01-01", periods=3)
    text = pd.DataFrame({"b": [1.0, 2, 3], "a": 4.0, "c": 5.0}, index=dates).to_csv()
    options = {"layout": "wide", "time_column": "", "value_columns": ["b", "a"]}
    series = read(tmp_path, text, **options)
    assert (series.nodes, series.channels) == (["a", "b"], ["data"])
    assert series.values[:, 1, 0].tolist() == [1, 2, 3] and (series.time == dates.to_numpy()).all()
    with pytest.raises(ValueError, match=re.escape(str(tmp_path / "data.csv"))) as error:
        read(tmp_path, text.replace("2024-01-02", "2024-01-01"), **options)
    one_line(error, "line 3", "column ''", "duplicate row for '2024-01-01', which line 2 has too")
    with pytest.raises(ValueError, match="'x' is not a number") as error:
        read(tmp_path, text.replace("3.0", "x"), **options)
    one_line(error, "line 4", "column 'b'")


def test_tables_packed_by_gzip(tmp_path):
    packed = {name: gzip.compress(text.encode()) for name, text in (("d", GOOD), ("e", EDGES), ("p", PLACES))}
    data, edges, places = (write(tmp_path, f"{name}.csv.GZ", packed[name]) for name in "dep")
    same(FilesDataModule(data, edges=edges).split.series, read(tmp_path, GOOD, EDGES))
    assert FilesDataModule(data, coordinates=places).split.series.graph.pos[1].tolist() == [11, 51]


@pytest.mark.parametrize("cut", [5, 40, -20, -4])
def test_packed_tables_that_are_damaged(tmp_path, cut):
    text = "time,node,pm\n" + "".join(f"{t},{v},{7 * t % 100}\n" for t in range(20_000) for v in "ab")
    for content, line in (
        (gzip.compress(text.encode())[:cut], ""),
        (text.encode(), ""),
        (gzip.compress(text.replace(",b,", ",\xe4,").encode("latin1")), "line 3: '0,\ufffd,0' is not UTF-8"),
        (gzip.compress((text + "5,b\n").encode()), "line 40002: it has 2 fields, the header has 3"),
        (
            gzip.compress(text.replace("0,a,0", "0,a,x", 1).encode()),
            "line 2, column 'pm': 'x' is not a",
        ),
    ):
        with pytest.raises(ValueError, match=re.escape(str(tmp_path / "data.csv.gz"))) as error:
            read(tmp_path, content, name="data.csv.gz")
        one_line(error, line)


# ----------------------------------------------------------------------------------------- the graph


def test_edges_go_from_source_to_target(tmp_path):
    graph = read(tmp_path, csv_of(long_table()), CHAIN).graph
    assert graph.edge_index.tolist() == [[0, 1], [1, 2]]
    assert graph.edge_weight.tolist() == [2, 0.5]


@pytest.mark.parametrize(
    "header",
    [
        "source,target,weight",
        "From,To,Weights",
        " SRC , dst ,W",
        "id,from,to,edge_weight,length",
        ",source,target,Similarity",
        "source,target,weight,distance",
    ],
)
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_columns_of_edges_whatever_their_names(tmp_path, header, kind):
    names = header.split(",")
    cells = {"source": ["n0", "n1"], "target": ["n1", "n2"], "weight": [2.0, 0.5]}
    known = {"from": "source", "src": "source", "to": "target", "dst": "target"}
    columns = []
    for name in names:
        plain = name.strip().lower()
        plain = known.get(plain, plain)
        weighty = plain in ("weights", "w", "edge_weight", "similarity", "weight")
        columns.append(cells["weight" if weighty else plain] if weighty or plain in cells else [7.0, 8.0])
    table = pd.DataFrame(dict(zip(names, columns, strict=True)))
    path = tmp_path / f"edges.{kind}"
    table.to_csv(path, index=False) if kind == "csv" else table.to_parquet(path)
    data = write(tmp_path, "data.csv", csv_of(long_table()))
    graph = FilesDataModule(data, edges=path).split.series.graph
    assert graph.edge_index.tolist() == [[0, 1], [1, 2]]
    assert graph.edge_weight.tolist() == [2, 0.5]


def test_a_table_of_distances(tmp_path, caplog):
    """A longer edge has a smaller weight, in any unit; the longest are dropped, with a warning."""
    rows = "from,to,cost\nn0,n1,{}\nn1,n2,{}\nn2,n0,{}\nn0,n0,0\n"
    edges = rows.format(1, 2, 3)
    weight = np.exp(-(np.array([1.0, 4, 9]) / 3.5))
    for text in (edges, rows.format(1000, 2000, 3000)):
        graph = read(tmp_path, csv_of(long_table()), text, threshold=0.0).graph
        assert graph.edge_index.tolist() == [[0, 1, 2], [1, 2, 0]]
        np.testing.assert_allclose(graph.edge_weight, weight, rtol=1e-6)
    graph = read(tmp_path, csv_of(long_table()), edges).graph
    assert graph.edge_index.tolist() == [[0, 1], [1, 2]]
    assert "2 of 4 edges are dropped: 1 of a distance" in caplog.text
    both = read(tmp_path, csv_of(long_table()), edges, threshold=0.0, undirected=True).graph
    assert both.num_edges == 6


def test_the_kernel_of_many_coordinates_needs_a_scale(tmp_path, monkeypatch):
    monkeypatch.setattr("tsgen.data.graphs.MAX_NODES_FOR_SCALE", 1)
    places = write(tmp_path, "places.csv", PLACES)
    with pytest.raises(ValueError, match="must be given for more than 1 nodes") as error:
        read(tmp_path, edges=None, coordinates=places)
    one_line(error, places, "kernel_scale_km", "neighbours")


def test_undirected_edges(tmp_path):
    edges = CHAIN + "n1,n0,2\n"  # listed both ways, and agrees
    graph = read(tmp_path, csv_of(long_table()), edges, undirected=True).graph
    assert same_graph(graph, from_edges([0, 1, 1, 2], [1, 0, 2, 1], [2, 2, 0.5, 0.5], num_nodes=3))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"kernel_scale_km": 200.0}, lambda lat, lon: from_coordinates(lat, lon, 200.0)),
        ({"threshold": 1e-4}, lambda lat, lon: from_coordinates(lat, lon, None, 1e-4)),
        ({"neighbours": 1}, lambda lat, lon: nearest_neighbours(lat, lon, 1)),
    ],
)
def test_coordinates(tmp_path, options, expected):
    places = write(
        tmp_path, "places.csv", "node,longitude,latitude,name\nn2,13,52,x\nn0,10,50,y\nn1,11,51,z\n"
    )
    series = read(tmp_path, csv_of(long_table()), None, coordinates=places, **options)
    graph = expected(np.array([50.0, 51, 52]), np.array([10.0, 11, 13]))
    assert graph.edge_index.shape[1] > 1
    assert same_graph(series.graph, graph)
    assert torch.equal(series.graph.pos, graph.pos)


def test_coordinates_name_their_nodes_as_the_data_does(tmp_path):
    for column in ("node", "station"):
        places = write(tmp_path, "places.csv", PLACES.replace("node", column))
        data = write(tmp_path, "data.csv", GOOD.replace("node", "station"))
        module = FilesDataModule(data, coordinates=places, node_column="station")
        assert module.split.series.graph.pos[1].tolist() == [11, 51]
    module = FilesDataModule(data, coordinates=write(tmp_path, "p.csv", PLACES.replace("node", "place")))
    module.columns.node = "station"
    with pytest.raises(ValueError, match="no column 'station'; its columns are 'place'"):
        _ = module.split


# -------------------------------------------------------------------------------------------- splits


def test_splits_and_what_is_held_out(tmp_path):
    path, edges = write(tmp_path, "data.csv", csv_of(long_table(200))), write(tmp_path, "edges.csv", CHAIN)
    split = FilesDataModule(path, edges=edges, val=0.2, test=0.3, seed=5).split
    assert (split.train, split.val, split.test) == ([slice(0, 100)], [slice(100, 140)], [slice(140, 200)])
    assert not split.held_out[:100].any()
    assert not (split.held_out & ~split.series.observed).any()
    share = split.held_out[100:].double().mean()
    assert abs(share - 0.25) < 5 * (0.25 * 0.75 / 600) ** 0.5
    again, other = (FilesDataModule(path, edges=edges, val=0.2, test=0.3, seed=s).split for s in (5, 6))
    assert torch.equal(again.held_out, split.held_out)
    assert not torch.equal(other.held_out, split.held_out)
    block = FilesDataModule(path, edges=edges, held_out=BlockMask(0.05, 12, 12)).split.held_out
    assert 0 < block[140:].double().mean() < 1


def test_batches_of_every_stage(tmp_path):
    path, edges = write(tmp_path, "data.csv", csv_of(long_table(120))), write(tmp_path, "edges.csv", CHAIN)
    module = FilesDataModule(path, edges=edges, window=8, batch_size=4, thinning=PointMask(0.5))
    assert module.spec.nodes == ["n0", "n1", "n2"]
    for loader in (module.train_dataloader, module.val_dataloader, module.test_dataloader):
        batch = next(iter(loader()))
        assert batch.values.shape[1:] == (8, 3, 2)
        assert batch.target.any()
        assert (batch.target & ~batch.context).any()
    scored = sum(int(batch.target.sum()) for batch in module.test_dataloader())
    assert scored == int(module.split.held_out[module.split.test[0]].sum())


def test_all_that_data_modules_share_is_passed_on():
    shared = {
        "window": 5,
        "stride": 2,
        "batch_size": 3,
        "thinning": PointMask(0.5),
        "seed": 7,
        "num_workers": 1,
    }
    shared |= {"predict_on": "val", "horizon": 2, "test_on": "val", "overlap": 0}
    shared |= {"subgraphs": Subgraphs(clusters=4), "support": "counts", "transform": {"values": "sqrt"}}
    assert set(shared) == set(signature(SeriesDataModule).parameters)
    module = FilesDataModule("data.nc", **shared)
    assert {name: getattr(module, name) for name in shared} == shared


def test_the_command_line_shows_every_argument():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(FilesDataModule, "data")
    given = ["--data.path=x.csv", "--data.edges=e.csv", "--data.step=1h", "--data.window=12", "--data.seed=3"]
    given += [
        "--data.value_columns=[a, b]",
        "--data.held_out=tsgen.data.PointMask",
        "--data.held_out.rate=0.5",
    ]
    instantiate = getattr(parser, "instantiate", parser.instantiate_classes)  # the new name and the old
    module = instantiate(parser.parse_args(given)).data
    assert (module.path, module.step, module.window, module.seed) == ("x.csv", "1h", 12, 3)
    assert (module.columns.values, module.held_out) == (["a", "b"], PointMask(0.5))


# -------------------------------------------------------------------------------------------- netCDF


def graph_series(covariates: bool = True, dates: bool = True) -> GraphSeries:
    generator = torch.Generator().manual_seed(1)
    graph = from_edges([2, 0, 1], [0, 1, 2], [1.0, 2.0, 0.5], num_nodes=3)
    graph.pos = torch.rand(3, 2, generator=generator)
    return GraphSeries(
        values=torch.randn(7, 3, 2, generator=generator),
        observed=torch.rand(7, 3, 2, generator=generator) < 0.7,
        graph=graph,
        covariates=torch.randn(7, 3, 2, generator=generator) if covariates else None,
        time=pd.date_range("2024-01-01", periods=7, freq="3h").as_unit("ns").to_numpy()
        if dates
        else np.arange(7) * 3,
        nodes=["z", "007", "7"],  # not sorted: a file's own order stays
        channels=["pm25", "no2"],
        units=["µg/m³", "ppb"],
        covariate_names=["wind", "rain"] if covariates else (),
    )


@pytest.mark.parametrize("covariates", [True, False])
@pytest.mark.parametrize("dates", [True, False])
def test_round_trip_through_netcdf(tmp_path, covariates, dates):
    series = graph_series(covariates, dates)
    back = read(tmp_path, series.to_xarray(), None, "data.nc")
    same(series, back)
    assert torch.equal(series.graph.pos, back.graph.pos)


def test_netcdf_and_table_of_one_series_agree(tmp_path):
    data = graph_series().to_xarray()
    wide = data["values"].to_dataset("channel")[["pm25", "no2"]].to_dataframe()
    known = data["covariates"].to_dataset("covariate")[["wind", "rain"]].to_dataframe()
    table = wide.join(known).reset_index()
    edges = "source,target,weight\n7,z,1\nz,007,2\n007,7,0.5\n"
    a = read(
        tmp_path, table, edges, "data.parquet", covariate_columns=["wind", "rain"], units=["µg/m³", "ppb"]
    )
    b = read(tmp_path, data.sortby("node"), edges, "data.nc")
    same(a, b)


def test_missing_and_unsorted_steps_of_netcdf(tmp_path):
    series = graph_series(covariates=False)
    shuffled = series.to_xarray().isel(time=[5, 0, 6, 1, 3, 4])
    back = read(tmp_path, shuffled, None, "data.nc")
    series.observed[2] = False
    same(series, back)


def test_times_of_netcdf_that_are_floats_of_days(tmp_path):
    data = xr.Dataset({"values": (("time", "node"), np.ones((288, 1)))})
    data["time"] = ("time", 43829 + np.arange(288) / 288, {"units": "days since 1900-01-01"})
    time = read(tmp_path, data, "source,target\n0,0\n", "data.nc").time
    np.testing.assert_array_equal(time, pd.date_range("2020-01-01", periods=288, freq="5min").to_numpy())


def test_channels_and_covariates_of_netcdf_are_chosen_by_name(tmp_path):
    series = graph_series()
    options = {"value_columns": ["no2"], "covariate_columns": ["rain"]}
    back = read(tmp_path, series.to_xarray(), None, "data.nc", **options)
    assert (back.channels, back.units, back.covariate_names) == (["no2"], ["ppb"], ["rain"])
    assert torch.equal(back.observed, series.observed[..., 1:])
    assert torch.equal(back.values[back.observed], series.values[..., 1:][back.observed])
    assert torch.equal(back.covariates, series.covariates[..., 1:])


def users_dataset() -> xr.Dataset:
    return xr.Dataset(
        {
            "pm": (("station", "hour"), np.arange(8.0).reshape(2, 4), {"units": "µg/m³"}),
            "gas": (("hour", "station", "kind"), np.arange(24.0).reshape(4, 2, 3)),
            "height": ("station", [1.0, 2.0]),
            "light": ("hour", [0.0, 1.0, 1.0, 0.0]),
            "comment": ("hour", ["a", "b", "c", "d"]),
        },
        coords={"station": [7, 8], "hour": pd.date_range("2024-01-01", periods=4, freq="h")},
    )


def test_a_users_own_netcdf(tmp_path):
    options = {"time_column": "hour", "node_column": "station", "covariate_columns": ["height", "light"]}
    series = read(tmp_path, users_dataset(), "source,target\n7,8\n", "data.nc", **options)
    assert series.nodes == ["7", "8"]
    assert series.channels == ["pm", "gas_kind_0", "gas_kind_1", "gas_kind_2"]
    assert series.units == ["µg/m³", "", "", ""]
    assert series.values[2, 1].tolist() == [6, 15, 16, 17]
    assert series.covariates[2].tolist() == [[1, 1], [2, 1]]


def test_values_of_netcdf_count_where_observed_and_alone(tmp_path):
    values, observed = np.arange(8.0).reshape(4, 2), np.arange(8).reshape(4, 2) != 3
    plane = {
        name: (("time", "node"), x) for name, x in [("values", values), ("observed", observed), ("q", values)]
    }
    series = read(tmp_path, xr.Dataset(plane), "source,target\n0,1\n", "data.nc")
    assert series.channels == ["values"]
    assert torch.equal(series.observed[..., 0], torch.from_numpy(observed))


def test_a_netcdf_without_labels_counts(tmp_path):
    data = xr.Dataset({"values": (("time", "node"), np.ones((4, 2)))})
    series = read(tmp_path, data, "source,target\n0,1\n", "data.nc")
    assert (series.time.tolist(), series.nodes, series.channels) == ([0, 1, 2, 3], ["0", "1"], ["values"])


# ------------------------------------------------------------------------------------------ mistakes


def one_line(error: pytest.ExceptionInfo, *parts: str) -> None:
    message = str(error.value)
    assert type(error.value) in (ValueError, ArgumentTypeError)
    assert "\n" not in message
    assert "\r" not in message
    assert len(message) < 500
    for part in parts:
        assert part in message


def row(text: str) -> str:
    """GOOD with its line 4 replaced."""
    return GOOD.replace("1,a,3", text)


BROKEN_CSV = {
    "empty": ("", ["is empty"]),
    "blank": ("\n\n", ["is empty"]),
    "header only": ("time,node,pm\n", ["header but no rows"]),
    "header without newline": ("time,node,pm", ["header but no rows"]),
    "no time": (GOOD.replace("time", "Zeit"), ["no column 'time'", "'Zeit', 'node', 'pm'"]),
    "close match": (GOOD.replace("time", "Timee"), ["no column 'time'", "Did you mean 'Timee'?"]),
    "no node": (GOOD.replace("node", "station"), ["no column 'node'", "'time', 'station', 'pm'"]),
    "column twice": ("time,node,pm,pm\n0,a,1,2\n", ["2 columns 'pm'"]),
    "no values": ("time,node\n0,a\n", ["no value column besides 'time', 'node'"]),
    "nameless": (",time,node,pm\n0,0,a,1\n", ["column 1 has no name", "index=False"]),
    "semicolons": (GOOD.replace(",", ";"), ["separated by semicolons", "commas"]),
    "tabs": (GOOD.replace(",", "\t"), ["separated by tabs", "commas"]),
    "text": (row("1,a,three"), ["line 4", "column 'pm'", "'three' is not a number"]),
    "decimal comma": (row('1,a,"3,5"'), ["line 4", "column 'pm'", "'3,5' is not a number"]),
    "truth": (row("1,a,True"), ["line 4", "column 'pm'", "'True'"]),
    "long text": (row(f"1,a,{'long ' * 99}"), ["line 4", "column 'pm'", "...' is not a number"]),
    "text with newline": (row('1,a,"a\nb"'), ["line 5", "column 'pm'", r"'a\nb'"]),
    "text after blank lines": (row("\n\n1,a,three"), ["line 6", "column 'pm'", "'three'"]),
    "text after newline in quotes": (
        'time,node,pm,note\n0,a,1,"x\ny"\n0,b,z,\n',
        ["line 4", "column 'pm'", "'z' is not a number"],
    ),
    "infinite": (row("1,a,inf"), ["line 4", "column 'pm'", "'inf' is infinite"]),
    "overflow": (row("1,a,1e39"), ["line 4", "column 'pm'", "'1e39' is infinite or beyond"]),
    "bad time": (row("soon,a,3"), ["line 4", "column 'time'", "'soon' is not a time", "2024-01-31T13:00"]),
    "numbers and dates": (row("2024-01-01,a,3"), ["line 2", "column 'time'", "'0'", "all as numbers"]),
    "german date": (
        "time,node,pm\n2024-01-01,a,1\n31.01.2024,b,2\n",
        ["line 3", "column 'time'", "'31.01.2024' is not a time"],
    ),
    "american date": ("time,node,pm\n1/31/2024,a,1\n", ["line 2", "column 'time'", "'1/31/2024'"]),
    "impossible date": ("time,node,pm\n2023-02-29,a,1\n", ["line 2", "'2023-02-29' is not a time"]),
    "irregular fractions": (
        "time,node,pm\n0,a,1\n0.5,b,1\n0.8,a,1\n1.3,a,1\n1.8,a,1\n",
        ["line 4", "column 'time'", "irregular time: 0.8"],
    ),
    "date or number": (
        "time,node,pm\n20240131,a,1\n20240201,b,1\n",
        ["line 2", "'20240131'", "date or a number"],
    ),
    "some zones": (
        "time,node,pm\n2024-01-01T00:00Z,a,1\n2024-01-01T01:00,b,1\n",
        ["line 3", "column 'time'", "has no time zone"],
    ),
    "empty time": (row(",a,3"), ["line 4", "column 'time'", "the entry is missing"]),
    "empty node": (row("1, ,3"), ["line 4", "column 'node'", "the entry is missing"]),
    "only commas": (GOOD + ",,\n", ["line 8", "column 'node'", "the entry is missing"]),
    "duplicate": (GOOD + "1,a,7\n", ["line 8", "'time' and 'node'", "duplicate", "'1' and 'a'", "line 4"]),
    "equal duplicate": (row("1,a,3\n1,a,3"), ["line 5", "duplicate", "line 4"]),
    "same time in other words": (
        "time,node,pm\n2024-01-01,a,1\n2024-01-01T00:00,a,2\n2024-01-02,b,1\n",
        ["line 3", "duplicate", "line 2"],
    ),
    "same node with blanks": (row("0, a,3"), ["line 4", "duplicate", "line 2"]),
    "irregular": (
        "time,node,pm\n0,a,1\n4,b,2\n7,a,3\n12,a,3\n",
        ["line 3", "column 'time'", "irregular", "steps of 3"],
    ),
    "irregular dates": (
        "time,node,pm\n2024-01-01,a,1\n2024-01-03,b,1\n2024-01-06,b,1\n",
        ["line 4", "irregular", "2024-01-06 00:00:00", "2 days"],
    ),
    "months": (
        "time,node,pm\n" + "".join(f"2024-{m:02}-01,{v},1\n" for m in range(1, 13) for v in "ab"),
        ["column 'time'", "irregular"],
    ),
    "jitter": (
        "time,node,pm\n" + "".join(f"2024-01-01T{h:02}:00:{h == 7:02},a,1\n" for h in range(24)),
        ["line 9", "column 'time'", "irregular", "01:00:00 (the most frequent"],
    ),
    "jitter in one row": (
        "time,node,pm\n" + "".join(f"{3600 * h + (h == 50)},a,1\n" for h in range(99)),
        ["line 52", "column 'time'", "180001 does not follow", "steps of 3600"],
    ),
    "far away": (
        "time,node,pm\n0,a,1\n1,a,1\n1000,b,1\n",
        ["line 4", "column 'time'", "1000 is 999 steps of 1 "],
    ),
    "all missing": (re.sub(r",\d\n", ",\n", GOOD), ["column 'pm'", "all values are missing"]),
    "a channel all missing": ("time,node,x,y\n0,a,1,\n0,b,1,NA\n", ["column 'y'", "all values are missing"]),
    "latin-1": (row("1,Zürich,3").encode("latin-1"), ["line 4", "is not UTF-8", "1,Z�rich,3"]),
    "latin-1 header": (GOOD.replace("pm", "µ").encode("latin-1"), ["line 1", "is not UTF-8"]),
    "utf-16": (GOOD.encode("utf-16"), ["line 1", "is not UTF-8"]),
    "long line": (row("1,a,3,4"), ["line 4", "4 fields, the header has 3"]),
    "short line": (row("1,a"), ["line 4", "2 fields, the header has 3"]),
    "cut off": (GOOD + "3", ["line 8", "1 fields, the header has 3"]),
    "open quote": (row('1,"a,3'), ["line 4", "quotation mark"]),
    "very long open quote": (row('1,"a,3') + "1,a,1\n" * 99999, ["line 4", "quotation mark"]),
    "garbage": (bytes(range(256)), ["is not UTF-8"]),
    "zeros": (bytes(2000), ["data.csv"]),
}


@pytest.mark.parametrize("name", BROKEN_CSV)
def test_broken_csv(tmp_path, name):
    content, parts = BROKEN_CSV[name]
    with pytest.raises(ValueError, match=re.escape(str(tmp_path / "data.csv"))) as error:
        read(tmp_path, content)
    one_line(error, *parts)


def table(**columns) -> pd.DataFrame:
    return pd.DataFrame({"time": [0, 0, 1], "node": ["a", "b", "a"], "pm": [1.0, 2, 3]} | columns)


def parquet_bytes() -> bytes:
    return table(node=["node-a", "node-b", "node-a"]).to_parquet(compression=None)


BROKEN_PARQUET = {
    "no parquet": (GOOD, ["not a well-formed .parquet file"]),
    "cut off": (b"PAR1" + bytes(50), ["not a well-formed .parquet file"]),
    "latin-1": (
        parquet_bytes().replace(b"node-a", b"n\xf6de-a"),
        ["not a well-formed .parquet file", "UTF8"],
    ),
    "no rows": (table().iloc[:0], ["header but no rows"]),
    "no column": (table().rename(columns={"node": "nodes"}), ["no column 'node'", "Did you mean 'nodes'?"]),
    "text": (table(pm=["1", "x", "3"]), ["row 1 (counted from 0)", "column 'pm'", "'x' is not a number"]),
    "dates for numbers": (table(pm=pd.date_range("2024", periods=3)), ["column 'pm'", "must hold numbers"]),
    "lists for numbers": (table(pm=[[1], [2], [3]]), ["column 'pm'", "must hold numbers"]),
    "infinite": (table(pm=[1, 2, -np.inf]), ["row 2 (counted from 0)", "column 'pm'", "'-inf' is infinite"]),
    "no time": (
        table(time=[0, None, 1]).astype({"time": "Int64"}),
        ["row 1 (counted", "column 'time'", "the entry is missing"],
    ),
    "no date": (table(time=pd.to_datetime(["2024", None, "2025"])), ["row 1 (counted", "column 'time'"]),
    "no times at all": (table(time=None), ["row 0 (counted", "column 'time'", "the entry is missing"]),
    "durations for times": (table(time=pd.to_timedelta([0, 1, 2], "h")), ["column 'time'", "durations"]),
    "no node": (
        table(node=["a", None, "b"]),
        ["row 1 (counted", "column 'node'", "the entry is missing"],
    ),
    "fractions for nodes": (table(node=[1.0, 2.0, 1.0]), ["column 'node'", "text or integers"]),
    "duplicate": (table(node="a"), ["row 1 (counted from 0)", "duplicate", "row 0 (counted from 0)"]),
    "irregular": (table(time=[0, 5, 12]), ["row 2 (counted from 0)", "column 'time'", "irregular"]),
    "all missing": (table(pm=None), ["column 'pm'", "all values are missing"]),
}


@pytest.mark.parametrize("name", BROKEN_PARQUET)
def test_broken_parquet(tmp_path, name):
    content, parts = BROKEN_PARQUET[name]
    with pytest.raises(ValueError, match=re.escape(str(tmp_path / "data.parquet"))) as error:
        read(tmp_path, content, name="data.parquet")
    one_line(error, *parts)


BROKEN_EDGES = {
    "empty": ("", ["is empty"]),
    "header only": ("source,target\n", ["header but no rows"]),
    "no column": ("start,target\na,b\n", ["no column 'source'", "'start', 'target'", "not a matrix"]),
    "matrix": (",a,b\na,0,1\nb,1,0\n", ["no column 'source'", "not a matrix"]),
    "two sources": ("source,from,target\na,a,b\n", ["columns 'source', 'from' for one end"]),
    "unknown weight": ("source,target,flow\na,b,3\n", ["'flow'", "must be a weight (weight,", "distance ("]),
    "two weights": ("source,target,w,Weight\na,b,3,3\n", ["'w' and 'Weight' both do", "Keep one"]),
    "weights of another name": ("source,target,Weights\na,b,0\n", ["line 2", "column 'Weights'", "positive"]),
    "negative distance": (
        "source,target,cost\na,b,-1\n",
        ["line 2", "column 'cost'", "must not be negative"],
    ),
    "unknown source": (
        "source,target\na,b\nc,b\n",
        ["line 3", "column 'source'", "no node 'c'; it has 'a', 'b'"],
    ),
    "unknown target": ("source,target\na,B\n", ["line 2", "column 'target'", "no node 'B'", "mean 'b'?"]),
    "unknown nodes": ("source,target\na,b\nc,b\nd,b\n", ["line 3", "no node 'c' (1 more like it)"]),
    "empty node": ("source,target\na,\n", ["line 2", "column 'target'", "the entry is missing"]),
    "weight zero": ("source,target,weight\na,b,0\n", ["line 2", "column 'weight'", "positive", "'0'"]),
    "weight negative": ("source,target,weight\na,b,1\nb,a,-2\n", ["line 3", "column 'weight'", "'-2'"]),
    "weight tiny": ("source,target,weight\na,b,1e-99\n", ["line 2", "column 'weight'", "'1e-99'"]),
    "weight missing": (
        "source,target,weight\na,b,1\nb,a,\n",
        ["line 3", "column 'weight'", "value is missing"],
    ),
    "weight infinite": ("source,target,weight\na,b,inf\n", ["line 2", "column 'weight'", "infinite"]),
    "weight text": ("source,target,weight\na,b,strong\n", ["line 2", "column 'weight'", "'strong'"]),
    "twice": ("source,target\na,b\nb,a\na,b\n", ["line 4", "'source' and 'target'", "'a' to 'b'", "twice"]),
}


@pytest.mark.parametrize("name", BROKEN_EDGES)
def test_broken_edges(tmp_path, name):
    content, parts = BROKEN_EDGES[name]
    with pytest.raises(ValueError, match=re.escape(str(tmp_path / "edges.csv"))) as error:
        read(tmp_path, edges=content)
    one_line(error, *parts)


def test_undirected_edges_that_disagree(tmp_path):
    edges = "source,target,weight\na,b,1\nb,a,2\n"
    assert read(tmp_path, edges=edges).graph.edge_weight.tolist() == [1, 2]
    with pytest.raises(ValueError, match="undirected") as error:
        read(tmp_path, edges=edges, undirected=True)
    one_line(error, "line 3", "'b' to 'a'", "different weights")


BROKEN_PLACES = {
    "unknown node": (PLACES + "c,52,12\n", ["line 4", "column 'node'", "no node 'c'"]),
    "node left out": (PLACES.replace("b,51,11\n", ""), ["column 'node'", "'b'", "not listed"]),
    "node twice": (PLACES + "a,52,12\n", ["line 4", "column 'node'", "'a' is listed twice"]),
    "no column": (PLACES.replace("latitude", "lattitude"), ["no column 'latitude'", "mean 'lattitude'?"]),
    "empty": (PLACES.replace("51", ""), ["line 3", "column 'latitude'", "the value is missing"]),
    "text": (PLACES.replace("11", "11°E"), ["line 3", "column 'longitude'", "'11°E' is not a number"]),
    "out of range": (PLACES.replace("51", "151"), ["line 3", "column 'latitude'", "'151'", "-90..90"]),
    "far east": (PLACES.replace("11", "361"), ["line 3", "column 'longitude'", "'361'", "-180..360"]),
    "one place": ("node,latitude,longitude\na,50,10\nb,50,10\n", ["the same position", "kernel_scale_km"]),
}


@pytest.mark.parametrize("name", BROKEN_PLACES)
def test_broken_coordinates(tmp_path, name):
    content, parts = BROKEN_PLACES[name]
    places = write(tmp_path, "places.csv", content)
    with pytest.raises(ValueError, match=re.escape(places)) as error:
        read(tmp_path, edges=None, coordinates=places)
    one_line(error, *parts)


def dataset(**variables) -> xr.Dataset:
    data = graph_series().to_xarray().drop_vars(["covariates", "covariate"])
    return data.assign(variables) if variables else data


def with_value(number: float) -> xr.Dataset:
    data = dataset()
    data["values"][4, 1, 0], data["observed"][4, 1, 0] = number, True
    return data


BROKEN_NETCDF = {
    "no netcdf": (GOOD, ["cannot be read as netCDF"]),
    "cut off": (b"\x89HDF\r\n\x1a\n" + bytes(100), ["cannot be read as netCDF"]),
    "no variables": (
        xr.Dataset(attrs={"a": 1}),
        ["no numeric variable with dimensions 'time' and 'node'", "none"],
    ),
    "no values": (
        dataset().drop_vars(["values", "observed"]),
        ["no numeric variable", "position (node, axis)"],
    ),
    "other dimensions": (
        dataset().rename(node="station"),
        ["no numeric variable", "(time, station, channel)"],
    ),
    "text": (
        dataset().drop_vars("values").assign(v=(("time", "node"), [["x"] * 3] * 7)),
        ["no numeric variable"],
    ),
    "no steps": (dataset().isel(time=slice(0)), ["no steps"]),
    "infinite": (with_value(np.inf), ["step 4", "node 1", "variable 'pm25'", "infinite"]),
    "time twice": (dataset().isel(time=[0, 1, 2, 2]), ["step 3 (counted", "dimension 'time'", "duplicate"]),
    "irregular": (
        dataset().assign_coords(time=[0, 2, 4, 5.3, 6, 8, 10]),
        ["step 3", "dimension 'time'", "irregular"],
    ),
    "irregular numbers": (
        dataset().assign_coords(time=[0, 2, 4, 7, 10, 12, 14]),
        ["step 3", "dimension 'time'", "irregular", "steps of 2"],
    ),
    "no time": (
        dataset().assign_coords(time=pd.to_datetime(["2024-01-01", None] + ["2024-01-02"] * 5)),
        ["step 1 (counted", "dimension 'time'", "the time is missing"],
    ),
    "node twice": (dataset().assign_coords(node=["a", "b", "a"]), ["dimension 'node'", "'a' occurs twice"]),
    "fractions for nodes": (dataset().assign_coords(node=[0.5, 1, 2]), ["dimension 'node'", "float64"]),
    "edge out of range": (dataset(edge_target=("edge", [0, 1, 3])), ["edge_index must lie in 0..2"]),
    "weight zero": (dataset(edge_weight=("edge", [0.0, 1, 1])), ["edge_weight must be positive"]),
    "no edges": (dataset().drop_vars("edge_source"), ["contains no graph", "give edges"]),
    "all missing": (with_value(1.0).where(False), ["column 'pm25'", "all values are missing"]),
    "hole in covariates": (
        graph_series().to_xarray().isel(time=[0, 1, 2, 4]),
        ["column 'wind'", "2024-01-01 09:00:00", "node 'z'", "covariate must be known"],
    ),
}


@pytest.mark.parametrize("name", BROKEN_NETCDF)
def test_broken_netcdf(tmp_path, name):
    content, parts = BROKEN_NETCDF[name]
    with pytest.raises(ValueError, match=re.escape(str(tmp_path / "data.nc"))) as error:
        read(tmp_path, content, None, "data.nc")
    one_line(error, *parts)


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"value_columns": ["pm25x"]}, ["no channel 'pm25x'", "'pm25', 'no2'", "mean 'pm25'?"]),
        ({"covariate_columns": ["snow"]}, ["no covariate 'snow'", "'wind', 'rain'"]),
    ],
)
def test_names_that_a_netcdf_does_not_have(tmp_path, options, parts):
    with pytest.raises(ValueError, match="has no") as error:
        read(tmp_path, graph_series().to_xarray(), None, "data.nc", **options)
    one_line(error, *parts)


def test_a_calendar_that_is_not_the_standard_one(tmp_path):
    data = xr.Dataset({"values": (("time", "node"), np.ones((3, 1)))}, coords={"time": [0, 1, 2]})
    data["time"].attrs = {"units": "days since 2000-02-28", "calendar": "360_day"}
    with pytest.raises(ValueError, match="standard calendar") as error:
        read(tmp_path, data, None, "data.nc")
    one_line(error, "dimension 'time'", "data.nc")


BROKEN_COVARIATES = {
    "empty": (
        "time,node,x,c\n0,a,1,2\n0,b,1,\n",
        ["line 3", "column 'c'", "value is missing", "covariate"],
    ),
    "row absent": (
        "time,node,x,c\n0,a,1,2\n0,b,1,2\n1,b,1,2\n",
        ["column 'c'", "time 1 and node 'a'", "covariate"],
    ),
    "step absent": (
        "time,node,x,c\n" + "".join(f"{t},{v},1,2\n" for t in (0, 1, 3) for v in "ab"),
        ["column 'c'", "time 2 and node 'a'", "covariate"],
    ),
    "infinite": ("time,node,x,c\n0,a,1,2\n0,b,1,-inf\n", ["line 3", "column 'c'", "'-inf' is infinite"]),
    "not there": ("time,node,x\n0,a,1\n", ["no column 'c'"]),
}


@pytest.mark.parametrize("name", BROKEN_COVARIATES)
def test_broken_covariates(tmp_path, name):
    content, parts = BROKEN_COVARIATES[name]
    with pytest.raises(ValueError, match=re.escape(str(tmp_path / "data.csv"))) as error:
        read(tmp_path, content, covariate_columns=["c"])
    one_line(error, *parts)


BROKEN_OPTIONS = {
    "no file": ({"path": "{}/dada.csv"}, ["dada.csv does not exist", "Did you mean 'data.csv'?"]),
    "no folder": ({"path": "{}/nowhere/data.csv"}, ["nor does the folder", "nowhere"]),
    "a folder": ({"path": "{}"}, ["is a folder"]),
    "a file as a folder": ({"path": "{}/data.csv/x.csv"}, ["nor does the folder"]),
    "suffix": ({"path": "{}/data.xlsx"}, ["must end in .csv or .csv.gz or .parquet or .nc"]),
    "packed": ({"path": "{}/data.nc.gz"}, ["must end in .csv or .csv.gz or .parquet or .nc", "unpack"]),
    "no edges": ({"edges": "{}/edgse.csv"}, ["edgse.csv does not exist", "Did you mean 'edges.csv'?"]),
    "edges suffix": ({"edges": "{}/edges.nc"}, ["edges.nc must end in .csv or .csv.gz or .parquet"]),
    "no coordinates": ({"edges": None, "coordinates": "{}/x.csv"}, ["x.csv does not exist"]),
    "no graph": ({"edges": None}, ["needs a graph", "edges", "coordinates"]),
    "two graphs": ({"coordinates": "{}/places.csv"}, ["edges and coordinates", "one of them"]),
    "undirected": (
        {"edges": None, "coordinates": "{}/places.csv", "undirected": True},
        ["undirected needs"],
    ),
    "kernel with edges": ({"kernel_scale_km": 3.0}, ["kernel_scale_km needs coordinates"]),
    "neighbours with edges": ({"neighbours": 3}, ["neighbours needs coordinates"]),
    "kernel of 0": (
        {"edges": None, "coordinates": "{}/places.csv", "kernel_scale_km": 0.0},
        ["must be positive"],
    ),
    "neighbours of 0": (
        {"edges": None, "coordinates": "{}/places.csv", "neighbours": 0},
        ["must be positive"],
    ),
    "neighbours of 2": (
        {"edges": None, "coordinates": "{}/places.csv", "neighbours": 2},
        ["neighbours must be less"],
    ),
    "kernel and neighbours": (
        {"edges": None, "coordinates": "{}/places.csv", "neighbours": 1, "kernel_scale_km": 1.0},
        ["give only one of them"],
    ),
    "layout": ({"layout": "broad"}, ["layout must be 'long' or 'wide'; it is 'broad'"]),
    "wide netCDF": ({"layout": "wide", "path": "{}/data.nc"}, ["layout is an option for tables", "data.nc"]),
    "wide with covariates": (
        {"layout": "wide", "covariate_columns": ["pm"]},
        ["covariate_columns need the long layout"],
    ),
    "values": ({"value_columns": ["PM"]}, ["no column 'PM'", "Did you mean 'pm'?"]),
    "no values": ({"value_columns": []}, ["value_columns must name at least one"]),
    "column twice": ({"value_columns": ["pm"], "covariate_columns": ["pm"]}, ["'pm' is named 2 times"]),
    "time as value": ({"value_columns": ["time"]}, ["'time' is named 2 times"]),
    "units": ({"units": ["m", "s"]}, ["units must have one entry per value column", "1 ('pm')", "got 2"]),
    "step of dates": ({"step": "1h"}, ["step must be a positive integer", "'1h'"]),
    "step of 0": ({"step": 0}, ["step must be a positive integer", "0"]),
    "coarse step": ({"step": 2}, ["line 4", "column 'time'", "irregular"]),
    "shares": ({"val": 0.5, "test": 0.5}, ["val and test"]),
}


@pytest.mark.parametrize("name", BROKEN_OPTIONS)
def test_broken_options(tmp_path, name, as_a_user):
    options, parts = BROKEN_OPTIONS[name]
    given = {
        "path": write(tmp_path, "data.csv", GOOD),
        "edges": write(tmp_path, "edges.csv", EDGES),
    } | options
    write(tmp_path, "places.csv", PLACES)
    given = {key: value.format(tmp_path) if isinstance(value, str) else value for key, value in given.items()}
    with pytest.raises(ValueError, match=r"\w") as error:
        _ = FilesDataModule(**given).split
    one_line(error, *parts)


@pytest.mark.parametrize("step", ["3", "0h", "-1h", "1M", "MS", "often", ""])
def test_steps_that_are_no_length_of_time(tmp_path, step):
    with pytest.raises(ValueError, match="step must be a duration such as 1h") as error:
        read(tmp_path, csv_of(long_table()), CHAIN, step=step)
    one_line(error, repr(step))


def test_a_step_that_makes_a_series_too_large(tmp_path):
    with pytest.raises(ValueError, match="too large for memory") as error:
        read(tmp_path, csv_of(long_table()), CHAIN, step="10us")
    one_line(error, "data.csv", "line 17", "column 'time'", "1800000001 steps", "each of 6 numbers")


def test_a_node_never_observed_while_training_is_named(tmp_path, caplog):
    text = csv_of(long_table(10)).replace(",n1,", ",n1,,#")  # n1 has rows and no value
    text = re.sub(r",#.*", ",", text)
    module = FilesDataModule(write(tmp_path, "data.csv", text), edges=write(tmp_path, "edges.csv", CHAIN))
    assert not module.split.series.observed[:, 1].any()
    assert module.spec.nodes == ["n0", "n1", "n2"] and module.spec.loc.isfinite().all()
    assert "no value in the training split: 2 (n1 (x), n1 (y))" in caplog.text


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    def refuse(*_args, **_options):
        raise PermissionError(13, "Permission denied")

    path, edges = write(tmp_path, "data.csv", GOOD), write(tmp_path, "edges.csv", EDGES)
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ValueError, match=r"data.csv cannot be read: Permission denied") as error:
        _ = FilesDataModule(path, edges=edges).split
    one_line(error)
