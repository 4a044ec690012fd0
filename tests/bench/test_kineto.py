"""Reading a trace of torch's profiler: two marked calls of a backward pass, made by hand in Kineto's format."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.kineto import CALL, DeviceWork, base_name, read_trace

TRACE = Path(__file__).parent / "samples" / "kineto_trace.json"


def short(work: DeviceWork) -> str:
    return work.name if work.registers is None else base_name(work.name)


def test_device_work_of_the_calls_is_grouped_by_kernel_and_resources() -> None:
    trace = read_trace(TRACE.read_bytes())
    assert trace.calls == 2
    assert [(short(work), work.launches, work.milliseconds) for work in trace.work] == [
        ("_segment_dkv_kernel", 2, pytest.approx(2.1)),
        ("_segment_dq_kernel", 4, pytest.approx(1.2)),
        ("vectorized_elementwise_kernel", 2, pytest.approx(0.021)),
        ("Memcpy DtoH (Device -> Pageable)", 2, pytest.approx(0.004)),
    ]
    dkv, dq, _, copy = trace.work
    assert (dkv.programs, dkv.threads, dkv.registers, dkv.shared_bytes) == (4096, 128, 168, 49152)
    assert dq.programs == 200  # of the larger launch
    assert (copy.programs, copy.threads, copy.registers, copy.shared_bytes) == (None, None, None, None)


def test_what_happens_between_the_calls_does_not_count() -> None:
    text = TRACE.read_text()
    assert "Memset (Device)" in text
    trace = read_trace(text)
    assert not any("Memset" in work.name for work in trace.work)
    assert trace.synchronizations == {"cudaStreamSynchronize": 2}  # the cudaDeviceSynchronize are outside


def test_work_without_a_launch_is_counted_apart() -> None:
    trace = read_trace(TRACE.read_bytes())
    assert trace.without_launch == 1
    assert not any(work.name == "_lost_kernel" for work in trace.work)


def test_variants_of_a_kernel_with_other_resources_are_apart() -> None:
    content = json.loads(TRACE.read_text())
    (first, *_) = (event for event in content["traceEvents"] if event["name"] == "_segment_dq_kernel")
    first["args"]["registers per thread"] = 128
    found = [(work.registers, work.launches) for work in read_trace(json.dumps(content)).work if "dq" in work.name]
    assert sorted(found, key=str) == [(128, 1), (255, 3)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("not json", "not a Chrome trace"),
        ("[]", "not a Chrome trace"),
        ("{}", "not a Chrome trace"),
        ('{"traceEvents": []}', f"no call marked '{CALL}'"),
    ],
)
def test_another_file_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_trace(text)


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("_segment_dq_kernel", "_segment_dq_kernel"),
        ("void at::native::(anonymous namespace)::fill<int>(int*)", "fill"),
        ("void cutlass::Kernel2<cutlass_80_wmma<32, (int)4>>(cutlass_80_wmma::Params)", "Kernel2"),
        ("sm90_xmma_gemm_bf16bf16_tn_n_tilesize128x128x64", "sm90_xmma_gemm_bf16bf16_tn_n_tilesize128x128x64"),
    ],
)
def test_base_names_are_those_that_ncu_filters(name: str, base: str) -> None:
    assert base_name(name) == base
