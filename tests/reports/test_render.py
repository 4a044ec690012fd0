"""The report: everything in it comes from the records, nothing in the records is hidden, and it stands alone."""

import json
import re
from html import unescape
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from records_factory import (
    BRANCH_SHARE,
    CPU,
    GPU,
    SHAPE,
    correctness,
    cpu_sweep,
    gpu_sweep,
    law,
    missing,
    timed,
    workload,
)

from bench.records import Record
from reports import formatting
from reports.render import render


def words(index: Path) -> str:
    """The words of a page, without markup, styles and figures."""
    html = without_code(index.read_text(encoding="utf-8"))
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", html)))


def without_code(html: str) -> str:
    """Without styles, scripts and what only browsers without scripts show."""
    return re.sub(r"<(style|script|noscript)\b.*?</\1>", "", html, flags=re.DOTALL)


def figures(index: Path) -> dict[str, Any]:
    """The charts of a page by id, as plotly takes them."""
    found = re.search(r'<script type="application/json" id="figures">(.*?)</script>', index.read_text(), re.DOTALL)
    assert found
    charts: dict[str, Any] = json.loads(found[1])
    return charts


def page_text(records: list[Record], folder: Path) -> str:
    return words(render(records, folder / "report"))


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of one run on a GPU."""
    return render(gpu_sweep(), tmp_path_factory.mktemp("gpu") / "report").parent


def test_a_report_has_all_its_files(report: Path) -> None:
    assert {entry.name for entry in report.iterdir()} == {"index.html", "report.md", "results.csv", "tables", "figures"}
    kinds = ("time", "speedup", "memory")
    figures = {f"1-gyroid-bfloat16-{kind}-{direction}.png" for kind in kinds for direction in ("fwd", "bwd", "fwd_bwd")}
    kinds = ("branches", "roofline")
    figures |= {f"1-gyroid-bfloat16-{kind}-{direction}.png" for kind in kinds for direction in ("fwd", "bwd")}
    assert {entry.name for entry in (report / "figures").iterdir()} == figures
    assert all(entry.read_bytes().startswith(b"\x89PNG") for entry in (report / "figures").iterdir())


def test_times_in_every_form_are_those_of_the_records(report: Path) -> None:
    html, markdown = (report / "index.html").read_text(), (report / "report.md").read_text()
    for direction in ("fwd", "bwd", "fwd_bwd"):
        latex = (report / "tables" / f"1-gyroid-bfloat16-time-{direction}.tex").read_text()
        for provider in ("ssa-triton", "dense-sdpa-flash"):
            time = formatting.significant(law(provider, 131072, direction))
            assert f">{time}<" in html
            assert f"| {time} " in markdown
            assert f" {time} " in latex


def test_the_header_states_speedup_device_and_proof(report: Path) -> None:
    text = words(report / "index.html")
    over_flash = formatting.ratio(law("dense-sdpa-flash", 131072, "fwd") / law("ssa-triton", 131072, "fwd"))
    over_cudnn = formatting.ratio(law("dense-sdpa-cudnn", 131072, "fwd") / law("ssa-triton", 131072, "fwd"))
    assert (
        f"At 131,072 tokens SSA Triton runs forward at {over_flash} the speed of FlashAttention-2 and {over_cudnn} "
        f"that of cuDNN attention, the fastest dense provider; backward at {over_flash} and {over_cudnn}; "
    ) in text
    assert f"forward over FlashAttention-2, 128K tokens; {over_cudnn} over cuDNN attention, the fastest dense" in text
    assert "NVIDIA H200, driver 570.86.15, PyTorch 2.9.1, Triton 3.5.1, commit 0123456789." in text
    assert "largest error is 0.40 of its budget (SSA Triton: dq). Oracle: fp64 reference on 2,048 tokens." in text


def test_captured_and_random_inputs_have_chapters_of_their_own(tmp_path: Path) -> None:
    inputs = workload(8192, inputs="captured:abc123")
    records = [timed("ssa-triton", 8192, "fwd", 11.5), timed("ssa-triton", 8192, "fwd", 13.5, workload=inputs)]
    text = page_text(records, tmp_path)
    assert "windows 8³ shifted by 4. Inputs are standard normal." in text
    assert "on the workload “gyroid, captured”, 8,192 tokens" in text
    assert "Inputs were captured in a trained model (file abc123)" in text
    frame = pd.read_csv(tmp_path / "report" / "results.csv")
    assert frame["inputs"].tolist() == ["random", "captured:abc123"]
    names = {path.name for path in (tmp_path / "report" / "tables").iterdir()}
    assert {"1-gyroid-bfloat16-time-fwd.tex", "2-gyroid-captured-bfloat16-time-fwd.tex"} <= names


def test_several_studies_begin_with_an_overview(report: Path, tmp_path: Path) -> None:
    eight = SHAPE.model_copy(update={"compression_block": 8})
    records = [
        *(timed("ssa-triton", 16384, "fwd", 2.0, shape=shape) for shape in (SHAPE, eight)),
        *(timed("dense-sdpa-flash", tokens, "fwd", 9.0) for tokens in (8192, 16384)),
        timed("dense-flash-attn-4", 16384, "fwd", 5.0),
        timed("ssa-triton", 32768, "fwd", 7.0),  # where no other provider has a time
        timed("ssa-triton", 8192, "fwd", 11.0, workload=workload(8192, name="sphere", seed=3)),
    ]
    index = render(records, tmp_path / "report")
    markdown = (index.parent / "report.md").read_text(encoding="utf-8")
    overview = markdown[markdown.index("## Overview") : markdown.index("## gyroid")]
    for side in (4, 8):
        particulars = f"compression blocks {side}³, bfloat16, NVIDIA H200"
        numbers = "16K | 2.00 | 4.50× (FlashAttention-2) | 2.50× (FlashAttention-4)"
        assert f"| gyroid, 32 × 32 heads ({particulars}) | {numbers} |" in overview
        assert f"\n## gyroid, 32 × 32 heads, {particulars}\n" in markdown
    assert (
        "| sphere, 32 × 32 heads (compression blocks 4³, bfloat16, seed 3, NVIDIA H200) | 8K | 11.0 | – | – |"
        in overview
    )
    assert "Overview" in words(index)
    assert "Overview" not in words(report / "index.html")  # of one study


def test_losses_are_stated_with_their_size(report: Path) -> None:
    text = words(report / "index.html")
    small, middle = (
        formatting.ratio(law("dense-sdpa-cudnn", n, "fwd") / law("ssa-triton", n, "fwd")) for n in (8192, 16384)
    )
    assert (
        "SSA Triton is slower than the fastest dense provider, cuDNN attention: "
        f"forward at 8K tokens ({small}) and 16K tokens ({middle}); backward at"
    ) in text


def test_the_least_speedup_stands_among_the_headlines(tmp_path: Path) -> None:
    records = [timed("ssa-triton", n, "fwd", 1.0) for n in (8192, 16384)]
    records += [timed("dense-sdpa-flash", 8192, "fwd", 0.9), timed("dense-sdpa-flash", 16384, "fwd", 4.0)]
    records.append(timed("dense-flash-attn-4", 8192, "fwd", 0.5))
    text = page_text(records, tmp_path)
    assert "the least over the fastest dense provider: forward over FlashAttention-4, 8K tokens 0.50×" in text


def test_the_fastest_dense_provider_is_named_in_every_cell(tmp_path: Path) -> None:
    records = [timed("ssa-triton", n, "fwd", 1.0) for n in (8192, 16384)]
    records += [timed("dense-sdpa-flash", 8192, "fwd", 3.0), timed("dense-sdpa-flash", 16384, "fwd", 12.0)]
    records += [timed("dense-flash-attn-4", 8192, "fwd", 0.5), timed("dense-flash-attn-4", 16384, "fwd", 13.0)]
    text = page_text(records, tmp_path)
    assert "8K 0.50× FlashAttention-4 16K 12.0× FlashAttention-2" in text


def test_other_functions_are_compared_and_called_so(report: Path) -> None:
    over_nsa = formatting.ratio(law("nsa-triton", 131072, "fwd") / law("ssa-triton", 131072, "fwd"))
    text = words(report / "index.html")
    assert f"Speedup of SSA Triton over NSA Triton at 128K tokens forward {over_nsa}, backward {over_nsa}" in text
    assert "These compute other functions than SSA" in text


def test_memory_beside_the_baseline_is_stated(tmp_path: Path) -> None:
    records = [
        timed("ssa-triton", 8192, "fwd", 1.0, peak_memory_bytes=204 * 2**20),
        timed("dense-sdpa-flash", 8192, "fwd", 3.0, peak_memory_bytes=17 * 2**20),
    ]
    text = page_text(records, tmp_path)
    assert "At 8,192 tokens SSA Triton takes above its inputs: forward 204 MiB, 12.0× that of FlashAttention-2." in text


def test_the_page_says_what_forward_includes(report: Path) -> None:
    text = words(report / "index.html")
    assert "In the time. Forward (fwd) runs from q, k, v, the compressed k and v and the gates to the output" in text


def test_an_oracle_is_named_once_however_many_token_counts_it_judged(tmp_path: Path) -> None:
    judged = {8192: 256, 16384: 256, 32768: 128}
    records = [
        timed(
            "ssa-triton",
            n,
            "fwd",
            1.0,
            correctness=correctness().model_copy(update={"oracle": f"fp64 attention, {rows} sampled of {n:,} tokens"}),
        )
        for n, rows in judged.items()
    ]
    text = page_text(records, tmp_path)
    assert "Oracle: fp64 attention. " in text
    assert "passed fp64 attention, 256 sampled of 8,192 tokens to 128 sampled of 32,768 tokens" in text
    assert "16,384 tokens" not in text


def test_a_far_slower_implementation_stays_out_of_the_charts_and_in_the_tables(tmp_path: Path) -> None:
    records = [
        record
        for n in (8192, 16384)
        for record in (
            timed("ssa-triton", n, "fwd", 1.0),
            timed("ssa-eager", n, "fwd", 83.8),
            timed("dense-sdpa-flash", n, "fwd", 40.0),
        )
    ]
    index = render(records, tmp_path / "report")
    lines = {trace.get("name") for trace in figures(index)["1-gyroid-bfloat16-time-fwd"]["data"]}
    assert "SSA eager" not in lines
    assert "FlashAttention-2" in lines  # a rival is never left out
    assert "Not drawn, taking over ten times as long as SSA Triton everywhere: SSA eager (see tables)." in words(index)
    assert "SSA eager ssa-eager 83.8" in words(index)


def test_no_loss_is_claimed_where_there_is_none(tmp_path: Path) -> None:
    records = [timed("ssa-triton", 8192, "fwd", 1.0), timed("dense-sdpa-flash", 8192, "fwd", 3.0)]
    assert "None: SSA Triton is at least as fast as every dense provider" in page_text(records, tmp_path)


def test_token_counts_without_a_dense_time_are_named(tmp_path: Path) -> None:
    records = [timed("ssa-triton", n, "fwd", 1.0) for n in (8192, 16384)]
    records.append(timed("dense-sdpa-flash", 8192, "fwd", 3.0))
    assert "No dense provider has a time for forward at 16K tokens." in page_text(records, tmp_path)


def test_everything_without_a_time_is_listed_with_its_reason(tmp_path: Path) -> None:
    records = [
        *gpu_sweep(),
        missing("dense-flex", 8192, "bwd", "error", "flex <kernel> & backward broke"),
        missing(
            "nsa-eager", 8192, "fwd", "failed_check", "dk is 3.1 times its budget", correctness=correctness(1.0, 0.3)
        ),
    ]
    text = page_text(records, tmp_path)
    assert "flash-attn-4 needs compute capability 10.0, this device has 9.0" in text
    assert "fwd, bwd, fwd_bwd 32K, 64K, 128K out of memory needs 128 GiB for the score matrix" in text
    assert "flex <kernel> & backward broke" in text
    assert "failed check dk is 3.1 times its budget" in text
    assert "Failed the check, and so not timed: nsa-eager." in text


def test_published_and_measured_stand_side_by_side(report: Path) -> None:
    text = words(report / "index.html")
    fwd, bwd = (
        formatting.ratio(law("dense-sdpa-flash", 131072, pass_) / law("ssa-triton", 131072, pass_))
        for pass_ in ("fwd", "bwd")
    )
    assert f"128K 3.9× {fwd} 9.6× {bwd}" in text
    assert "not stated repository, v1.1 12.2× – 19.7× –" in text


def test_a_token_count_near_a_published_one_is_put_beside_it(tmp_path: Path) -> None:
    records = [timed("ssa-triton", 8117, "fwd", 1.0), timed("dense-sdpa-flash", 8117, "fwd", 3.0)]
    assert "8K here 8,117 0.7× 3.00× 1.4× –" in page_text(records, tmp_path)


def test_without_flash_attention_2_nothing_is_called_comparable(tmp_path: Path) -> None:
    text = page_text(cpu_sweep(), tmp_path)
    assert (
        "Not comparable: FlashAttention-2 has no time here. The measured columns show SSA eager over dense math" in text
    )
    assert "the baseline is dense math (dense-sdpa-math), the fastest dense provider" in text
    assert "FlashAttention-2 needs a CUDA device" in text
    assert "with uncommitted changes" in text


def test_a_cpu_report_has_no_memory_section(tmp_path: Path) -> None:
    index = render(cpu_sweep(), tmp_path / "report")
    assert "Peak memory" not in index.read_text()
    assert not list((index.parent / "figures").glob("*memory*"))


def test_branches_show_their_times_and_rates(report: Path) -> None:
    text = words(report / "index.html")
    time = BRANCH_SHARE["slc"] * law("ssa-triton", 131072, "bwd")
    rate = 1e6 * 131072 / (time / 1e3) / 1e12
    assert re.search(
        rf"slc backward, SSA Triton [\d. ]+ {formatting.significant(time)} {formatting.significant(rate)}", text
    )
    assert "select backward" not in text


def test_scaling_exponents_are_printed(report: Path) -> None:
    text = words(report / "index.html")
    assert "SSA Triton ssa-triton 0.90 5 points 0.90 5 points 0.90 5 points 8K to 128K" in text


def test_a_single_token_count_is_enough(tmp_path: Path) -> None:
    text = page_text(gpu_sweep(tokens=(8192,)), tmp_path)
    assert "8,192 tokens; 32 heads" in text
    assert "Scaling" not in text


def test_only_failures_still_make_a_report(tmp_path: Path) -> None:
    text = page_text([missing("ssa-triton", 8192, "fwd", "error", "the kernel did not compile")], tmp_path)
    assert "No SSA implementation has a time" in text
    assert "Nothing passed a check" in text
    assert "the kernel did not compile" in text


def test_several_studies_share_a_page(tmp_path: Path) -> None:
    records = [
        *gpu_sweep(),
        *cpu_sweep(),
        timed("ssa-triton", 8192, "fwd", 1.0, workload=workload(8192, name="sphere")),
    ]
    index = render(records, tmp_path / "report")
    html = index.read_text()
    for number in (1, 2, 3):
        assert f'href="#study-{number}"' in html
        assert f'id="study-{number}"' in html
    assert "Differences between environments" in words(index)
    assert len(list((index.parent / "tables").glob("*-time-fwd.tex"))) == 3
    identifiers = re.findall(r'\bid="([^"]+)"', without_code(html))
    assert len(identifiers) == len(set(identifiers))
    assert set(figures(index)) <= set(identifiers)


def test_the_page_refers_to_nothing_outside_itself(report: Path) -> None:
    html = (report / "index.html").read_text()
    assert html.count("<script") == 3  # data, plotly once, the page's own
    assert not re.search(r"<script[^>]*\bsrc=", html)
    html = without_code(html)
    assert not re.search(r"<(link|img|iframe|object|embed)\b|@import|\bsrc=|\bon\w+=|url\(", html)
    without_links = re.sub(r'<a href="https://[^"]+">', "", html)
    assert "http" not in without_links


def test_without_scripts_the_images_beside_the_page_are_shown(report: Path) -> None:
    html = (report / "index.html").read_text()
    images = re.findall(r'<noscript><img src="([^"]+)"', html)
    assert sorted(images) == sorted(f"figures/{path.name}" for path in (report / "figures").iterdir())


def test_text_from_records_cannot_become_markup(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    records = [missing("ssa-triton", 8192, "fwd", "error", evil)]
    records += [timed("dense-sdpa-flash", n, "fwd", 1.0, implementation=evil) for n in (8192, 16384)]
    index = render(records, tmp_path / "report")
    assert "<script>alert" not in index.read_text()
    (hover, _) = figures(index)["1-gyroid-bfloat16-time-fwd"]["data"][1]["hovertext"]
    assert "ran: &lt;script&gt;alert(1)&lt;/script&gt;" in hover


def test_csv_has_a_row_for_every_record(report: Path) -> None:
    records = gpu_sweep()
    frame = pd.read_csv(report / "results.csv")
    assert len(frame) == len(records)
    assert frame["p50_ms"].tolist() == pytest.approx(
        [r.summary.p50 if r.summary else float("nan") for r in records], nan_ok=True
    )
    assert frame["reason"].dropna().tolist() == [record.reason for record in records if record.reason]
    assert set(frame["tokens"]) == {8192, 16384, 32768, 65536, 131072}
    assert "samples_ms" not in frame.columns


def test_latex_tables_escape_what_records_say(tmp_path: Path) -> None:
    records = [timed("ssa-triton", 8192, "fwd", 1.0), missing("my_provider", 8192, "fwd", "error", "100% of a_b & c")]
    folder = render(records, tmp_path / "report").parent / "tables"
    latex = (folder / "1-gyroid-bfloat16-unmeasured.tex").read_text()
    assert r"my\_provider & fwd & 8K & error & 100\% of a\_b \& c \\" in latex


def test_the_title_can_be_chosen(tmp_path: Path) -> None:
    index = render(cpu_sweep((512,)), tmp_path / "report", title="Nightly <7>")
    assert "<h1>Nightly &lt;7&gt;</h1>" in index.read_text()
    assert (index.parent / "report.md").read_text().startswith("# Nightly")


def test_an_earlier_report_is_replaced(tmp_path: Path) -> None:
    render([timed("ssa-triton", 8192, "fwd", 1.0)], tmp_path / "report")
    index = render(cpu_sweep((512,)), tmp_path / "report")
    assert CPU.device in index.read_text()
    assert GPU.device not in index.read_text()
    assert not list((index.parent / "figures").glob("*bfloat16*"))
    assert [entry.name for entry in tmp_path.iterdir()] == ["report"]


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(
        ValueError, match=r"out must be a new or empty folder or an earlier report, but .* holds thesis\.tex"
    ):
        render(cpu_sweep((512,)), tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_failed_report_leaves_the_earlier_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = render(cpu_sweep((512,)), tmp_path / "report")
    before = index.read_text()

    def full(*_: object) -> str:
        raise OSError("disk full")

    monkeypatch.setattr("reports.render.to_latex", full)
    with pytest.raises(OSError, match="disk full"):
        render([timed("ssa-triton", 8192, "fwd", 1.0)], tmp_path / "report")
    assert index.read_text() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["report"]


def test_no_records_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="records must hold at least one record"):
        render([], tmp_path / "report")


def test_a_shifted_window_is_part_of_the_description(tmp_path: Path) -> None:
    plain = timed("ssa-triton", 8192, "fwd", 1.0, shape=SHAPE.model_copy(update={"window_shift": 0}))
    assert "windows 8³." in page_text([plain], tmp_path)
    assert "windows 8³ shifted by 4." in page_text([timed("ssa-triton", 8192, "fwd", 1.0)], tmp_path)
