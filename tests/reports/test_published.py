"""The published numbers are those of the paper, and every one says where it was printed."""

import pytest
from pydantic import ValidationError

from reports.published import Published, load_published


@pytest.mark.parametrize(
    ("table", "row", "metric", "value"),
    [
        ("attention_run_time", "8192", "fwd", 0.7),
        ("attention_run_time", "131072", "bwd", 9.6),
        ("repository_claim", "v1.1", "bwd", 19.7),
        ("image_to_3d", "Hi3DGen", "OpenShape", 0.1689),
        ("attention_ablation", "SSA", "Normal-FID", 69.31),
        ("resolution_ablation", "256", "Normal-FID", 132.97),
        ("branch_ablation", "win+cmp", "Normal-FID", 77.68),
        ("conditioning_ablation", "without", "Normal-FID", 71.49),
        ("user_study", "bar 1", "mean score", 4.21),
        ("vae_reconstruction", "Direct3D-S2 (1024)", "F1 (0.001)", 70.19),
        ("training", "1024³", "mean latent tokens", 45904),
    ],
)
def test_a_number_is_what_the_paper_prints(table: str, row: str, metric: str, value: float) -> None:
    assert load_published().table(table).value(row, metric) == value


def test_every_table_cites_a_known_work_and_place() -> None:
    published = load_published()
    for table in published.tables:
        assert table.source
        assert all(source.work in published.works and source.where for source in table.source)


def test_a_table_without_a_source_is_refused() -> None:
    document = load_published().model_dump()
    document["tables"][0]["source"] = []
    with pytest.raises(ValidationError, match="source"):
        Published.model_validate(document)


def test_a_table_that_cites_an_unknown_work_is_refused() -> None:
    document = load_published().model_dump()
    document["tables"][0]["source"][0]["work"] = "hearsay"
    with pytest.raises(ValidationError, match="hearsay"):
        Published.model_validate(document)


def test_a_row_with_a_missing_value_is_refused() -> None:
    document = load_published().model_dump()
    document["tables"][0]["rows"][0]["values"].pop()
    with pytest.raises(ValidationError, match="needs 2 values, got 1"):
        Published.model_validate(document)


def test_distances_count_down_and_similarities_up() -> None:
    published = load_published()
    better = {metric.name: metric.better for table in published.tables for metric in table.metrics}
    assert better["CD"] == better["Normal-FID"] == "lower"
    assert better["F1 (0.005)"] == better["ULIP-2"] == better["fwd"] == "higher"


def test_speedups_exist_for_forward_and_backward_only() -> None:
    published = load_published()
    assert list(published.speedups("fwd")) == list(published.speedups("bwd")) == [8192, 16384, 32768, 65536, 131072]
    assert published.speedups("fwd_bwd") == {}


def test_an_unknown_row_is_an_error() -> None:
    with pytest.raises(KeyError, match="row '12'"):
        load_published().table("attention_run_time").value("12", "fwd")
