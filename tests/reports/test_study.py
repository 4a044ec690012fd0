"""Grouping of records, and the questions asked of a group."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from records_factory import CPU, GPU, SHAPE, correctness, cpu_sweep, gpu_sweep, law, missing, timed, workload

from bench.records import Record, TensorError
from reports.study import group, worst_error_ratio


def test_only_comparable_records_share_a_study() -> None:
    base = timed("ssa-triton", 8192, "fwd", 1.0)
    others = [
        timed("ssa-triton", 8192, "fwd", 1.0, environment=CPU),
        timed("ssa-triton", 8192, "fwd", 1.0, shape=SHAPE.model_copy(update={"dtype": "float32"})),
        timed("ssa-triton", 8192, "fwd", 1.0, workload=workload(8192, name="sphere")),
        timed("ssa-triton", 8192, "fwd", 1.0, workload=workload(8192, seed=1)),
    ]
    same = timed("ssa-triton", 16384, "fwd", 2.0)
    studies = group([base, *others, same])
    assert [study.number for study in studies] == [1, 2, 3, 4, 5]
    assert studies[0].tokens == [8192, 16384]


def test_studies_that_differ_by_a_version_alone_are_called_by_it() -> None:
    newer = GPU.model_copy(update={"triton": "3.9.0", "fingerprint": "another"})
    without = GPU.model_copy(update={"triton": None, "fingerprint": "a third"})
    here, there, nowhere, other = group(
        [
            timed("ssa-triton", 8192, "fwd", 1.0),
            timed("ssa-triton", 8192, "fwd", 2.0, environment=newer),
            timed("ssa-eager", 8192, "fwd", 2.0, environment=without),
            timed("ssa-triton", 8192, "fwd", 2.0, environment=newer, workload=workload(8192, name="sphere")),
        ]
    )
    assert [study.particulars.removeprefix(other.particulars) for study in (here, there, nowhere)] == [
        f", Triton {GPU.triton}",
        ", Triton 3.9.0",
        ", no Triton",
    ]
    assert other.particulars.endswith(GPU.device)
    assert [study.tags["device"] for study in (there, other)] == [f"{GPU.device}, Triton 3.9.0", GPU.device]


def captured(tokens: int, digest: str, ms: float = 1.0) -> Record:
    return timed("ssa-triton", tokens, "fwd", ms, workload=workload(tokens, inputs=f"captured:{digest}"))


def test_captured_inputs_are_never_merged_with_random_ones() -> None:
    random, other = group([timed("ssa-triton", 8192, "fwd", 2.0), captured(8192, "abc")])
    assert (random.workload, random.captured, random.time("ssa-triton", "fwd", 8192)) == ("gyroid", [], 2.0)
    assert (other.workload, other.captured, other.time("ssa-triton", "fwd", 8192)) == ("gyroid, captured", ["abc"], 1.0)
    assert other.slug == "2-gyroid-captured-bfloat16"


def test_files_of_several_sizes_are_one_sweep() -> None:
    (study,) = group([captured(16384, "def"), captured(8192, "abc")])
    assert (study.tokens, study.captured) == ([8192, 16384], ["abc", "def"])


def test_two_files_of_one_size_are_two_studies() -> None:
    studies = group([captured(8192, "abc", 1.0), captured(16384, "def", 2.0), captured(8192, "123", 3.0)])
    assert [(study.workload, study.tokens) for study in studies] == [
        ("gyroid, captured abc", [8192]),
        ("gyroid, captured def", [16384]),
        ("gyroid, captured 123", [8192]),
    ]


EIGHT = SHAPE.model_copy(update={"compression_block": 8})


def test_dense_attention_serves_every_block_structure() -> None:
    four, eight = group(
        [
            timed("ssa-triton", 8192, "fwd", 2.0),
            timed("dense-sdpa-flash", 8192, "fwd", 9.0),
            timed("ssa-triton", 8192, "fwd", 1.0, shape=EIGHT),
        ]
    )
    assert (four.shape, eight.shape) == (SHAPE, EIGHT)
    assert four.time("dense-sdpa-flash", "fwd", 8192) == eight.time("dense-sdpa-flash", "fwd", 8192) == 9.0
    assert eight.time("ssa-triton", "fwd", 8192) == 1.0
    assert four.superseded == eight.superseded == 0


def test_a_measurement_of_its_own_goes_before_a_newer_one_of_another_structure() -> None:
    newer = datetime(2026, 2, 1, tzinfo=UTC)
    _, eight = group(
        [
            timed("dense-sdpa-flash", 8192, "fwd", 9.0, created=newer),
            timed("ssa-triton", 8192, "fwd", 2.0),
            timed("ssa-triton", 8192, "fwd", 1.0, shape=EIGHT),
            timed("dense-sdpa-flash", 8192, "fwd", 8.0, shape=EIGHT),
        ]
    )
    assert eight.time("dense-sdpa-flash", "fwd", 8192) == 8.0


def test_what_serves_another_study_is_none_of_its_own() -> None:
    wider = SHAPE.model_copy(update={"topk": 16})
    dense = timed("dense-sdpa-flash", 8192, "fwd", 9.0, shape=EIGHT)
    assert [study.shape for study in group([dense, timed("ssa-triton", 8192, "fwd", 2.0)])] == [SHAPE]
    assert [study.shape for study in group([dense])] == [EIGHT]
    # Native sparse attention hangs on the top-k.
    nsa = timed("nsa-triton", 8192, "fwd", 3.0, shape=wider)
    assert [study.shape for study in group([nsa, timed("ssa-triton", 8192, "fwd", 2.0)])] == [wider, SHAPE]


def test_nothing_is_lent_to_other_heads_inputs_or_machines() -> None:
    fewer = SHAPE.model_copy(update={"heads": 16, "kv_heads": 1, "head_dim": 64})
    borrowers = [
        timed("ssa-triton", 8192, "fwd", 1.0, shape=fewer),
        timed("ssa-triton", 8192, "fwd", 1.0, environment=CPU),
        captured(8192, "abc"),
    ]
    studies = group([timed("dense-sdpa-flash", 8192, "fwd", 9.0), *borrowers])
    assert [study.providers for study in studies] == [["dense-sdpa-flash"], *[["ssa-triton"]] * 3]


def test_the_newest_of_repeated_measurements_counts() -> None:
    new = timed("ssa-triton", 8192, "fwd", 1.0, created=datetime(2026, 2, 1, tzinfo=UTC))
    old = timed("ssa-triton", 8192, "fwd", 9.0)
    (study,) = group([new, old])
    assert study.time("ssa-triton", "fwd", 8192) == 1.0
    assert study.superseded == 1


def test_flash_attention_2_is_the_baseline_even_if_another_is_faster() -> None:
    (study,) = group(gpu_sweep())
    assert study.baseline == "dense-sdpa-flash"
    assert study.fastest_dense("fwd", 8192) == "dense-sdpa-cudnn"


def test_without_flash_attention_2_the_fastest_dense_provider_is_the_baseline() -> None:
    (study,) = group(gpu_sweep(without=("dense-sdpa-flash",)))
    assert study.baseline == "dense-sdpa-cudnn"
    assert not study.has_flash_attention_2


def test_the_subject_is_the_best_ssa_that_ran() -> None:
    assert group(gpu_sweep())[0].subject == "ssa-triton"
    assert group(cpu_sweep())[0].subject == "ssa-eager"
    assert group([missing("ssa-triton", 8192, "fwd", "error", "it broke")])[0].subject is None


def test_speedup_is_time_of_the_other_over_time_of_ours() -> None:
    (study,) = group(gpu_sweep())
    expected = law("dense-sdpa-flash", 65536, "bwd") / law("ssa-triton", 65536, "bwd")
    assert study.speedup("ssa-triton", "bwd", 65536, "dense-sdpa-flash") == pytest.approx(expected)
    assert study.speedup("dense-sdpa-math", "bwd", 65536, "dense-sdpa-flash") is None


def test_comparison_is_made_at_the_most_tokens_both_reached() -> None:
    records = [timed("ssa-triton", n, "fwd", 1.0) for n in (1024, 2048, 4096)]
    records += [timed("dense-sdpa-flash", n, "fwd", 2.0) for n in (1024, 2048)]
    found = group(records)[0].largest_common("fwd")
    assert found is not None
    assert (found.tokens, found.speedup) == (2048, 2.0)


@given(exponent=st.floats(0.2, 3.0), scale=st.floats(1e-6, 1e-2))
def test_a_power_law_gets_its_exponent_back(exponent: float, scale: float) -> None:
    records = [timed("ssa-triton", n, "fwd", scale * n**exponent) for n in (1024, 4096, 8192)]
    fit = group(records)[0].fit("ssa-triton", "fwd")
    assert fit is not None
    assert fit.exponent == pytest.approx(exponent, rel=1e-6)
    assert (fit.points, fit.smallest, fit.largest) == (3, 1024, 8192)


def test_one_token_count_has_no_exponent() -> None:
    assert group([timed("ssa-triton", 1024, "fwd", 1.0)])[0].fit("ssa-triton", "fwd") is None


def test_the_worst_tensor_decides_the_error_ratio() -> None:
    record = timed("ssa-triton", 1024, "fwd", 1.0, correctness=correctness(error=0.004, budget=0.005))
    assert worst_error_ratio(record) == pytest.approx(0.8)


def test_a_nan_error_is_worse_than_any_budget() -> None:
    tensors = [TensorError(name="o", error=float("nan"), budget=1.0)]
    failed = correctness().model_copy(update={"passed": False, "tensors": tensors})
    record = missing("ssa-triton", 1024, "fwd", "failed_check", "o is NaN", correctness=failed)
    assert worst_error_ratio(record) == float("inf")
